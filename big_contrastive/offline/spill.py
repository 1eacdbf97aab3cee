"""Brings together, on disk, the records that have the same key."""

import pathlib
from collections.abc import Iterator

import numpy as np

_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<i8")])


class Spill:
  """Rows (128-bit key, record number), of which a 256th is in memory at once.

  Args:
    folder: for the files.
    files: how many, a power of two.
  """

  def __init__(self, folder: pathlib.Path, files: int = 256):
    self._paths = [folder / f"{i}.rows" for i in range(files)]

  def add(self, keys: np.ndarray, numbers: np.ndarray) -> None:
    """Adds rows.

    Args:
      keys: uint64 [n, 2], of evenly distributed bits.
      numbers: int64 [n].
    """
    rows = np.empty(len(keys), _ROW)
    rows["high"], rows["low"], rows["number"] = *keys.T, numbers
    place = (keys[:, 1] % len(self._paths)).astype(np.int64)
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(len(self._paths) + 1))
    for i in np.flatnonzero(np.diff(ends)):
      with self._paths[i].open("ab") as file:
        file.write(rows[order[ends[i] : ends[i + 1]]].tobytes())

  def repeated(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (first, other): the least number of a key, and each larger one.

    Both int64 [n]; a file at a time, in no particular order.
    """
    for path in self._paths:
      if path.exists():
        rows = np.sort(np.fromfile(path, _ROW), order=_ROW.names)
        new = np.ones(len(rows), bool)
        for name in ("high", "low"):
          same = rows[name][1:] == rows[name][:-1]
          new[1:] = ~same if name == "high" else new[1:] | ~same
        first = np.flatnonzero(new)[np.cumsum(new) - 1]
        yield rows["number"][first[~new]], rows["number"][~new]
