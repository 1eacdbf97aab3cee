"""The samples of tars: their members, captions and ids."""

import collections
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.files import fields, paths, tar_index
from big_contrastive.data.transforms.decode import ENDINGS

THING = "urls"  # The argument that holds the tars, for errors.
_CAPTIONS = ("caption", "captions", "text", "texts", "alt")

LINES = "\n"  # In place of a path in JSON.

# Sources of a field other than members.
NO_MEMBERS = ("key", "image")


def ids(
  indices: list[tar_index.Index], shard: np.ndarray, number: np.ndarray
) -> np.ndarray:
  """The ids of samples, from their names."""
  of_tars = [[fields.named(key) for key in one.keys] for one in indices]
  pairs = zip(shard.tolist(), number.tolist(), strict=True)
  return np.array([of_tars[k][i] for k, i in pairs], np.int32)


def told(
  path: str, index: tar_index.Index, choices: list[list[str]]
) -> dict[str, int]:
  """Counts what was left out of a tar, by reason; logs damage.

  Includes images with several dots in their names, whose ending is everything
  after the first dot and so is not that of an image.
  """
  if index.damage:
    logging.warning("%s is damaged: %s", path, index.damage)
  damaged = {"damaged tar (what follows the damage)": 1} if index.damage else {}
  counts = np.bincount(index.kind, minlength=len(index.kinds)).tolist()
  dotted = {
    f"image whose ending is all behind the first dot: .{kind}": count
    for kind, count in zip(index.kinds, counts, strict=True)
    if "." in kind and kind.rpartition(".")[2] in ENDINGS
    if not any(kind in kinds for kinds in choices)
  }
  return index.skipped | damaged | dotted


def rows(
  shard: int,
  index: tar_index.Index,
  choices: list[list[str]],
  captions: set[str],
  skipped: collections.Counter[str],
) -> tuple[np.ndarray, ...]:
  """shard, number, start, size of the complete samples of a tar."""
  shape = (len(index.keys), len(choices))
  start, size = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
  for column, kinds in enumerate(choices):
    for kind in reversed([k for k in kinds if k in index.kinds]):
      rows = index.kind == index.kinds.index(kind)
      start[index.sample[rows], column] = index.start[rows]
      size[index.sample[rows], column] = index.size[rows]
  columns = [i for i, k in enumerate(choices) if i and k[0] in captions]
  image = size[:, 0] >= 0
  text = (size[:, columns] >= 0).any(1)
  if not columns:  # Only images.
    text = np.ones(len(size), bool)
  for reason, there, which in (
    ("missing image", image, text), ("missing caption", text, image)
  ):  # fmt: skip
    lacking = np.flatnonzero(~there & which)
    if len(lacking):
      skipped[reason] += len(lacking)
      first = ", ".join(index.keys[i] for i in lacking[:3])
      logging.warning("%s in tar %d: %s, ...", reason, shard, first)
  if neither := int((~image & ~text).sum()):
    skipped["neither image nor caption"] += neither
  images = np.isin(
    index.kind, [index.kinds.index(k) for k in choices[0] if k in index.kinds]
  )
  if extra := int(images.sum() - image.sum()):
    skipped["second image of a sample"] += extra
  number = np.flatnonzero(image & text)
  where = np.full(len(number), shard, np.int32)
  return where, number, start[number], size[number]


def captions(
  caption: str | None,
  label: str | None,
  kinds: dict[str, None],
  tars: list[str],
  indices: list[tar_index.Index],
  names: list[str] | None,
) -> list[tuple[str, str]]:
  """The (ending, path in its JSON) that each caption is taken from."""
  if caption == fields.NO_CAPTION:
    return []
  if caption is not None:
    return [field(text, kinds) for text in caption.split("|")]
  if "txt" in kinds:
    return [("txt", "")]
  keys = _first_json(tars, indices)
  for name in _CAPTIONS:
    if name in keys:
      return [("json", name)]
  if label and names:
    return [field(label, kinds)]
  listed = ", ".join([*sorted(kinds), *(f"json:{k}" for k in keys)])
  skipped = sum(
    (collections.Counter(one.skipped) for one in indices), collections.Counter()
  )
  left = f" Left out: {dict(skipped)}." if skipped else ""
  raise errors.UserError(
    "caption", caption, "txt or json:FIELD",
    f"In the tars are: {listed or 'no files'}.{left}",
  )  # fmt: skip


def _first_json(
  tars: list[str], indices: list[tar_index.Index]
) -> dict[str, Any]:
  """The object in the first JSON member, {} if there is none."""
  for path, index in zip(tars, indices, strict=True):
    if "json" in index.kinds:
      row = int(np.argmax(index.kind == index.kinds.index("json")))
      start, size = int(index.start[row]), int(index.size[row])
      data = paths.Reader(THING).read(path, start, start + size)
      with contextlib.suppress(bad_records.BadRecord):
        return fields.parse_json(data)
  return {}


def field(text: str, kinds: dict[str, None]) -> tuple[str, str]:
  """Splits "json:outer/inner" into ("json", "outer/inner").

  Of "txt:lines" the second is LINES: each line of the member.
  """
  kind, _, field = text.strip().partition(":")
  if kind == "txt" and field == "lines":
    field = LINES
  errors.choice("member", kind, [*kinds, *NO_MEMBERS])
  if kind == "json" and not field:
    allowed = "json:FIELD"
    raise errors.UserError("member", text, allowed, "Say which field.")
  return kind, field


def uid(text: str, kinds: dict[str, None]) -> tuple[str, str]:
  """Returns where uids are, as `field` does; the key and the image are none."""
  kind, path = field(text, kinds)
  if kind in NO_MEMBERS:
    remedy = "Without a uid, list record numbers."
    raise errors.UserError("uid", text, "json:FIELD", remedy)
  return kind, path


def value(data: bytes | None, field: str, parse: Callable) -> Any:
  """Returns a member's content, or a field of its JSON, "outer/inner".

  Args:
    data: the member; None if there is none.
    field: "" for the content, LINES for a list of its lines.
    parse: fields.parse_json.
  """
  if data is None or not field:
    return data
  if field == LINES:
    return data.split(b"\n")
  inner = parse(data)
  for name in field.split("/"):
    inner = inner.get(name) if isinstance(inner, dict) else None
  return inner
