"""Files by pattern, on disk and, through fsspec, in buckets."""

import functools
import glob
import os
import posixpath
import re
import weakref
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.storage import paths as places
from big_contrastive.storage import urls

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 10_000_000  # A range with more names than this is a mistake.


def find(patterns: str, thing: str, remedy: str = "") -> list[str]:
  """Returns the files of "a{00..12}.tar,b*.tar", each once, globs sorted.

  Args:
    patterns: with "," or "::" between them; paths, or URLs like gs://...
    thing: the argument that holds them, for errors.
    remedy: added to the error.

  Raises:
    UserError: for a pattern that matches nothing.
  """
  files: dict[str, None] = {}
  # A path that exists may contain commas and braces.
  exists = not urls.remote(patterns) and os.path.exists(
    os.path.expanduser(patterns)
  )
  for pattern in [patterns] if exists else _split(patterns):
    for name in [pattern] if exists else braces(pattern, thing):
      matches = _match(name, thing)
      if not matches:
        where = (
          "" if urls.remote(name) else f"Nothing was found below {os.getcwd()}."
        )
        allowed = "files that exist"
        raise errors.UserError(thing, name, allowed, f"{where} {remedy}")
      files |= dict.fromkeys(matches)
  if not files:
    raise errors.UserError(thing, patterns, "files that exist", remedy)
  return list(files)


def braces(pattern: str, thing: str) -> list[str]:
  """Returns the expansions of "{000..123}" and "{a,b}" in a pattern, in order.

  Unlike the package braceexpand it leaves an unpaired brace and a backslash as
  they are, pads {01..100} to the width of its first number, and refuses ranges
  that run backwards or are implausibly large before it expands them.

  Raises:
    UserError: for a range that runs backwards or has too many names.
  """
  names, done = [pattern], False
  while not done:
    done, expanded = True, []
    for name in names:
      match = _BRACES.search(name)
      if match is None:
        expanded.append(name)
        continue
      done = False
      for choice in _choices(match[1], pattern, thing):
        expanded.append(name[: match.start()] + choice + name[match.end() :])
    names = list(dict.fromkeys(expanded))
    if len(names) > _MOST:
      _raise_range(pattern, thing)
  return names


def _choices(inner: str, pattern: str, thing: str) -> list[str]:
  numbers = _RANGE.fullmatch(inner)
  if numbers is None:
    return inner.split(",")
  first, last = numbers.groups()
  if not 0 <= int(last) - int(first) < _MOST:
    _raise_range(pattern, thing)
  width = len(first) if first.startswith("0") else 0
  return [f"{i:0{width}}" for i in range(int(first), int(last) + 1)]


def _raise_range(pattern: str, thing: str) -> None:
  allowed = f"ascending ranges of at most {_MOST:,} names"
  raise errors.UserError(thing, pattern, allowed, "Write it like {000..123}.")


def _split(patterns: str) -> list[str]:
  """Splits at "::" and at commas that are not within braces."""
  parts = re.split(r"::|,(?![^{}]*\})", patterns)
  return [part.strip() for part in parts if part.strip()]


def _match(name: str, thing: str) -> list[str]:
  if urls.remote(name):
    files = urls.system(name, thing, listed=True)
    if not glob.has_magic(name):
      return [name] if files.exists(name) else []
    start = f"{urls.protocol(name)}://"
    return [start + p.lstrip("/") for p in sorted(files.glob(name))]
  name = os.path.expanduser(name)
  if os.path.exists(name):
    return [name]
  return sorted(glob.glob(name, recursive=True))


def version(path: str, thing: str) -> tuple[int, str]:
  """Returns a file's size, and an etag or time that changes on a rewrite."""
  if not urls.remote(path):
    stat = os.stat(path)
    return stat.st_size, str(stat.st_mtime_ns)
  info = urls.system(path, thing, listed=True).info(path)
  return info["size"], places.stamp(info)


def open_file(path: str, thing: str) -> Any:
  """Returns a file opened for random access to its bytes."""
  if urls.remote(path):
    return urls.system(path, thing, listed=True).open(path, "rb")
  if os.path.isdir(path):
    remedy = "This is a folder: name files in it, as FOLDER/*.tar."
    raise errors.UserError(thing, path, "a file", remedy)
  return open(path, "rb")


def lines(path: str, thing: str) -> list[str]:
  """Returns the lines of a UTF-8 text file, without line ends.

  Raises:
    UserError: for a file that is missing or not UTF-8; names the line.
  """
  with open_file(find(path, thing)[0], thing) as file:
    return utf8_lines(file, f"{thing}: {path}")


CONVERT = "Convert the file to UTF-8: it may be UTF-16, or Latin-1."


def utf8_lines(file: Any, thing: str) -> list[str]:
  """Returns the lines of a file opened in binary mode; see `lines`.

  Args:
    file: from open_file.
    thing: what the file is called in errors, before ":" and the line.
  """
  raw = re.split(rb"\r\n|\n|\r", file.read().removeprefix(b"\xef\xbb\xbf"))
  texts = []
  for number, line in enumerate(raw, 1):
    text = line.decode("utf-8", "replace")
    if "\0" in text or text.encode() != line:
      allowed = "text in UTF-8, without NUL"
      raise errors.UserError(f"{thing}:{number}", text[:60], allowed, CONVERT)
    texts.append(text)
  return texts if texts[-1] else texts[:-1]


class Reader:
  """Reads byte ranges of files, from any thread; keeps some files open.

  Args:
    thing: the argument that holds the paths, for errors.
  """

  def __init__(self, thing: str):
    self._thing = thing
    self._opened = functools.lru_cache(maxsize=128)(_Opened)

  def read(self, path: str, start: int, stop: int) -> bytes:
    """Returns bytes start..stop-1.

    Raises:
      OSError: if the file ends earlier.
    """
    if urls.remote(path):
      files = urls.system(path, self._thing)
      # By name: the second argument is a version in s3fs.
      span = {"start": start, "end": stop}
      data = urls.patiently(lambda: files.cat_file(path, **span), path)
    else:
      data = self._opened(path).read(start, stop)
    if len(data) != stop - start:
      raise OSError(f"{path} ends before byte {stop}")
    return data

  def __reduce__(self) -> tuple:
    return Reader, (self._thing,)


class _Opened:
  """An open file that is closed once nothing references it."""

  def __init__(self, path: str):
    self._file = os.open(path, os.O_RDONLY)
    weakref.finalize(self, os.close, self._file)

  def read(self, start: int, stop: int) -> bytes:
    return os.pread(self._file, stop - start, start)


def inside(name: str) -> str:
  """Returns a relative path in its shortest form.

  Raises:
    BadRecord: for a path that leads out of its folder.
  """
  short = posixpath.normpath(name)
  if short.startswith("/") or short.split("/")[0] == ".." or "\0" in name:
    raise BadRecord("escape", f"a path that leads out: {name!r}")
  return short


def below(name: str, root: str) -> str:
  """Returns `inside` of a path that may begin with "/" if it is below root.

  Raises:
    BadRecord: see inside.
  """
  if not name.startswith("/"):
    return inside(name)
  top = posixpath.abspath(root).rstrip("/") + "/"
  short = posixpath.normpath(name)
  if not short.startswith(top):
    message = (
      f"a path outside of {root!r}: {name!r}; root= may be a folder above"
    )
    raise BadRecord("escape", message)
  return inside(short.removeprefix(top))


def member(name: str) -> str:
  """Returns `inside` of a tar member's name; as tar, drops a leading "/".

  Raises:
    BadRecord: see inside.
  """
  return inside(name.lstrip("/"))
