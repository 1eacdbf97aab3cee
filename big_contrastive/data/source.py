"""The contract of a data source.

A file of data/sources, or a file named by its path, has a function `source`
whose annotated arguments are the section of a config, or the string, that
names it; it returns a Source. Its main argument, the one that a string may
give without its name, is the first keyword-only argument without a default,
or `split` where there is none.
"""

import abc
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Batch = dict[str, Any]  # Arrays by name.
Preprocess = Callable[[Any, Any], np.ndarray]


class Source(abc.ABC):
  """Random access to the records of a data set.

  A source says how many records there are and reads any of them, from any
  thread. It is pickled once into each worker process. Everything else has a
  default, which a subclass may replace by an attribute or a method.

  A record is a dict:
    "image": an encoded image, or uint8 [h, w, 3].
    "id": an integer below 2**31, the same at each reading; pairs with equal
      ids are not each other's negatives.
    "text": a caption, or a list of captions; absent in a source that has
      only images.
    "label": the class, an integer, -1 for none; may be absent.
    "labels": a list in its place, of any length, for several classes.

  A record that can't be read raises bad_records.BadRecord, OSError or
  ValueError: training counts it and takes another, evaluation stops.

  Attributes:
    classes: names of the classes by label; None where they are not known.
    skipped: reason -> how many records were left out for it; it is logged.
    blocks: int64, how many records each block has, where records are read in
      blocks; see shuffle.Blocks.
    window: how many records the blocks that fit into memory have together.
    sources: of a mixture, its sources, whose records are concatenated.
    weights: of a mixture, each source's share of the training examples.
    ops: of a mixture, each source's own preprocessing, or None.
  """

  classes: Sequence[str] | None = None
  skipped: Mapping[str, int] = types.MappingProxyType({})
  blocks: np.ndarray | None = None
  window: int = 0
  sources: Sequence["Source"] = ()
  weights: Sequence[float] = ()
  ops: Sequence[Preprocess | None] = ()

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of records."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns a record, 0 <= index < len(self)."""

  def name(self, index: int) -> str:
    """Returns a name by which a person can find it, like "a.tar:000123"."""
    return f"record {index}"

  def true(self, index: int, caption: str) -> bool | None:
    """Whether a caption says what is so of an image; None: nobody knows."""
    return None

  def uid(self, index: int) -> str | None:
    """Returns the record's 32 hexadecimal digits in lists like DataComp's.

    None in a source that has none.
    """
    del index
    return None

  def after(self, index: int) -> int:
    """Returns the record that replaces a bad one in training."""
    return (index + 1) % len(self)

  def outline(self) -> Iterable[str | bytes | memoryview]:
    """Returns what is known without reading images; a digest covers it."""
    return ()

  def preprocess(self, index: int) -> Preprocess | None:
    """Returns a record's own training preprocessing; None for the config's."""
    del index
    return None


class Records(Source):
  """A source of records in memory."""

  def __init__(self, records: Sequence[dict[str, Any]]):
    self._records = records

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._records[index]


def as_source(records: Source | Sequence[dict[str, Any]]) -> Source:
  """Returns a source itself, or a source of a list of records."""
  return records if isinstance(records, Source) else Records(records)
