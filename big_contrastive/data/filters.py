"""A source without the records that a filter leaves out."""

import collections
import dataclasses
import logging
import math
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data import bad_records, recaptioned
from big_contrastive.data.files import paths, uids
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import decode
from big_contrastive.storage import paths as places

_BLOCK = 2**22  # Numbers at a time.


@dataclasses.dataclass
class Filtered(Source):
  """The kept records of a source, with their kept captions.

  Args:
    source: random access to records.
    kept: int64, the numbers of the kept records, ascending.
    fits: whether a caption is kept.
    skipped: reason -> number of records that were left out.
  """

  source: Source
  kept: np.ndarray
  fits: Callable[[str], bool]
  skipped: dict[str, int] = dataclasses.field()

  def __post_init__(self):
    self.classes = self.source.classes
    if self.source.blocks is not None:
      ends = np.searchsorted(self.kept, np.cumsum(self.source.blocks))
      sizes = np.diff(ends, prepend=0)
      self.blocks, self.window = sizes[sizes > 0], self.source.window

  def __len__(self) -> int:
    return len(self.kept)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self.source[int(self.kept[index])]
    texts = record.get("text")
    if texts is None or isinstance(texts, str):
      return record
    return record | {"text": [t for t in texts if self.fits(t)]}

  def outline(self) -> list[str | bytes | memoryview]:
    """Returns the numbers of the kept records, and the source's outline."""
    return [memoryview(self.kept).cast("B"), *self.source.outline()]

  def __getstate__(self) -> dict[str, Any]:
    """A list that is mapped from a file is mapped by each process."""
    state = self.__dict__.copy()
    if isinstance(self.kept, np.memmap):
      state["kept"] = str(self.kept.filename)
    return state

  def __setstate__(self, state: dict[str, Any]) -> None:
    if isinstance(state["kept"], str):
      state["kept"] = np.load(state["kept"], mmap_mode="r")
    self.__dict__.update(state)

  def name(self, index: int) -> str:
    """Returns a name by which a person can find the record."""
    return self.source.name(int(self.kept[index]))

  def uid(self, index: int) -> str | None:
    """Returns the record's uid, if the source has uids."""
    return self.source.uid(int(self.kept[index]))


@dataclasses.dataclass(frozen=True)
class Length:
  """Whether a caption has from `least` to `most` characters."""

  least: int
  most: int

  def __call__(self, caption: str) -> bool:
    return self.least <= len(caption.strip()) <= self.most


def apply(
  source: Source,
  *,
  min_side: int = 0,
  max_aspect: float = 0.0,
  min_caption: int = 1,
  max_caption: int = 10**9,
  keep: str | None = None,
  captions: str | None = None,
  threshold: float | None = None,
) -> Filtered:
  """Returns the records that pass; epochs and evaluation are over these.

  Except for `keep` and `captions`, it reads every record once, and the header
  of its image. Records that can't be read stay: training counts them as bad.

  Args:
    source: random access to records.
    min_side: the least length of the shorter side, in pixels.
    max_aspect: the largest ratio of longer to shorter side; 0 for any.
    min_caption, max_caption: in characters; other captions are dropped, and
      records that have none left. Images without captions pass.
    keep: a file with the records to keep: a .npy with their numbers, as
      big_contrastive.keep writes it, or with their uids, as DataComp does; or
      text with one a line: their names as the log has them ("a.tar:000123"),
      the part behind the last ":", or their ids.
    captions, threshold: a folder of big_contrastive.caption, and the least
      score of its captions that take the place of a record's own; records
      without any are left out. See recaptioned.read.

  Raises:
    UserError: if nothing is left.
  """
  for name, value in (
    ("min_side", min_side), ("max_aspect", max_aspect),
    ("min_caption", min_caption), ("max_caption", max_caption),
  ):  # fmt: skip
    if not 0 <= value < math.inf:
      remedy = "Leave it out for any."
      allowed = "a number from 0 up"
      raise errors.UserError(f"filter.{name}", value, allowed, remedy)
  skipped: collections.Counter[str] = collections.Counter()
  chosen = np.arange(len(source))
  if captions is not None:
    source = recaptioned.read(source, captions, threshold)
    chosen = source.kept
    skipped.update(source.skipped)
  elif threshold is not None:
    remedy = "It is the least score of captions: set filter.captions."
    raise errors.UserError("filter.captions", None, "a folder", remedy)
  if keep is not None:
    if keep.endswith(".npy"):
      listed = numbers_in(keep, len(source), "filter.keep", source)
    else:
      listed = _listed(source, keep)
    skipped["not in the list of kept ones"] = len(source) - len(listed)
    # A list alone stays mapped from its file.
    both = captions is not None
    chosen = np.intersect1d(chosen, listed, True) if both else listed
  fits = Length(min_caption, max_caption)
  if (min_side, max_aspect, fits) != (0, 0.0, Length(1, 10**9)):

    def reason(index: int) -> str:
      return _reason(source, int(index), min_side, max_aspect, fits)

    with futures.ThreadPoolExecutor(8) as pool:
      reasons = list(pool.map(reason, chosen, chunksize=64))
    skipped.update(r for r in reasons if r)
    chosen = chosen[[not r for r in reasons]]
  if not len(chosen):
    remedy = f"Left out are: {dict(skipped)}. Allow more."
    raise errors.UserError("filter", "nothing left", "some records", remedy)
  return Filtered(source, chosen, fits, {k: n for k, n in skipped.items() if n})


def _reason(
  source: Source,
  index: int,
  min_side: int,
  max_aspect: float,
  fits: Length,
) -> str:
  """The reason to leave a record out; "" if it stays."""
  try:
    record = source[index]
    texts = record.get("text")
    texts = [texts] if isinstance(texts, str) else texts
    if texts is not None and not any(map(fits, texts)):
      return "length of the caption"
    if min_side or max_aspect:
      short, long = sorted(decode.size(record["image"]))
      if short < min_side:
        return "short side"
      if max_aspect and long > max_aspect * short:
        return "aspect"
  except (OSError, ValueError, SyntaxError) as e:
    bad_records.kind(e)
  return ""


def numbers_in(
  keep: str, count: int, thing: str, source: Source | None = None
) -> np.ndarray:
  """Returns the record numbers in a file, a memory map: it may be a billion.

  Args:
    keep: the file, NAME.npy.
    count: of all records.
    thing: the argument that holds the file's name, for errors.
    source: the records, whose uids are read if the file has uids.

  Raises:
    UserError: unless they are int64, ascending, and below the count; or uids
      of dtype "u8,u8", of which the source has some.
  """
  path = places.local(paths.find(keep, thing)[0], thing)
  try:
    numbers = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError) as e:
    allowed = "a file that big_contrastive.keep has written"
    raise errors.UserError(thing, keep, allowed, f"{e}.") from e
  value = f"{numbers.dtype} {list(numbers.shape)} in {keep}"
  if source is not None and numbers.dtype == uids.KIND and numbers.ndim == 1:
    found = uids.places(source, numbers, thing)
    message = "%s: %d of the %d uids in %s are of a record"
    logging.info(message, thing, len(found), len(numbers), keep)
    return found
  if numbers.dtype == np.int64 and numbers.ndim == 1:
    last = -1
    for start in range(0, len(numbers), _BLOCK):
      block = numbers[start : start + _BLOCK]
      if block[0] <= last or (np.diff(block) <= 0).any():
        value, last = f"numbers of {keep} that do not ascend", count
        break
      last = int(block[-1])
    if last < count:
      return numbers
    if not value.endswith("ascend"):
      value = f"record {last:,} of {count:,}, in {keep}"
  allowed = f"numbers below {count:,}, int64, ascending"
  remedy = "Is it the list of other data?"
  raise errors.UserError(thing, value, allowed, remedy)


def _listed(source: Source, keep: str) -> np.ndarray:
  lines = paths.lines(keep, "filter.keep")
  names = {line.strip() for line in lines} - {""}
  used = set()

  def is_kept(index: int) -> bool:
    name = source.name(index)
    forms = {name, name.rpartition(":")[2]}
    if name == Source.name(source, index):  # The default: a bare number.
      forms = {str(source[index]["id"])}
    matches = forms & names
    used.update(matches)
    return bool(matches)

  chosen = np.flatnonzero([is_kept(i) for i in range(len(source))])
  if lost := sorted(names - used):
    message = "filter.keep: %d lines of %s are of no record, like %r"
    logging.warning(message, len(lost), keep, lost[0])
  return chosen
