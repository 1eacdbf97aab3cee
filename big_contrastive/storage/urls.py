"""URLs, through fsspec: buckets, the Hugging Face Hub, web servers."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import fsspec

from big_contrastive.config import errors

# In buckets others write, too: TensorStore, other processes. Without a listing
# kept in memory, what is seen is there.
_BUCKETS = "gs", "gcs", "s3", "s3a"
for _name in _BUCKETS:
  _settings = fsspec.config.conf.setdefault(_name, {})
  _settings.setdefault("use_listings_cache", False)

# It logs each failed try with a traceback; what fails for good is our error.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

# The extra of setup.py that has the library of a protocol.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3", "hf": "hf"}

# Seconds between tries: a bucket may be away for a minute.
PAUSES = (0.5, 2.0, 8.0, 20.0, 40.0)

T = TypeVar("T")


def remote(path: Any) -> bool:
  """Whether a path is a URL."""
  return "://" in str(path)


def protocol(url: str) -> str:
  """Returns "gs" of "gs://bucket/name"."""
  return url.split("://")[0]


def system(url: str, thing: str, listed: bool = False) -> Any:
  """Returns the fsspec file system of a URL.

  Args:
    url: of a file or folder.
    thing: the argument that holds it, for errors.
    listed: whether listings are kept: of 10,000 files that nobody changes,
      sizes and versions then come from one request.

  Raises:
    UserError: if its library isn't installed.
  """
  name = protocol(url)
  settings = {"use_listings_cache": True} if listed and name in _BUCKETS else {}
  try:
    return fsspec.filesystem(name, **settings)
  except (ImportError, ValueError) as e:
    allowed = "a path, or a URL that fsspec can open"
    extra = _EXTRAS.get(name)
    remedy = f"pip install 'big_contrastive[{extra}]'." if extra else ""
    raise errors.UserError(thing, url, allowed, f"{e}. {remedy}") from e


def patiently(action: Callable[[], T], url: str, doing: str = "read") -> T:
  """Returns what `action` does; tries again for a minute if it fails.

  Args:
    action: a request to the storage; it may be done twice.
    url: of what, for the error.
    doing: "read" or "written", for the error.

  Raises:
    OSError: if it fails still, or if there is no such file.
    ValueError: at once, what `action` raises.
  """
  for pause in (*PAUSES, None):
    try:
      return action()
    except (FileNotFoundError, ValueError):  # Not the storage's fault.
      raise
    except Exception as e:  # Each library has kinds of its own.
      if pause is None:
        raise OSError(f"{url} can't be {doing}: {told(e)}") from e
      time.sleep(pause)
  raise AssertionError


def told(error: BaseException) -> str:
  """Returns an error's kind and text on one short line."""
  return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextlib.contextmanager
def reached(thing: str, url: Any) -> Iterator[None]:
  """Turns what a library raises on the first request into a UserError."""
  try:
    yield
  except errors.UserError:
    raise
  except Exception as e:  # Each library has kinds of its own.
    if not remote(url):
      raise
    allowed = "a URL that can be reached with your credentials"
    raise errors.UserError(thing, str(url), allowed, f"{told(e)}.") from e
