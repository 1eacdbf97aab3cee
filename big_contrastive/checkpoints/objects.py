"""The objects of a checkpoint in a bucket, so that a damaged one is found.

A bucket keeps checksums of its own: reading everything again, as from a disk,
would say nothing more. What goes wrong is that objects are missing after a
copy, or were overwritten. So sizes and the bucket's checksums are listed, in
one object that is written when all the others are there.
"""

import json
from typing import Any

from big_contrastive.checkpoints import checksums
from big_contrastive.storage import atomic, urls
from big_contrastive.storage.paths import Path

FILE = "OBJECTS.json"


def write(folder: Path) -> None:
  """Lists a folder's objects in a file in it.

  Raises:
    OSError: if the bucket can't be reached.
  """
  about = {"url": str(folder), "objects": _found(folder)}
  atomic.write_bytes(folder / FILE, json.dumps(about, indent=1).encode())


def damage(folder: Path, skip: str = "") -> str | None:
  """Returns what is wrong with a folder, None if its objects are as written.

  Of a copy from elsewhere only sizes are compared: an S3 ETag may change. Of
  one from a disk, only names: the bucket knows no SHA-256.

  Args:
    folder: one that `write` was called for, or a copy.
    skip: objects whose name begins with this don't matter.
  """
  found = _found(folder)
  if FILE in found:
    try:
      about = json.loads((folder / FILE).read_text())
    except ValueError as e:
      return f"{FILE} can't be read: {e}"
    same = about["url"] == str(folder)
    listed = {k: v if same else v[:1] for k, v in about["objects"].items()}
  elif checksums.FILE in found:
    lines = (folder / checksums.FILE).read_text().splitlines()
    listed = {line.split("  ", 1)[-1]: [] for line in lines}
  else:
    return f"it has neither {FILE} nor {checksums.FILE}"
  for name, expected in sorted(listed.items()):
    if skip and name.startswith(skip):
      continue
    if name not in found:
      return f"{name} is missing"
    if found[name][: len(expected)] != expected:
      return f"{name} is not as it was written"
  return None


def _found(folder: Path) -> dict[str, list[Any]]:
  """Size and checksum by name below the folder."""
  url = str(folder)
  files = urls.system(url, "a URL")
  listed = urls.patiently(lambda: files.find(url, detail=True), url)
  root = url.partition("://")[2] + "/"
  return {
    info["name"].removeprefix(root): [info["size"], _digest(info)]
    for info in listed.values()
  }


def _digest(info: dict[str, Any]) -> str:
  return info.get("crc32c") or info.get("ETag", "").strip('"')
