"""Where metrics go besides metrics.jsonl; each file in this folder is one.

Its class `Sink` takes the fields of config.sinks.NAME besides name, and checks
them: it raises a UserError for what is wrong, and imports its library, so that
a run that lacks it ends before anything is compiled.

All else is called in a thread of the sink's own. It may take long, or raise:
training goes on, and metrics.jsonl has every line; see training/delivery.py.
"""

import importlib
import pathlib
import types
from typing import Any, NamedTuple

import PIL.Image

from big_contrastive.config import errors


class Start(NamedTuple):
  """Where a run begins or resumes.

  Attributes:
    workdir: a folder of this machine; of a bucket's, what is copied there.
    name: the workdir's, without the folders above.
    config: the user's, JSON-serializable.
    step: steps so far.
    id: what `begin` returned when the run began; None then.
  """

  workdir: pathlib.Path
  name: str
  config: dict[str, Any]
  step: int
  id: str | None


class Sink:
  """The contract, with what may be left out.

  Attributes:
    rewinds: whether `begin` takes back lines of steps after Start.step; such
      a sink gets them again. Others get no line twice.
  """

  rewinds = False

  def __init__(self) -> None:
    """Takes the section's fields; this one has none."""

  def begin(self, start: Start) -> str | None:
    """Begins or continues; returns an id by which a resumed run finds it."""

  def write(self, step: int, numbers: dict[str, float]) -> None:
    """Writes metrics by name; they may be NaN or infinite."""
    raise NotImplementedError

  def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
    """Writes a picture; by default nothing."""

  def close(self) -> None:
    """Sends what is left."""


def library(name: str, sink: str) -> types.ModuleType:
  """Returns a sink's library.

  Raises:
    UserError: if it can't be imported.
  """
  try:
    return importlib.import_module(name)
  except Exception as e:  # It may be any code.
    thing, allowed = f"config.sinks: {name}", "a library that can be imported"
    remedy = f"pip install 'big_contrastive[{sink}]'."
    if not isinstance(e, ModuleNotFoundError):
      remedy += f" It says: {e}"
    raise errors.UserError(thing, "not there", allowed, remedy) from e
