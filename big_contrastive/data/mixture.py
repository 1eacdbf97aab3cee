"""Several sources as one, each with its weight and its own preprocessing."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from big_contrastive.data.files import fields
from big_contrastive.data.loader import examples
from big_contrastive.data.source import Source


@dataclasses.dataclass
class Mixture:
  """The records of all parts, one part after the other.

  Training takes the parts in turn, by weight, each in epochs of its own: see
  shuffle.stream. Evaluation has every record once. A label is what its part
  says; where parts have different classes, there are none.

  Args:
    parts: sources.
    weights: positive; the shares of training examples.
    ops: preprocessing of each part in training, None for the config's.
    shared: whether equal ids of different parts mean the same; if not, they
      are moved apart.
  """

  parts: Sequence[Source]
  weights: Sequence[float]
  ops: Sequence[Callable[[Any, Any], np.ndarray] | None]
  shared: bool = False

  def __post_init__(self):
    self._ends = list(itertools.accumulate(map(len, self.parts)))
    classes = [getattr(part, "classes", None) for part in self.parts]
    self._same = all(names == classes[0] for names in classes)
    self.classes = classes[0] if self._same else None

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    part, own = fields.place(index, self._ends)
    record = self.parts[part][own]
    if not self._same:
      record = {k: v for k, v in record.items() if k != "label"}
    if self.shared:
      return record
    step = 2**31 // len(self.parts)
    return record | {"id": (record["id"] + part * step) % 2**31}

  def preprocess(self, index: int) -> Callable[[Any, Any], np.ndarray] | None:
    """Returns the preprocessing of a record's part, None for the usual."""
    part, own = fields.place(index, self._ends)
    inner = getattr(self.parts[part], "preprocess", lambda index: None)
    return inner(own) or self.ops[part]

  def after(self, index: int) -> int:
    """Returns the record that replaces a bad one: the next of its part."""
    part, own = fields.place(index, self._ends)
    return index - own + examples.after(self.parts[part], own)

  def name(self, index: int) -> str:
    """Returns what a person finds the record by."""
    part, own = fields.place(index, self._ends)
    return f"source {part}, {examples.name(self.parts[part], own)}"
