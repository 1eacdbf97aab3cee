"""An index of a tar's members, built once, stored and verified."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import logging
import os
import pathlib
import tempfile
import threading
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from big_contrastive.data.files import paths
from big_contrastive.data.files.tar_members import Members
from big_contrastive.storage import urls

_VERSION = 2
_PROBE = 2**15  # Bytes of each of the places that tell a tar from others.
_CACHE = "~/.cache/big_contrastive/tars"
# NumPy parses a header with `ast`. In Python 3.11 two threads that do so at
# once, while garbage is collected, cause a SystemError.
_PARSING = threading.Lock()


@dataclasses.dataclass
class Index:
  """The samples of a tar: members whose paths agree up to the first dot.

  Args:
    keys: of the samples, in order: "folder/000123".
    kinds: the endings that occur, lower case: "jpg", "txt", "seg.png".
    sample, kind, start, size: int64 [m], of each member: its sample, its index
      in `kinds`, the offset of its first byte, its number of bytes.
    skipped: reason -> number of members that were left out.
    damage: what is wrong with the tar, "" if nothing is.
  """

  keys: list[str]
  kinds: list[str]
  sample: np.ndarray
  kind: np.ndarray
  start: np.ndarray
  size: np.ndarray
  skipped: dict[str, int]
  damage: str


def load(path: str, thing: str, folder: str | None = None) -> Index:
  """Returns the index of a tar, from the stored index if it is still valid.

  It is valid for a tar of the same size and time; behind a URL, also for one of
  the same size and the same bytes at both ends and in the middle, so that tars
  may be copied into a bucket with their indices.

  Args:
    path: an uncompressed tar, or a URL of one.
    thing: the argument that holds the path, for errors.
    folder: where indices are stored; by default beside the tar where that can
      be written, else ~/.cache/big_contrastive/tars. Of a URL both.

  Raises:
    UserError: for a file that is not a tar, or a compressed one.
  """
  version = [_VERSION, *paths.version(path, thing)]
  places = _places(path, folder)
  probe = functools.cache(lambda: _probe(path, thing, version[1]))
  beside = f"{path}.index.npz"
  for place in [*places, *([beside] if urls.remote(path) else [])]:
    with contextlib.suppress(OSError):
      index = _read(place, version, probe, thing)
      if index is not None:
        if place == beside:  # The next time without a request.
          _store(places, _packed(index, version, probe()))
        return index
  index = scan(path, thing)
  content = _packed(index, version, probe())
  _store(places, content)
  if urls.remote(path):
    with contextlib.suppress(Exception):  # Of any library: it may be read-only.
      urls.system(path, thing).pipe_file(beside, content)
  return index


def _store(places: list[pathlib.Path], content: bytes) -> None:
  """Writes an index to the first place that can be written."""
  for place in places:
    try:
      _write(place, content)
      break
    except OSError as e:
      logging.debug("no index at %s: %s", place, e)


def _probe(path: str, thing: str, size: int) -> str:
  """A digest of some bytes at both ends of a tar and in its middle."""
  reader, digest = paths.Reader(thing), hashlib.sha256()
  last = max(0, size - _PROBE)
  for start in (0, last // 2, last):
    digest.update(reader.read(path, start, min(size, start + _PROBE)))
  return digest.hexdigest()


def _places(path: str, folder: str | None) -> list[pathlib.Path]:
  file_name = f"{pathlib.PurePosixPath(path).name}.index.npz"
  digest = hashlib.sha256(
    (path if urls.remote(path) else os.path.abspath(path)).encode()
  ).hexdigest()[:16]
  if folder is not None:
    return [pathlib.Path(folder).expanduser() / f"{digest}.{file_name}"]
  cached = pathlib.Path(_CACHE).expanduser() / f"{digest}.{file_name}"
  beside = [] if urls.remote(path) else [pathlib.Path(path).parent / file_name]
  return [*beside, cached]


def _read(
  place: pathlib.Path | str,
  version: list[Any],
  probe: Callable[[], str],
  thing: str,
) -> Index | None:
  """The index in a file; None if it is outdated or damaged."""
  if isinstance(place, str):
    files = urls.system(place, thing)
    if not files.exists(place):
      return None
    raw = io.BytesIO(files.cat_file(place))
  elif place.exists():
    raw = io.BytesIO(place.read_bytes())
  else:
    return None
  try:
    with _PARSING, np.load(raw, allow_pickle=False) as file:
      stored, now = file["version"].tolist(), list(map(str, version))
      if stored != now:
        if not isinstance(place, str) or stored[:2] != now[:2]:
          return None  # A file's headers are read again soon enough.
        if "probe" not in file or str(file["probe"]) != probe():
          return None
      texts = {k: file[k].tobytes().decode() for k in ("keys", "kinds")}
      index = Index(
        keys=_lines(texts["keys"]),
        kinds=_lines(texts["kinds"]),
        skipped={
          str(k): int(n) for k, n in zip(file["reasons"], file["counts"])
        },
        damage=str(file["damage"]),
        **{k: file[k] for k in ("sample", "kind", "start", "size")},
      )
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  return index if _sound(index, int(version[1])) else None


def _sound(index: Index, size: int) -> bool:
  """Whether all entries of an index are consistent and within the tar."""
  columns = [index.sample, index.kind, index.start, index.size]
  if len({len(c) for c in columns}) != 1 or any(c.ndim != 1 for c in columns):
    return False
  if not len(index.sample):
    return True
  return bool(
    all(c.dtype.kind == "i" and c.min() >= 0 for c in columns)
    and index.sample.max() < len(index.keys)
    and index.kind.max() < len(index.kinds)
    and (index.start + index.size).max() <= size
  )


def _lines(text: str) -> list[str]:
  return text.split("\n")[:-1]


def _packed(index: Index, version: list[Any], probe: str) -> bytes:
  """The content of an index's file."""
  texts = {
    name: np.frombuffer("".join(f"{x}\n" for x in lines).encode(), np.uint8)
    for name, lines in (("keys", index.keys), ("kinds", index.kinds))
  }
  file = io.BytesIO()
  np.savez(
    file,
    version=np.array(list(map(str, version))),
    probe=np.array(probe),
    damage=np.array(index.damage),
    reasons=np.array(list(index.skipped), np.str_),
    counts=np.array(list(index.skipped.values()), np.int64),
    sample=index.sample,
    kind=index.kind,
    start=index.start,
    size=index.size,
    **texts,
  )
  return file.getvalue()


def _write(place: pathlib.Path, content: bytes) -> None:
  place.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(dir=place.parent, suffix=".new")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(content)
    os.replace(name, place)  # Atomic: complete, or absent.
  except BaseException:
    os.unlink(name)
    raise


def scan(path: str, thing: str) -> Index:
  """Returns the index of a tar by reading its headers."""
  total = paths.version(path, thing)[0]
  rows: list[tuple[int, int, int]] = []  # kind, start, size
  groups: dict[tuple[str, int], dict[int, int]] = {}  # kind -> its row
  kinds: dict[str, int] = {}
  with paths.open_file(path, thing) as file:
    members = Members(file, path, thing, total)
    for name, start, size in members:
      key, kind = split(name)
      group = groups.setdefault((key, members.archive), {})
      of_kind = kinds.setdefault(kind, len(kinds))
      if of_kind in group:
        members.skipped["second member of the same name"] += 1
        continue
      group[of_kind] = len(rows)
      rows.append((of_kind, start, size))
  keys, sample = _samples(groups, len(rows))
  kind, start, size = np.array(rows, np.int64).reshape(-1, 3).T.copy()
  return Index(
    keys, list(kinds), sample, kind, start, size, dict(members.skipped),
    members.damage,
  )  # fmt: skip


def _samples(
  groups: dict[tuple[str, int], dict[int, int]], count: int
) -> tuple[list[str], np.ndarray]:
  """The keys of the samples, and for each of `count` members its sample.

  A sample may be spread over joined tars, with images in one and captions in
  another. A key whose members come again in another tar is a new sample.
  """
  keys: list[str] = []
  last: dict[str, tuple[int, set[int]]] = {}
  sample = np.zeros(count, np.int64)
  for (key, _), members in groups.items():
    number, has = last.get(key, (-1, set()))
    if number < 0 or has & members.keys():
      number, has = len(keys), set()
      keys.append(key)
    last[key] = number, has | members.keys()
    sample[list(members.values())] = number
  return keys, sample


def split(name: str) -> tuple[str, str]:
  """Splits "folder/000.seg.PNG" into key and ending: folder/000, seg.png."""
  folder, slash, file = name.rpartition("/")
  stem, _, kind = file.partition(".")
  # The index file stores one key per line.
  return (folder + slash + stem).replace("\n", " "), kind.lower().strip()
