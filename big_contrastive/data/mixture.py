"""Several sources as one, each with its weight and its own preprocessing."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from big_contrastive.data.files import fields
from big_contrastive.data.source import Preprocess, Source


@dataclasses.dataclass
class Mixture(Source):
  """The records of all sources, one source after the other.

  Training takes the sources in turn, by weight, each in epochs of its own: see
  shuffle.stream. Evaluation sees every record once. Labels are those of the
  sources; if the sources have different classes, records have no labels.

  Args:
    sources: of any kind.
    weights: positive; each source's share of the training examples.
    ops: training preprocessing of each source; None for the config's.
    shared: whether equal ids in different sources mean the same concept; if
      not, ids are offset by source.
  """

  sources: Sequence[Source] = dataclasses.field()
  weights: Sequence[float] = dataclasses.field()
  ops: Sequence[Preprocess | None] = dataclasses.field()
  shared: bool = False

  def __post_init__(self):
    self._ends = list(itertools.accumulate(map(len, self.sources)))
    classes = [source.classes for source in self.sources]
    self._same = all(names == classes[0] for names in classes)
    self.classes = classes[0] if self._same else None

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    k, inner = fields.place(index, self._ends)
    record = self.sources[k][inner]
    if not self._same:
      record = {k: v for k, v in record.items() if k != "label"}
    if self.shared:
      return record
    step = 2**31 // len(self.sources)
    return record | {"id": (record["id"] + k * step) % 2**31}

  def preprocess(self, index: int) -> Preprocess | None:
    """Returns the preprocessing of a record's source; None for the config's."""
    k, inner = fields.place(index, self._ends)
    return self.sources[k].preprocess(inner) or self.ops[k]

  def after(self, index: int) -> int:
    """Returns the record that replaces a bad one: the next of its source."""
    k, inner = fields.place(index, self._ends)
    return index - inner + self.sources[k].after(inner)

  def name(self, index: int) -> str:
    """Returns a name by which a person can find the record."""
    k, inner = fields.place(index, self._ends)
    return f"source {k}, {self.sources[k].name(inner)}"

  def uid(self, index: int) -> str | None:
    """Returns the record's uid, if its source has uids."""
    k, inner = fields.place(index, self._ends)
    return self.sources[k].uid(inner)
