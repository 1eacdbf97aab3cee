"""Random generators of the examples in the stream, and of their views."""

import threading
from typing import Any

import numpy as np


class Draws(threading.local):
  """A thread's random generators, reseeded for each example.

  A generator is a Philox stream keyed by the seed and the position of the
  example. Its counter begins at `block` * 2^192, so streams of different blocks
  do not overlap. Block 0 is the example's own; views have others.
  """

  def __init__(self):
    self._kept: list[tuple[np.random.Generator, dict[str, Any]]] = []

  def at(
    self, seed: int, position: int, block: int = 0, place: int = 0
  ) -> np.random.Generator:
    """Returns a generator, valid until the next call with the same place.

    Args:
      seed: below 2^64.
      position: of the example.
      block: below 2^64.
      place: any small number; generators in use at a time have different ones.
    """
    while len(self._kept) <= place:
      made = np.random.Generator(np.random.Philox(key=0))
      state: Any = made.bit_generator.state
      self._kept.append((made, state))
    rng, state = self._kept[place]
    # A new generator takes six times as long.
    state["state"]["key"][:] = seed, position
    state["state"]["counter"][3] = block
    rng.bit_generator.state = state
    return rng


DRAWS = Draws()
