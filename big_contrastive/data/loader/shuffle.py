"""Maps positions of the endless shuffled stream to records.

The mapping has random access and depends on seed and position alone. Every
source is shuffled as a whole, epoch after epoch, without being read.
"""

import fractions
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from big_contrastive.data.source import Source

# Positions of the stream, int64 [n] -> record numbers, int64 [n].
Order = Callable[[np.ndarray], np.ndarray]
_ROUNDS = 8


def stream(source: Source, seed: int) -> Order:
  """Returns the mapping from positions of the endless stream to records.

  Args:
    source: each source of a mixture has its own epochs; for a source with
      `blocks` see Blocks.
    seed: of the order.
  """
  if not source.sources:
    return _single(source, seed)
  starts = np.cumsum([0, *map(len, source.sources)])
  # A source's order doesn't depend on the others.
  streams = [stream(inner, seed + k) for k, inner in enumerate(source.sources)]
  return Mixed(streams, starts[:-1].tolist(), source.weights)


def _single(source: Source, seed: int) -> Order:
  sizes = source.blocks
  if sizes is not None and sizes.sum() > source.window:
    return Blocks(sizes, source.window, seed)
  return Shuffled(len(source), seed)


def in_blocks(source: Source) -> bool:
  """Returns whether a source, or a source of a mixture, is read in blocks."""
  if not source.sources:
    return source.blocks is not None
  return any(map(in_blocks, source.sources))


class Shuffled:
  """Every record once per epoch, each epoch in a new order; nothing is stored.

  A Feistel network that adds hashes of one half to the other, modulo the sizes
  of the halves (Black and Rogaway, "Ciphers with arbitrary finite domains",
  2002), for all positions of a batch at once.

  Args:
    size: records.
    seed: of the order.
  """

  def __init__(self, size: int, seed: int):
    self.size, self.seed = size, seed
    # halves[0] * halves[1] is size or a little more: values beyond size pass
    # the network again until they are below it.
    side = math.isqrt(size - 1) + 1
    self.halves = np.array([side, -(-size // side)], np.uint64)

  def __call__(self, positions: np.ndarray) -> np.ndarray:
    epochs, places = np.divmod(
      positions.astype(np.uint64), np.uint64(self.size)
    )
    keys = _hash(_hash(np.uint64(self.seed % 2**64)) + epochs)
    numbers = self._network(places, keys)
    while (beyond := numbers >= self.size).any():
      numbers[beyond] = self._network(numbers[beyond], keys[beyond])
    return numbers.astype(np.int64)

  def _network(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    ahead, behind = np.divmod(values, self.halves[1])  # ahead < halves[0].
    for i in range(_ROUNDS):
      noise = _hash(behind + keys + np.uint64(i << 48))
      mixed = (ahead + noise % self.halves[i % 2]) % self.halves[i % 2]
      ahead, behind = behind, mixed
    return ahead * self.halves[1] + behind


def _hash(values: np.ndarray | np.uint64) -> Any:
  """The finalizer of SplitMix64: each of 64 bits depends on all bits."""
  with np.errstate(over="ignore"):
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Mixed:
  """Streams taken in turn, by weight: position -> record of the mixture.

  After any number of positions, each stream has had its share of them, up to
  an error below the number of streams.

  Args:
    streams: endless.
    starts: offsets added to the record numbers of each stream.
    weights: shares, positive.
  """

  def __init__(
    self,
    streams: Sequence[Order],
    starts: Sequence[int],
    weights: Sequence[float],
  ):
    self.streams, self.starts = streams, starts
    shares = [fractions.Fraction(str(w)) for w in weights]
    scale = np.lcm.reduce([s.denominator for s in shares])
    self.shares = [int(s * int(scale)) for s in shares]

  def __call__(self, positions: np.ndarray) -> np.ndarray:
    picked = np.array([pick(p, self.shares) for p in positions.tolist()])
    numbers = np.empty(len(positions), np.int64)
    for k, (start, one) in enumerate(
      zip(self.starts, self.streams, strict=True)
    ):
      rows = picked[:, 0] == k
      numbers[rows] = start + one(picked[rows, 1])
    return numbers


def pick(position: int, shares: Sequence[int]) -> tuple[int, int]:
  """Returns the stream that a position belongs to, and the position in it."""
  left = sum(shares)
  for k, share in enumerate(shares):
    # How many positions before this one, and before the next one, belong to
    # later streams.
    before, after = (
      p * (left - share) // left for p in (position, position + 1)
    )
    if before == after:
      return k, position - before
    position, left = before, left - share
  raise ValueError(f"no shares: {shares}")


class Blocks:
  """Shuffles blocks, and records among the blocks of a window.

  For sources that read whole blocks, like Parquet row groups, of which only
  some fit into memory: an epoch reads each block once.

  Args:
    sizes: records in each block.
    window: about how many records a window has.
    seed: of the order.
  """

  def __init__(self, sizes: np.ndarray, window: int, seed: int):
    self.sizes, self.window, self.seed = sizes, window, seed % 2**64
    self.size = int(sizes.sum())

  def __call__(self, positions: np.ndarray) -> np.ndarray:
    return np.array([self._at(p) for p in positions.tolist()], np.int64)

  def _at(self, position: int) -> int:
    epoch, place = divmod(position, self.size)
    order, ends = _epoch(self, epoch)
    k = int(np.searchsorted(ends, place, "right"))
    return int(_window(self, epoch, k)[place - (ends[k - 1] if k else 0)])

  @functools.cached_property
  def starts(self) -> np.ndarray:
    return np.cumsum(self.sizes) - self.sizes


@functools.lru_cache(maxsize=4)
def _epoch(blocks: Blocks, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
  """The blocks of each window, and where each window ends."""
  order = np.random.default_rng([blocks.seed, epoch]).permutation(
    len(blocks.sizes)
  )
  sizes = blocks.sizes[order]
  windows = (np.cumsum(sizes) - sizes) // blocks.window
  cuts = np.flatnonzero(np.diff(windows)) + 1
  return np.split(order, cuts), np.cumsum(
    [part.sum() for part in np.split(sizes, cuts)]
  )


@functools.lru_cache(maxsize=8)
def _window(blocks: Blocks, epoch: int, k: int) -> np.ndarray:
  """The records of a window, shuffled."""
  order, _ = _epoch(blocks, epoch)
  records = np.concatenate(
    [blocks.starts[b] + np.arange(blocks.sizes[b]) for b in order[k]]
  )
  rng = np.random.default_rng([blocks.seed, epoch, k])
  return rng.permutation(records)
