"""Preprocessing of images that are embedded already: one of their views."""

import dataclasses
import json

import numpy as np

from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.transforms.pipeline import Rng


@dataclasses.dataclass(frozen=True)
class Vectors:
  """(float32 [views, d], rng) -> float32 [d]: a view drawn at random.

  Without rng, in evaluation, the first.

  Args:
    size: (d,).
  """

  size: tuple[int]

  def __call__(self, data: np.ndarray, rng: Rng = None) -> np.ndarray:
    if not isinstance(data, np.ndarray) or data.shape[1:] != self.size:
      message = f"no vectors of {self.size[0]} numbers: {type(data).__name__}"
      raise BadRecord("type", message)
    return data[0 if rng is None else rng.integers(len(data))]

  def blank(self) -> np.ndarray:
    """Returns a vector of the shape and dtype of all."""
    return np.zeros(self.size, np.float32)

  def described(self) -> str:
    """Returns what it does, as JSON."""
    return json.dumps(["vectors", self.size])
