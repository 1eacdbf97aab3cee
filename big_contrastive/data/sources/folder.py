"""A folder of class folders, or of images with a .txt caption beside each."""

import collections
import dataclasses
import logging
import os
import pathlib
from typing import Any

from big_contrastive import errors

MAIN = "root"
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


@dataclasses.dataclass
class Folder:
  """Records of a folder; see `source`.

  Args:
    records: (path, caption, id, label or None).
    classes: names by label, None if there are no class folders.
    skipped: reason -> number of images that were left out.
  """

  records: list[tuple[str, str, int, int | None]]
  classes: list[str] | None
  skipped: dict[str, int]

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, text, ident, label = self.records[index]
    image = pathlib.Path(path).read_bytes()
    record = {"image": image, "text": text, "id": ident}
    return record if label is None else record | {"label": label}

  def name(self, index: int) -> str:
    """Returns what a person finds the record by."""
    return self.records[index][0]


def source(
  split: str | None = None, *, root: str, caption: str = "{class}"
) -> Folder:
  """Returns the images below a folder, in the order of their paths.

  If any image has a .txt beside it (x.jpg, x.txt), that is the caption, the
  id is the image's number, and images without one are left out. Else the
  folders in root are the classes: the caption is made of the class's name
  ("_" becomes " "), label and id are its place among the sorted names.

  Args:
    split: a folder in root; None for root itself.
    root: what is hidden in it, ".x", is ignored.
    caption: template for class folders.

  Raises:
    UserError: for a folder that is missing or without images.
  """
  top = _folder(root, split)
  images, texts = _files(top)
  if not images:
    allowed = "a folder with images: " + ", ".join(sorted(_IMAGES))
    raise errors.UserError("root", top, allowed, "Check the path.")
  if any(os.path.splitext(path)[0] in texts for path in images):
    return _captioned(top, images, texts)
  if "{class}" not in caption:
    remedy = "Write it like 'a photo of a {class}'."
    raise errors.UserError("caption", caption, "a text with {class}", remedy)
  return _classified(top, images, caption)


def _folder(root: str, split: str | None) -> str:
  top = os.path.expanduser(root)
  if not os.path.isdir(top):
    remedy = f"It is not found below {os.getcwd()}."
    raise errors.UserError("root", root, "a folder that exists", remedy)
  if split is None:
    return top
  folders = next(os.walk(top))[1]
  return os.path.join(top, errors.choice("split", split, folders))


def _files(top: str) -> tuple[list[str], set[str]]:
  """Relative paths of the images, sorted, and of the .txt, without suffix."""
  images, texts = [], set()
  for folder, inner, names in os.walk(top, followlinks=True):
    # A link to a folder above would lead round and round.
    own = os.path.realpath(folder) + os.sep
    inner[:] = [
      name
      for name in inner
      if not name.startswith(".")
      and not own.startswith(
        os.path.realpath(os.path.join(folder, name)) + os.sep
      )
    ]
    for name in names:
      path = os.path.join(folder, name)[len(top) :].lstrip(os.sep)
      stem, suffix = os.path.splitext(path)
      if suffix.lower() in _IMAGES and not name.startswith("."):
        images.append(path)
      elif suffix == ".txt":
        texts.add(stem)
  return sorted(images), texts


def _captioned(top: str, images: list[str], texts: set[str]) -> Folder:
  skipped: collections.Counter[str] = collections.Counter()
  records: list[tuple[str, str, int, int | None]] = []
  for i, path in enumerate(images):
    stem = os.path.splitext(path)[0]
    if stem not in texts:
      skipped["no .txt"] += 1
      continue
    file = pathlib.Path(top, stem + ".txt")
    try:
      text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
      logging.warning("%s is not UTF-8", file)
      skipped["caption not UTF-8"] += 1
      continue
    if text:
      records.append((os.path.join(top, path), text, i, None))
    else:
      skipped["empty caption"] += 1
  if not records:
    allowed = "a folder with captions in its .txt files"
    remedy = f"Left out are: {dict(skipped)}."
    raise errors.UserError("root", top, allowed, remedy)
  return Folder(records, None, dict(skipped))


def _classified(top: str, images: list[str], caption: str) -> Folder:
  within = [path for path in images if os.sep in path]
  names = sorted({path.split(os.sep)[0] for path in within})
  if not names:
    allowed = "class folders, or a .txt caption beside each image"
    remedy = "Use the source `table` for captions in a table."
    raise errors.UserError("root", top, allowed, remedy)
  classes = [name.replace("_", " ") for name in names]
  labels = {name: i for i, name in enumerate(names)}
  texts = [caption.replace("{class}", name) for name in classes]
  records: list[tuple[str, str, int, int | None]] = []
  for path in within:
    label = labels[path.split(os.sep)[0]]
    records.append((os.path.join(top, path), texts[label], label, label))
  left = len(images) - len(within)
  return Folder(records, classes, {"no class folder": left} if left else {})
