"""Shared by the commands: flags, exit codes, and printing of errors."""

import argparse
import ast
import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from big_contrastive.config import errors, files
from big_contrastive.parallel import heartbeat, signals


def main(run: Callable[[], Any]) -> None:
  """Runs a command; exits with a code from `errors` if it fails.

  An error that the user can fix is printed as one line, without a traceback.
  """
  logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    run()
  except errors.UserError as e:
    _end(f"error: {e}", errors.WRONG_INPUT)
  except errors.RunError as e:
    _end(f"error: {e}", e.code)
  except BrokenPipeError:  # As in `train --fields | head`.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
  except MemoryError as e:  # The host's; for a device's, see below.
    line = f"error: {e or 'out of memory'}. Lower the batch size."
    _end(line, errors.WRONG_INPUT)
  except OSError as e:
    if e.errno in _DENIED and e.filename:
      _end(f"error: {e}", errors.WRONG_INPUT)
    if e.errno not in _FULL:
      raise
    _end(f"error: {e}. Make room and run again.", errors.WRONG_INPUT)
  except Exception as e:
    if isinstance(e, jax.errors.JaxRuntimeError) and _FULL_DEVICE in str(e):
      first = str(e).strip().splitlines()[0][:300]
      _end(f"error: {first}. {errors.SMALLER}", errors.WRONG_INPUT)
    if not jax.distributed.is_initialized():
      raise
    # Where a collective begins, JAX raises ValueError for the same.
    collective = isinstance(e, jax.errors.JaxRuntimeError) or _GLOO in str(e)
    dead = heartbeat.suspect() if collective else None
    if dead:
      _end(f"error: {dead}", dead.code)
    traceback.print_exc()
    _end(f"error: {type(e).__name__}: {e}", 1)
  finally:
    signals.end_no_more()


# The disk is full, the quota used up, the file too large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# A path that may not be read or written, or that is not a directory.
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)

# How XLA says that a device's memory is used up.
_FULL_DEVICE = "RESOURCE_EXHAUSTED"

# Which carries CPU's collectives.
_GLOO = "Gloo "


def _end(line: str, code: int) -> NoReturn:
  print(line, file=sys.stderr, flush=True)
  if jax.distributed.is_initialized():
    heartbeat.leave(line, code)
  sys.exit(code)


class _Parser(argparse.ArgumentParser):
  """Reports a wrong flag as errors.UserError, in one line without the usage."""

  def error(self, message: str) -> NoReturn:
    thing, value, expected = "arguments", message, "flags that --help lists"
    if match := re.fullmatch(_REQUIRED, message):
      thing, value, expected = match[1], None, "a value"
    elif match := re.fullmatch(_NO_VALUE, message):
      thing, value, expected = f"value of {match[1]}", None, "one after it"
    elif match := re.fullmatch(_INVALID, message):
      thing, value = match[1], ast.literal_eval(match[3])
      expected = {"int": "an integer"}.get(match[2], f"a {match[2]}")
    elif match := re.fullmatch(_OUT_OF_RANGE, message):
      thing, value, expected = match[1], ast.literal_eval(match[2]), match[3]
    elif match := re.fullmatch(_UNKNOWN, message):
      thing, value, expected = "argument", match[1], "a flag of this command"
    raise errors.UserError(thing, value, expected, "See --help.")


# The messages of argparse; the fourth is that of `_positive` and `number`.
_REQUIRED = r"the following arguments are required: ([^,]+).*"
_NO_VALUE = r"argument (\S+): expected (?:at least )?one argument"
_INVALID = r"argument (\S+): invalid (\w+) value: ('.*'|\".*\")"
_OUT_OF_RANGE = r"argument (\S+): ('.*'|\".*\"); expected (.*)"
_UNKNOWN = r"unrecognized arguments: (.*)"


def parser(description: str) -> argparse.ArgumentParser:
  """Returns a parser with the flag that every command has: --distributed.

  A flag that occurs twice or has an empty value is an error: argparse would
  take the last one, and "" as a path is the current directory.
  """
  p = _Parser(
    description=description, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.register("action", None, _Once)
  p.add_argument(
    "--distributed",
    action="store_true",
    help="run as one of several processes; jax.distributed finds the others on "
    "TPU pods, under Slurm, and by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES "
    "and JAX_PROCESS_ID, unless they have been joined already",
  )
  return p


def one_of(flags: argparse.Namespace, a: str, b: str) -> None:
  """Raises UserError unless exactly one of two flags is given."""
  given = [getattr(flags, name) is not None for name in (a, b)]
  if sum(given) != 1:
    value = "both given" if all(given) else None
    thing = f"--{a} or --{b}"
    raise errors.UserError(thing, value, "one of the two", "See --help.")


def require(flags: argparse.Namespace, **expected: str) -> None:
  """Raises UserError for the first of these flags that is missing.

  For flags that only some uses of a command require.
  """
  for name, value in expected.items():
    if getattr(flags, name) is None:
      raise errors.UserError(f"--{name}", None, value, "See --help.")


class _Once(argparse.Action):
  """Stores a flag's value; a second or an empty value is an error."""

  _seen = False

  def __call__(
    self,
    parser: argparse.ArgumentParser,
    namespace: argparse.Namespace,
    values: Any,
    option_string: str | None = None,
  ) -> None:
    if self._seen:
      both = [getattr(namespace, self.dest), values]
      remedy = "Leave one out."
      raise errors.UserError(option_string, both, "one value", remedy)
    if "" in (values if isinstance(values, list) else [values]):
      raise errors.UserError(option_string, "", "a value", "See --help.")
    self._seen = True
    setattr(namespace, self.dest, values)


FORMATS = "our workdir or step, a Hugging Face or OpenCLIP directory, an .npz"


def model_parser(
  description: str, model: str = "--checkpoint", required: bool = True
) -> argparse.ArgumentParser:
  """Returns a parser with the flags of a command that runs a model on data.

  Args:
    description: of the command.
    model: the flag that names the model.
    required: whether that flag is.
  """
  p = parser(description)
  p.add_argument(model, required=required, help=FORMATS)
  p.add_argument(
    "--tokenizer", type=files.literal,
    help="like config.tokenizer, for a model without a tokenizer",
  )  # fmt: skip
  p.add_argument("--data", required=True, help="SOURCE:VALUE,KEY=VALUE,...")
  p.add_argument("--batch_size", type=_positive, default=64)
  return p


def _positive(text: str) -> int:
  is_whole = text.isdecimal() and len(text) < 10
  if not is_whole or not 1 <= int(text) <= 2**20:
    expected = f"an integer from 1 to {2**20}"
    raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
  return int(text)


def number(text: str) -> float:
  """Returns the value of a flag that takes a finite number from 0."""
  value = float(text)
  if not 0 <= value < float("inf"):
    raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 0")
  return value


def start(distributed: bool) -> None:
  """Sets up JAX; if distributed, waits for all processes.

  A launcher such as Ray Train may have joined them already.
  """
  if distributed and not jax.distributed.is_initialized():
    settings = {
      "coordinator_address": os.environ.get("JAX_COORDINATOR_ADDRESS"),
      "num_processes": _number("JAX_NUM_PROCESSES"),
      "process_id": _number("JAX_PROCESS_ID"),
    }
    # parallel/signals.py handles SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    try:
      jax.distributed.initialize(**settings)
    except ValueError as e:
      allowed = "a cluster that JAX detects, or all three JAX_ variables"
      remedy = f"See launch/. JAX says: {e}"
      raise errors.UserError("--distributed", settings, allowed, remedy) from e
  if distributed:
    heartbeat.start()


def _number(variable: str) -> int | None:
  value = os.environ.get(variable)
  if value is None:
    return None
  if not value.isdigit():
    remedy = "Set all three JAX_ variables or none."
    raise errors.UserError(variable, value, "an integer from 0", remedy)
  return int(value)
