"""What the user is told when something they gave is wrong."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """A wrong config field, data file, checkpoint or flag.

  The message is one line that names the thing, its value, what is allowed and
  what to do. The commands print it without a traceback and exit with code 2.
  """

  def __init__(self, thing: str, value: object, allowed: str, remedy: str):
    text = f"{thing} = {value!r}: allowed is {allowed}. {remedy}"
    super().__init__(" ".join(text.split()))


def closest(word: str, allowed: Iterable[str]) -> str:
  """Returns a remedy: 'Did you mean ...?' or 'Choose one of them.'"""
  near = difflib.get_close_matches(str(word), list(allowed), n=1)
  return f"Did you mean {near[0]!r}?" if near else "Choose one of them."


def choice(thing: str, value: str, allowed: Iterable[str]) -> str:
  """Returns `value` if it is one of `allowed`, else raises UserError."""
  allowed = sorted(allowed)
  if value not in allowed:
    listed = "one of " + ", ".join(allowed)
    raise UserError(thing, value, listed, closest(value, allowed))
  return value
