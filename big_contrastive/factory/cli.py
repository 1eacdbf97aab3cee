"""What the commands share: flags, config files, and how errors are told."""

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from big_contrastive.config import errors, files
from big_contrastive.parallel import heartbeat, signals


def main(run: Callable[[], Any]) -> None:
  """Runs a command: exit code 0 when it finished, see `errors` for others.

  What a user can mend is printed as one line, without a traceback.
  """
  logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    run()
  except errors.UserError as e:
    _end(f"error: {e}", errors.WRONG_INPUT)
  except errors.RunError as e:
    _end(f"error: {e}", e.code)
  except MemoryError as e:  # The host's; what a device has: below.
    told = f"error: {e or 'out of memory'}. Lower the batch size."
    _end(told, errors.WRONG_INPUT)
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
    collective = isinstance(e, jax.errors.JaxRuntimeError)
    dead = heartbeat.suspect() if collective else None
    if dead:
      _end(f"error: {dead}", dead.code)
    traceback.print_exc()
    _end(f"error: {type(e).__name__}: {e}", 1)
  finally:
    signals.end_no_more()


# The disk is full, the quota used up, the file too large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# A path where the user may not write or read, or that is no folder.
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)

# How XLA says that a device's memory is used up.
_FULL_DEVICE = "RESOURCE_EXHAUSTED"


def _end(line: str, code: int) -> NoReturn:
  print(line, file=sys.stderr, flush=True)
  if jax.distributed.is_initialized():
    heartbeat.leave(line, code)
  sys.exit(code)


def parser(description: str) -> argparse.ArgumentParser:
  """Returns a parser with what every command has: --distributed.

  A flag that is given twice, or nothing, is an error: argparse would take the
  last, and a path that is "" is the folder where one happens to be.
  """
  p = argparse.ArgumentParser(
    description=description, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.register("action", None, _Once)
  p.add_argument(
    "--distributed",
    action="store_true",
    help="several processes: jax.distributed finds them on TPU pods, Slurm and "
    "by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID",
  )
  return p


class _Once(argparse.Action):
  """Stores a value, once, if there is one."""

  _given = False

  def __call__(
    self,
    parser: argparse.ArgumentParser,
    namespace: argparse.Namespace,
    values: Any,
    option_string: str | None = None,
  ) -> None:
    if self._given:
      parser.error(f"{option_string} is given twice; expected once")
    if values == "":
      parser.error(f"{option_string} = ''; expected a value")
    self._given = True
    setattr(namespace, self.dest, values)


def model_parser(description: str) -> argparse.ArgumentParser:
  """Returns a parser of what a command needs that runs a model over data."""
  p = parser(description)
  formats = "workdir or step of ours; Hugging Face or OpenCLIP directory; .npz"
  p.add_argument("--checkpoint", required=True, help=formats)
  p.add_argument(
    "--tokenizer", type=files.literal,
    help="as config.tokenizer, for a model that has none",
  )  # fmt: skip
  p.add_argument("--data", required=True, help="SOURCE:VALUE,KEY=VALUE,...")
  p.add_argument("--batch_size", type=_positive, default=64)
  return p


def _positive(text: str) -> int:
  whole = text.isdecimal() and len(text) < 10
  if not whole or not 1 <= int(text) <= 2**20:
    raise argparse.ArgumentTypeError(f"{text!r}; expected 1 to {2**20}")
  return int(text)


def number(text: str) -> float:
  """Returns a flag's number, finite and not below 0."""
  value = float(text)
  if not 0 <= value < float("inf"):
    raise argparse.ArgumentTypeError(f"{text!r}; expected a number >= 0")
  return value


def start(distributed: bool) -> None:
  """Sets up JAX; with several processes, waits until all are there."""
  if distributed:
    given = {
      "coordinator_address": os.environ.get("JAX_COORDINATOR_ADDRESS"),
      "num_processes": _number("JAX_NUM_PROCESSES"),
      "process_id": _number("JAX_PROCESS_ID"),
    }
    # Who hears SIGTERM is said in signals.py.
    jax.config.update("jax_enable_preemption_service", False)
    try:
      jax.distributed.initialize(**given)
    except ValueError as e:
      allowed = "several processes that JAX finds, or the JAX_ variables"
      remedy = f"See launch/. It says: {e}"
      raise errors.UserError("--distributed", given, allowed, remedy) from e
    heartbeat.start()


def _number(variable: str) -> int | None:
  value = os.environ.get(variable)
  if value is None:
    return None
  if not value.isdigit():
    remedy = "Set all three JAX_ variables or none."
    raise errors.UserError(variable, value, "a number", remedy)
  return int(value)
