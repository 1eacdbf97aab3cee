"""Config files, and overrides of their fields on the command line."""

import ast
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

from big_contrastive.config import errors

Config = dict[str, Any]

_PACKAGE = pathlib.Path(__file__).parents[1]
# Holds configs/: a folder of the package as installed, else the checkout.
SHIPPED = _PACKAGE / "shipped"
if not SHIPPED.is_dir():
  SHIPPED = _PACKAGE.parent


def load_config(flag: str, overrides: list[str]) -> Config:
  """Returns the config of "configs/x.py:argument" with overrides applied.

  Args:
    flag: a file with get_config(argument), see `find`, and that argument.
    overrides: "--config.batch_size=64", dots for levels, Python literals.
  """
  name, _, argument = flag.partition(":")
  config = _to_dict(_get_config(find(name))(argument or None))
  for override in overrides:
    name, equals, value = override.partition("=")
    if not name.startswith("--config.") or not equals:
      remedy = "See --help."
      allowed = "--config.FIELD=VALUE or a flag of this command"
      raise errors.UserError("argument", override, allowed, remedy)
    _set(config, name.removeprefix("--config.").split("."), literal(value))
  return config


def find(name: str) -> str:
  """Returns the path of a config file; says which, unless it is the name.

  Args:
    name: a path, or "siglip" for configs/siglip.py. A file below the current
      directory comes before one of the package.

  Raises:
    UserError: if there is none.
  """
  path = pathlib.Path(f"configs/{name}.py" if name.isidentifier() else name)
  shipped = [SHIPPED] if path.parent == pathlib.Path("configs") else []
  for root in (pathlib.Path(), *shipped):
    found = root / path
    if found.suffix == ".py" and found.is_file():
      if str(found) != name:
        print(f"config: {found}", file=sys.stderr)
      return str(found)
  here = pathlib.Path("configs").glob("*.py")
  theirs = (p.relative_to(SHIPPED) for p in SHIPPED.glob("configs/*.py"))
  remedy = errors.closest(str(path), map(str, [*here, *theirs]))
  raise errors.UserError("--config", name, "a .py that exists", remedy)


def _get_config(path: str) -> Callable[[str | None], Any]:
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
  module = importlib.util.module_from_spec(spec)
  root = str(pathlib.Path(path).resolve().parents[1])
  roots = [root, str(SHIPPED)]  # For `from configs import common`.
  sys.path[:0] = roots
  try:
    spec.loader.exec_module(module)
    module.get_config  # noqa: B018
  except Exception as e:
    allowed = "a Python file with get_config(argument)"
    remedy = _where(e)
    raise errors.UserError("--config", path, allowed, remedy) from e
  finally:
    for root in roots:
      sys.path.remove(root)

  def get_config(argument: str | None) -> Any:
    try:
      return module.get_config(argument)
    except Exception as e:
      # configs/ do not import the package: parsing.py raises a ValueError with
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
