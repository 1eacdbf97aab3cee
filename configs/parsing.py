"""The argument of a config: what follows the colon, "name=value,flag"."""

import difflib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from configs import sources

# What `smoke` has its own of; beside it they would change nothing.
SIZES = (
  "variant", "tower", "res", "batch", "epochs", "steps", "grid", "classes"
)  # fmt: skip


def arguments(
  argument: str | None, fixed: Iterable[str] = SIZES, /, **defaults: Any
) -> SimpleNamespace:
  """Returns the values of "name=value,flag", typed like the defaults.

  A piece that is neither a flag nor name=value continues the value before it:
  a list of files may have commas. After a source string such as
  "data=wds:a.tar", so does KEY=VALUE whose KEY is not in defaults: in
  "data=wds:a.tar,caption=txt,vocab=v.model" vocab is the config's own.

  Of what is returned, `given` has the names that have a value in the argument.

  Args:
    argument: the string; None for the defaults.
    fixed: what may not be given beside smoke.
    defaults: by name; of a tuple the first one, and the others are allowed.

  Raises:
    ValueError: (thing, value, expected, remedy), as of an errors.UserError, for
      a name that is not in defaults, a value of another type or not allowed.
  """
  allowed = {k: v for k, v in defaults.items() if isinstance(v, tuple)}
  defaults |= {name: of[0] for name, of in allowed.items()}
  values, last, given = dict(defaults), None, []
  for piece in (argument or "").split(",") if argument else []:
    name, equals, value = piece.partition("=")
    keyed = bool(equals) and name.isidentifier()
    if equals and name in defaults:
      values[name], last = _typed(name, value, defaults[name]), name
      given.append(name)
    elif not equals and isinstance(defaults.get(name), bool):
      values[name], last = True, None
    elif last and _goes_on(last, values[last], keyed):
      values[last] += "," + piece
    else:
      near = difflib.get_close_matches(name, defaults, n=1)
      hint = f"Did you mean {near[0]!r}?" if near else "Drop it."
      listed = "one of " + ", ".join(defaults)
      raise ValueError("argument", piece, listed, hint)
  for name, of in allowed.items():
    if values[name] not in of:
      listed = "one of " + ", ".join(map(str, of))
      raise ValueError(name, values[name], listed, "Choose one of them.")
  found = SimpleNamespace(**values, given=given)
  refuse(found, "smoke", fixed)
  return found


def refuse(arg: SimpleNamespace, flag: str, names: Iterable[str]) -> None:
  """Raises ValueError for a name that was given beside a flag that is set.

  Args:
    arg: of `arguments`.
    flag: has its own of what names stand for.
    names: some of which the config may not have.
  """
  for name in arg.given:
    if name in names and getattr(arg, flag, False):
      remedy = f"{flag} has its own. Drop one of the two."
      raise ValueError(name, getattr(arg, name), f"none beside {flag}", remedy)


def _goes_on(name: str, value: Any, keyed: bool) -> bool:
  """Whether a value takes another piece, KEY=VALUE or not."""
  of_source = name.endswith("data") and sources.is_source(value)
  return isinstance(value, str) and (of_source or not keyed)


def _typed(name: str, value: str, default: Any) -> Any:
  kind = type(default)
  if kind is bool:
    if value.lower() not in ("true", "false"):
      raise ValueError(name, value, "true or false", "Choose one of them.")
    return value.lower() == "true"
  # Sizes and counts: 0 of anything trains nothing, but local crops may lack.
  least = 0 if name == "local" else 1
  expected = {int: f"an integer from {least}", float: "a number"}.get(kind)
  try:
    typed = kind(value)
  except ValueError:
    typed = None
  if typed is None or (kind is int and typed < least):
    remedy = f"The default is {default}."
    raise ValueError(name, value, expected, remedy)
  return typed
