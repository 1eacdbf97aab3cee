"""A folder of class folders, or of images with a .txt caption beside each."""

import collections
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord
from big_contrastive.data.files import class_names, fields, label_matching
from big_contrastive.data.source import Source
from big_contrastive.data.transforms.decode import ENDINGS

# Relative path, caption or None, id, label or None.
Record = tuple[str, str | None, int, int | None]
_SIZED = 20_000  # The most files whose sizes enter the digest.


@dataclasses.dataclass
class Folder(Source):
  """Records of a folder; see `source`.

  Args:
    root: the folder.
    records: (relative path, caption or None, id, label or None).
    classes: names by label, None if there are none.
    skipped: reason -> number of files that were left out.
  """

  root: str
  records: list[Record]
  classes: list[str] | None = dataclasses.field()
  skipped: dict[str, int] = dataclasses.field()

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, text, ident, label = self.records[index]
    image = pathlib.Path(self.root, path).read_bytes()
    record = {"image": image, "id": ident, "text": text, "label": label}
    return {k: v for k, v in record.items() if v is not None}

  def name(self, index: int) -> str:
    """Returns a name by which a person can find the record."""
    return os.path.join(self.root, self.records[index][0])

  def outline(self) -> Iterator[str]:
    """Yields paths, captions and some sizes, in order, for a digest."""
    often = len(self.records) // _SIZED + 1
    for i, (path, text, _, _) in enumerate(self.records):
      yield f"{path}\n{text or ''}"
      if i % often == 0:
        with contextlib.suppress(OSError):
          yield str(os.path.getsize(os.path.join(self.root, path)))


def source(
  split: str | None = None,
  *,
  root: str,
  caption: str = "{class}",
  classes: str | list | None = None,
) -> Folder:
  """Returns the images below a folder, in the order of their paths.

  If any image has a .txt beside it (x.jpg, x.txt), that is the caption, the
  id is the image's number, and images without a .txt are left out. Otherwise
  the folders in root are the classes: the caption is made from the class name
  ("_" becomes " "), and the label is also the id. If all folder names are
  numbers, they are the labels ("7" and "07" are label 7); otherwise a label is
  the index among the sorted names, or in `classes`.

  Args:
    split: a folder in root; None for root itself.
    root: hidden files and folders in it, ".x", are counted and not read.
    caption: template for class folders. "none" for only images: no .txt is
      read, the id is the image's number, and the label, if all images are in
      class folders, is that of the folder.
    classes: names by label, as class_names.read takes them. Each class folder
      is one of them; case, "_", "-" and " " are ignored.

  Raises:
    UserError: for a folder that is missing or has no images, and for class
      folders that mean the same class, or none of `classes`.
  """
  top = _folder(root, split)
  skipped: collections.Counter[str] = collections.Counter()
  images, texts = _files(top, skipped)
  if not images:
    allowed = "a folder with images: ." + ", .".join(ENDINGS)
    remedy = f"Check the path. In it are: {_counted(skipped) or 'no files'}."
    raise errors.UserError("root", top, allowed, remedy)
  alone = caption == fields.NO_CAPTION
  if not alone and any(os.path.splitext(path)[0] in texts for path in images):
    return _captioned(top, images, texts, skipped)
  skipped["not an image: .txt"] += len(texts)
  if alone and not all(os.sep in path for path in images):
    records = [(path, None, i, None) for i, path in enumerate(images)]
    return Folder(top, records, None, _counted(skipped))
  if "{class}" not in caption and not alone:
    remedy = "Write it like 'a photo of a {class}'."
    raise errors.UserError("caption", caption, "a text with {class}", remedy)
  names = None if classes is None else class_names.read(classes, "classes")
  return _classified(top, images, caption, names, skipped)


def _folder(root: str, split: str | None) -> str:
  top = os.path.expanduser(root)
  if not os.path.isdir(top):
    remedy = f"It was not found below {os.getcwd()}."
    raise errors.UserError("root", root, "a folder that exists", remedy)
  if split is None:
    return top
  folders = next(os.walk(top))[1]
  return os.path.join(top, errors.choice("split", split, folders))


def _files(
  top: str, skipped: collections.Counter[str]
) -> tuple[list[str], dict[str, str]]:
  """Relative paths of the images, sorted, and of the .txt files, by stem."""
  images, texts = [], {}
  for folder, inner, names in os.walk(top, followlinks=True):
    # A link to a parent folder would be an endless loop.
    real_folder = os.path.realpath(folder) + os.sep
    hidden = [name for name in [*inner, *names] if name.startswith(".")]
    skipped["hidden (.*)"] += len(hidden)
    inner[:] = [
      name
      for name in inner
      if not name.startswith(".")
      and not real_folder.startswith(
        os.path.realpath(os.path.join(folder, name)) + os.sep
      )
    ]
    for name in names:
      path = os.path.join(folder, name)[len(top) :].lstrip(os.sep)
      stem, suffix = os.path.splitext(path)
      ending = fields.clean(suffix.lower())
      if name.startswith("."):
        continue
      if ending[1:] in ENDINGS:
        images.append(path)
      elif ending == ".txt":
        texts[stem] = path
      else:
        skipped[f"not an image: {ending or 'no ending'}"] += 1
  return sorted(images), texts


def _captioned(
  top: str,
  images: list[str],
  texts: dict[str, str],
  skipped: collections.Counter[str],
) -> Folder:
  records: list[Record] = []
  for i, path in enumerate(images):
    text = texts.get(os.path.splitext(path)[0])
    if text is None:
      skipped["no .txt"] += 1
      continue
    try:
      captions = fields.caption(pathlib.Path(top, text).read_bytes())
    except BadRecord:
      skipped["caption not UTF-8"] += 1
      continue
    if captions:
      records.append((path, captions[0], i, None))
    else:
      skipped["empty caption"] += 1
  used = {os.path.splitext(path)[0] for path in images}
  skipped[".txt without an image"] += len(texts.keys() - used)
  if not records:
    allowed = "a folder with captions in its .txt files"
    remedy = f"Left out are: {_counted(skipped)}."
    raise errors.UserError("root", top, allowed, remedy)
  return Folder(top, records, None, _counted(skipped))


def _counted(skipped: collections.Counter[str]) -> dict[str, int]:
  return {reason: n for reason, n in skipped.items() if n}


def _classified(
  top: str,
  images: list[str],
  caption: str,
  names: list[str] | None,
  skipped: collections.Counter[str],
) -> Folder:
  within = [path for path in images if os.sep in path]
  folders = sorted({path.split(os.sep)[0] for path in within})
  if not folders:
    allowed = "class folders, or a .txt caption beside each image"
    remedy = "Use the source `table` for captions in a table."
    raise errors.UserError("root", top, allowed, remedy)
  skipped["no class folder"] += len(images) - len(within)
  every = [f.name for f in os.scandir(top) if f.is_dir()]
  empty = {name for name in every if not name.startswith(".")} - {*folders}
  skipped["class folder without images"] += len(empty)
  labels = _labels(folders, names)
  by_label = {label: folder for folder, label in labels.items()}
  if names is None and [*range(len(folders))] == sorted(by_label):
    names = [_spoken(by_label[i]) for i in range(len(folders))]
  captions = {
    folder: caption.replace("{class}", names[i] if names else _spoken(folder))
    for folder, i in labels.items()
  }
  records: list[Record] = []
  for i, path in enumerate(within):
    label = labels[folder := path.split(os.sep)[0]]
    if caption == fields.NO_CAPTION:  # Images of one class differ.
      records.append((path, None, i, label))
    else:
      records.append((path, captions[folder], label, label))
  return Folder(top, records, names, _counted(skipped))


def _spoken(folder: str) -> str:
  return fields.clean(folder).replace("_", " ")


def _labels(folders: list[str], names: list[str] | None) -> dict[str, int]:
  """The label of each class folder."""
  spoken = [*map(fields.clean, folders)]
  places = label_matching.numbers(spoken)
  all_digits = all(name.isascii() and name.isdigit() for name in folders)
  if names is not None and not (
    all_digits and label_matching.numbers(names) is None
  ):
    remedy = "Fix the list, or the names of the folders."
    values = label_matching.match(names, spoken, "classes", remedy).tolist()
  elif all_digits and max(map(int, folders)) < 2**31:
    _check_apart({name: int(name) for name in folders})
    values = places
    if names is not None:
      label_matching.check_labels(np.array(values), names)
      label_matching.tell_unused(values, names, "classes")
  else:
    values = range(len(folders))
  labels = dict(zip(folders, values, strict=True))
  _check_apart(
    {name: _spoken(name) for name in folders} if names is None else labels
  )
  return labels


def _check_apart(meanings: dict[str, Any]) -> None:
  by_meaning: dict[Any, str] = {}
  for folder, meaning in meanings.items():
    other = by_meaning.setdefault(meaning, folder)
    if other != folder:
      allowed, remedy = "class folders that differ", "Join or rename them."
      raise errors.UserError(
        "class folders", f"{other} and {folder}", allowed, remedy
      )
