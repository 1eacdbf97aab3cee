"""Models on the Hugging Face Hub: hf://OWNER/NAME[@REVISION][/FILE]."""

import pathlib

import huggingface_hub
from huggingface_hub import errors as hub_errors

from big_contrastive.config import errors
from big_contrastive.storage import paths, urls

_FORM = "hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FILE"

# One of these is in every model's folder.
_CONFIGS = "config.json", "open_clip_config.json"


def local(url: str, thing: str) -> pathlib.Path:
  """Returns a file or a model's folder, downloaded into the Hub's cache.

  What is in the cache already is used when the Hub can't be reached, or with
  HF_HUB_OFFLINE=1; HF_TOKEN and HF_HOME count as everywhere.

  Args:
    url: see the head of this file; not of a data set.
    thing: the argument that holds it, for errors.

  Raises:
    UserError: for a repository or a file that isn't there, is private, or can
      be neither reached nor found in the cache.
  """
  pieces = url.removeprefix("hf://").split("/", 2)
  if len(pieces) < 2 or not all(pieces) or pieces[0] in ("datasets", "spaces"):
    raise errors.UserError(thing, url, _FORM, "Check the name.")
  name, _, revision = pieces[1].partition("@")
  where = {"repo_id": f"{pieces[0]}/{name}", "revision": revision or None}
  try:
    if len(pieces) == 3:
      file = huggingface_hub.hf_hub_download(filename=pieces[2], **where)
      return pathlib.Path(file)
    return pathlib.Path(_folder(where))
  except hub_errors.GatedRepoError as e:
    remedy = "Ask for access on its page, then set HF_TOKEN."
    raise errors.UserError(thing, url, "a model you may read", remedy) from e
  except (
    hub_errors.RepositoryNotFoundError,
    hub_errors.RevisionNotFoundError,
    hub_errors.RemoteEntryNotFoundError,
    hub_errors.HFValidationError,
  ) as e:
    remedy = "Check the name; for a private one set HF_TOKEN."
    raise errors.UserError(thing, url, "a model on the Hub", remedy) from e
  except Exception as e:  # Of httpx, of the cache, of the disk.
    allowed = "a model that is in the cache, or a Hub that can be reached"
    raise errors.UserError(thing, url, allowed, f"{urls.told(e)}.") from e


def _folder(where: dict) -> str:
  """The snapshot of a repository, with the files that a model needs."""
  try:
    listed = huggingface_hub.HfApi().list_repo_files(**where)
  except (
    hub_errors.RepositoryNotFoundError,
    hub_errors.RevisionNotFoundError,
  ):
    raise
  except Exception:  # Offline: what the cache has of it.
    for name in _CONFIGS:
      found = huggingface_hub.try_to_load_from_cache(filename=name, **where)
      if isinstance(found, str):
        return str(pathlib.Path(found).parent)
    raise
  top = [name for name in listed if "/" not in name]
  # A repository of one of our checkpoints is read as a whole.
  ours = any("checkpoints/" in f"/{name}" for name in listed)
  wanted = None if ours else paths.of_model(top)
  return huggingface_hub.snapshot_download(**where, allow_patterns=wanted)
