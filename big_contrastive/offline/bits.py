"""Hashes of many numbers at once."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def spread(x: np.ndarray) -> np.ndarray:
  """Returns uint64 of evenly distributed bits: the end of splitmix64.

  Args:
    x: uint64, of any distribution; equal ones stay equal, others others.
  """
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
