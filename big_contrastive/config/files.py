"""Config files, and overrides of their fields on the command line."""

import ast
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

from big_contrastive.config import errors

Config = dict[str, Any]


def load_config(flag: str, overrides: list[str]) -> Config:
  """Returns the config of "configs/x.py:argument" with overrides applied.

  Args:
    flag: a Python file with get_config(argument), and that argument.
    overrides: "--config.batch_size=64", dots for levels, Python literals.
  """
  path, _, argument = flag.partition(":")
  if not path.endswith(".py") or not os.path.isfile(path):
    near = [str(p) for p in pathlib.Path("configs").glob("*.py")]
    remedy = errors.closest(path, near)
    raise errors.UserError("--config", path, "a .py that exists", remedy)
  config = _to_dict(_get_config(path)(argument or None))
  for override in overrides:
    name, equals, value = override.partition("=")
    if not name.startswith("--config.") or not equals:
      remedy = "See --help."
      allowed = "--config.FIELD=VALUE or a flag of this command"
      raise errors.UserError("argument", override, allowed, remedy)
    _set(config, name.removeprefix("--config.").split("."), literal(value))
  return config


def _get_config(path: str) -> Callable[[str | None], Any]:
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  module = importlib.util.module_from_spec(spec)
  root = str(pathlib.Path(path).resolve().parents[1])
  sys.path.insert(0, root)  # For `from configs import common`.
  try:
    spec.loader.exec_module(module)
    module.get_config  # noqa: B018
  except Exception as e:
    allowed = "a Python file with get_config(argument)"
    remedy = _where(e)
    raise errors.UserError("--config", path, allowed, remedy) from e
  finally:
    sys.path.remove(root)

  def get_config(argument: str | None) -> Any:
    try:
      return module.get_config(argument)
    except Exception as e:
      # configs/ do not import the package: common.py raises a ValueError with
      # the four parts of a UserError.
      if isinstance(e, ValueError) and len(e.args) == 4:
        thing, *parts = e.args
        raise errors.UserError(f"{thing} of {path}", *parts) from e
      allowed = "an argument that the file takes"
      thing = f"argument of {path}"
      raise errors.UserError(thing, argument, allowed, _where(e)) from e

  return get_config


def _where(e: Exception) -> str:
  """An error in a user's file, with its line."""
  last = traceback.extract_tb(e.__traceback__)[-1]
  return f"{type(e).__name__}: {e}, in {last.filename}:{last.lineno}."


def _to_dict(config: Any) -> Config:
  return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def _set(config: Config, keys: list[str], value: Any) -> None:
  *path, last = keys
  for i, key in enumerate(path):
    if not isinstance(config.setdefault(key, {}), dict):
      where = "config." + ".".join(keys[: i + 1])
      raise errors.UserError(
        where, config[key], "a section with fields", f"Set {where} itself."
      )
    config = config[key]
  config[last] = value


def literal(value: str) -> Any:
  """Returns a Python literal's value, or the string itself."""
  try:
    return ast.literal_eval(value)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    known = {"true": True, "false": False, "none": None}
    return known.get(value.lower(), value)
