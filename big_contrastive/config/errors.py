"""Errors that a user can act on, and the exit codes of the commands."""

import difflib
import re
from collections.abc import Iterable


class UserError(ValueError):
  """A wrong config field, data file, checkpoint or flag.

  The message is one line, "THING = VALUE; expected ALLOWED. REMEDY", or "THING
  is missing; expected ..." where the value is None. The commands print it
  without a traceback and exit with code 2.
  """

  def __init__(self, thing: str, value: object, expected: str, remedy: str):
    self._parts = thing, value, expected, remedy
    subject = f"{thing} is missing" if value is None else f"{thing} = {value!r}"
    text = f"{subject}; expected {expected}. {remedy}"
    super().__init__(" ".join(text.split()))

  def __reduce__(self) -> tuple:  # From a worker process to its parent.
    return UserError, self._parts

  def inside(self, where: str, names: Iterable[str]) -> "UserError":
    """Returns the same error with the section's name before its thing.

    Args:
      where: the section: "config.model.image".
      names: the section's fields. Another thing stays unchanged.
    """
    thing, *rest = self._parts
    first = re.split(r"[.\[ ]", thing, maxsplit=1)[0]
    if not where or first not in names:
      return self
    return UserError(f"{where}.{thing}", *rest)

  def replaced(self, old: str, new: str) -> "UserError":
    """Returns the same error with another name in its thing and its remedy."""
    thing, value, expected, remedy = self._parts
    remedy = remedy.replace(old, new)
    return UserError(thing.replace(old, new), value, expected, remedy)


class Null:
  """An explicit None as a value: UserError(x, None, ...) says it is missing."""

  def __repr__(self) -> str:
    return "None"


# The remedy where a step needs more memory than a device has.
SMALLER = (
  "Set config.micro_batch, config.mesh.fsdp or config.model.remat = "
  "'nothing_saveable', or take more devices; python -m big_contrastive.plan "
  "says what a config needs."
)

# Exit codes of the commands, besides 0 and 1. Running the command again helps
# after all of them except WRONG_INPUT and BAD_NUMBERS.
WRONG_INPUT = 2
BAD_NUMBERS = 3
PROCESS_DIED = 4
SAVED_AT_SIGTERM = 75  # EX_TEMPFAIL of sysexits.h: try again.
INTERRUPTED = 130  # SIGINT, by the convention of shells.
STOPPED = SAVED_AT_SIGTERM, INTERRUPTED


class RunError(RuntimeError):
  """A run that ends early; printed as one line.

  Args:
    message: what happened, and what to do.
    code: the exit code.
  """

  def __init__(self, message: str, code: int):
    super().__init__(message)
    self.code = code


def closest(
  word: object,
  allowed: Iterable[object],
  otherwise: str = "Choose one of them.",
) -> str:
  """Returns a remedy: 'Did you mean ...?' if one is near, else `otherwise`."""
  known = {str(value): value for value in allowed}
  near = difflib.get_close_matches(str(word), known, n=1)
  return f"Did you mean {known[near[0]]!r}?" if near else otherwise


def at_least(thing: str, value: int, least: int) -> None:
  """Raises UserError for a number below the least."""
  if value < least:
    allowed = f"a whole number from {least} up"
    raise UserError(thing, value, allowed, "Raise it.")


def choice(thing: str, value: str, allowed: Iterable[str]) -> str:
  """Returns `value` if it is one of `allowed`, else raises UserError."""
  allowed = sorted(allowed)
  if value not in allowed:
    listed = "one of " + ", ".join(allowed)
    raise UserError(thing, value, listed, closest(value, allowed))
  return value
