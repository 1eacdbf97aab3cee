"""Views: named pipelines of the same image, each with its own randomness."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from big_contrastive.config import errors, schema
from big_contrastive.data.transforms import operations
from big_contrastive.data.transforms.pipeline import Pipeline

# Other fields of a batch.
RESERVED = ("image", "text", "id", "label", "record", "index", "bad")
_MOST = 64


@dataclasses.dataclass(frozen=True)
class View:
  """A pipeline that an image goes through a number of times.

  Args:
    pipeline: from operations.parse.
    blocks: for each time, the number of its random generator at a position of
      the stream, see loader.draws. A function of the view's name and of how
      many times came before alone, so other views change nothing.
  """

  pipeline: Pipeline
  blocks: tuple[int, ...]

  @property
  def count(self) -> int:
    """How many times: its results are uint8 [count, h, w, 3]."""
    return len(self.blocks)

  @property
  def size(self) -> tuple[int, ...]:
    """Height and width of results."""
    return self.pipeline.size


def parse(views: Mapping[str, Any] | None, where: str) -> dict[str, View]:
  """Returns the views of a config by name, in its order.

  Args:
    views: {NAME: {"ops": operations, "count": how many}, ...}; None for none.
    where: the config field, for errors.

  Raises:
    UserError: for a name, a field or a pipeline that is not allowed.
  """
  parsed = {}
  for name, fields in schema.section(views or {}, where).items():
    if not name.isidentifier() or name in RESERVED:
      allowed = "an identifier other than " + ", ".join(RESERVED)
      remedy = "Name the view otherwise."
      raise errors.UserError(f"a name in {where}", name, allowed, remedy)
    at = f"{where}.{name}"
    extra = {"name": name, "where": at}
    parsed[name] = schema.call(_view, schema.section(fields, at), at, extra)
  return parsed


def _view(*, ops: list | tuple, count: int = 1, name: str, where: str) -> View:
  if not 1 <= count <= _MOST:
    allowed = f"a whole number from 1 to {_MOST}"
    raise errors.UserError("count", count, allowed, "Drop the view for none.")
  pipeline = operations.parse(ops, f"{where}.ops")
  if len(pipeline.size) != 2:
    allowed = "operations that yield images: objectives take no patches"
    remedy = "End with a resize or a crop."
    raise errors.UserError(f"{where}.ops", "naflex", allowed, remedy)
  return View(pipeline, tuple(_block(name, i) for i in range(count)))


def _block(name: str, number: int) -> int:
  digest = hashlib.blake2b(f"{name} {number}".encode(), digest_size=8)
  return int.from_bytes(digest.digest(), "little")
