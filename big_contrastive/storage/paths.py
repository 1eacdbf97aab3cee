"""Paths that may be on this machine or in a bucket."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import uuid
from typing import Any, TypeAlias

from etils import epath

from big_contrastive.config import errors
from big_contrastive.storage import urls

# Both have exists, is_dir, iterdir, glob, open, read_text and so on.
Path: TypeAlias = pathlib.Path | epath.Path

_CACHE = "~/.cache/big_contrastive/files"
_WRITABLE = "gs", "s3"
# Of a folder in a bucket or on the Hub: what a model is read from. The first
# kind of weights that is there is taken.
_MODEL = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = ("*.safetensors", "*.npz", "*.bin", "*.pt", "*.pth")


def at(path: str | os.PathLike, thing: str) -> Path:
  """Returns a path that can be read and written.

  Args:
    path: on this machine, perhaps with "~", or gs://... or s3://...
    thing: the argument that holds it, for errors.

  Raises:
    UserError: for another URL, or if the library for it isn't installed.
  """
  text = os.fspath(path)
  if not urls.remote(text):
    return pathlib.Path(text).expanduser()
  if urls.protocol(text) not in _WRITABLE:
    allowed = "a path, or a URL that begins with gs:// or s3://"
    raise errors.UserError(thing, text, allowed, "Choose one of them.")
  urls.system(text, thing)
  # TensorFlow's client, if there is one, knows other protocols and
  # credentials than the one that we test.
  os.environ["EPATH_USE_TF"] = "false"
  return epath.Path(text)


def absolute(path: str | os.PathLike, thing: str) -> Path:
  """Returns what `at` does, whatever the working directory will be."""
  found = at(path, thing)
  return found if urls.remote(found) else found.resolve()


def local(url: str, thing: str) -> pathlib.Path:
  """Returns a copy, on this machine, of a file or of a model's folder.

  It is kept in ~/.cache/big_contrastive/files, and made anew if the original
  changes; of hf:// in Hugging Face's own cache.

  Args:
    url: of a file, or a folder with a model: "hf://OWNER/NAME". A path that
      is no URL is returned as it is.
    thing: the argument that holds it, for errors.

  Raises:
    UserError: if it isn't there or can't be reached.
  """
  if not urls.remote(url):
    return pathlib.Path(url).expanduser()
  url = url.rstrip("/")
  if urls.protocol(url) == "hf":
    from big_contrastive.storage import hub

    return hub.local(url, thing)
  files = urls.system(url, thing)
  with urls.reached(thing, url):
    try:
      found = files.info(url)
    except FileNotFoundError as e:
      allowed = "a file or folder that exists"
      raise errors.UserError(thing, url, allowed, "Check the name.") from e
    if found["type"] == "directory":
      inside = files.find(url, maxdepth=1, detail=True)
      named = {name.rpartition("/")[2]: info for name, info in inside.items()}
      infos = {name: named[name] for name in of_model(named)}
    else:
      infos = {"": found}
    return _cached(files, url, infos)


def of_model(names: Any) -> list[str]:
  """Returns the names of files, of those in a folder, that a model needs."""

  def matching(pattern: str) -> list[str]:
    return sorted(n for n in names if pathlib.PurePath(n).match(pattern))

  kinds = [matching(pattern) for pattern in _WEIGHTS]
  weights = next((kind for kind in kinds if kind), [])
  return [*(n for p in _MODEL for n in matching(p)), *weights]


def _cached(files: Any, url: str, infos: dict[str, Any]) -> pathlib.Path:
  """Downloads files, by their names below the URL, unless they are here."""
  digest = hashlib.sha256(url.encode())
  for name, info in sorted(infos.items()):
    digest.update(f"\n{name} {info['size']} {stamp(info)}".encode())
  root = pathlib.Path(_CACHE).expanduser() / digest.hexdigest()[:24]
  path = root / url.rpartition("/")[2]
  if path.exists():
    return path
  root.mkdir(parents=True, exist_ok=True)
  new = root / f".{uuid.uuid4().hex[:8]}"
  try:
    if list(infos) == [""]:
      get(files, url, new)
    for name in filter(None, infos):
      new.mkdir(exist_ok=True)
      get(files, f"{url}/{name}", new / name)
    with contextlib.suppress(OSError):  # Another process was faster.
      new.rename(path)
  finally:
    if new.is_dir():
      shutil.rmtree(new)
    new.unlink(missing_ok=True)
  return path


def get(files: Any, url: str, target: pathlib.Path) -> None:
  """Downloads a file.

  Raises:
    OSError: if it can't be read.
  """
  urls.patiently(lambda: files.get_file(url, str(target)), url)


def stamp(info: dict[str, Any]) -> str:
  """Returns an entry of a listing that changes when a file is rewritten."""
  names = ("etag", "ETag", "mtime", "LastModified", "updated", "created")
  return str(next((info[k] for k in names if info.get(k)), ""))
