"""Checks a section of a config against the function that it configures."""

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from big_contrastive.config import errors


def bind(
  fn: Callable,
  kwargs: Mapping[str, Any],
  where: str,
  extra: Mapping[str, Any] | None = None,
) -> Callable:
  """Returns functools.partial(fn, **kwargs, **extra), kwargs checked.

  Args:
    fn: a function or class; its signature is the schema. Parameters without a
      default that kwargs lacks may still be passed at the call.
    kwargs: one section of a config.
    where: that section's name, for errors: "config.optimizer".
    extra: arguments that the code passes; they are not fields of the section.

  Raises:
    UserError: for a name that fn doesn't take or a value of another type.
  """
  extra = extra or {}
  taken = [key for key in _parameters(fn) if key not in extra]
  known = hints(fn)
  for key, value in kwargs.items():
    if key not in taken:
      listed = "one of " + ", ".join(taken) if taken else "no fields"
      remedy = errors.closest(key, taken) if taken else "Leave it out."
      value = errors.Null() if value is None else value
      raise errors.UserError(f"{where}.{key}", value, listed, remedy)
    if key in known and not _is_a(value, known[key]):
      allowed, remedy = _describe(known[key], value)
      value = errors.Null() if value is None else value
      raise errors.UserError(f"{where}.{key}", value, allowed, remedy)
  return functools.partial(fn, **kwargs, **extra)


def call(
  fn: Callable,
  kwargs: Mapping[str, Any],
  where: str,
  extra: Mapping[str, Any] | None = None,
) -> Any:
  """Returns fn(**kwargs, **extra), see `bind`; missing fields are errors."""
  bound = complete(fn, kwargs, where, extra)
  try:
    return bound()
  except errors.UserError as e:
    # The function knows its arguments, but not their section of the config.
    raise e.inside(where, kwargs.keys() | _parameters(fn).keys()) from e


def complete(
  fn: Callable,
  kwargs: Mapping[str, Any],
  where: str,
  extra: Mapping[str, Any] | None = None,
) -> Callable:
  """Returns bind(...); missing fields are errors."""
  bound = bind(fn, kwargs, where, extra)
  for key, p in _parameters(fn).items():
    optional = p.default is not p.empty or p.kind in (p.VAR_KEYWORD,)
    if not optional and key not in {**kwargs, **(extra or {})}:
      remedy = f"Set {where}.{key}."
      raise errors.UserError(f"{where}.{key}", None, "a value", remedy)
  return bound


def hints(fn: Callable) -> dict[str, Any]:
  """Returns the annotations of a function's or class's parameters.

  Parameters without one, or whose annotation can't be evaluated, are left out.
  """
  fn = inspect.unwrap(_function(fn))
  annotations = {}
  for name, hint in getattr(fn, "__annotations__", {}).items():
    alone = types.SimpleNamespace(__annotations__={name: hint})
    with contextlib.suppress(Exception):  # It may be any code.
      annotations |= typing.get_type_hints(
        alone, getattr(fn, "__globals__", {})
      )
  return annotations


def section(value: Any, where: str) -> dict[str, Any]:
  """Returns a copy of a config's section, or raises UserError."""
  if not isinstance(value, Mapping):
    allowed, remedy = _describe(dict, value)
    raise errors.UserError(where, value, allowed, remedy)
  return dict(value)


def plain(value: Any) -> Any:
  """Returns a config in JSON's types: dicts, lists and scalars."""
  if hasattr(value, "items"):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  return value.item() if isinstance(value, np.generic) else value


def _function(fn: Callable) -> Callable:
  return fn.__init__ if inspect.isclass(fn) else fn


def _parameters(fn: Callable) -> dict[str, inspect.Parameter]:
  # Of __init__ itself: a metaclass such as NNX's hides it behind *args.
  taken = dict(inspect.signature(_function(fn)).parameters)
  taken.pop("self", None)
  return taken


def _is_a(value: Any, hint: Any) -> bool:
  """Whether a config value fits an annotation; unknown annotations pass."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(_is_a(value, a) for a in args)
  if origin is typing.Literal:
    return value in args
  if hint is type(None):
    return value is None
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint in (str, bool):
    return isinstance(value, hint)
  if origin is dict or hint is dict:
    return isinstance(value, Mapping)
  if origin in (tuple, list) or hint in (tuple, list):
    return isinstance(value, (tuple, list))
  return True


def _describe(hint: Any, value: Any) -> tuple[str, str]:
  """The type that is expected and the remedy, for a value of another type."""
  if typing.get_origin(hint) is typing.Literal:
    choices = typing.get_args(hint)
    listed = "one of " + ", ".join(map(repr, choices))
    return listed, errors.closest(value, choices)
  if hint is dict:
    return "a section with fields", "Give it fields, or leave it out."
  name = hint.__name__ if isinstance(hint, type) else str(hint)
  return name, f"It is of type {type(value).__name__} now."
