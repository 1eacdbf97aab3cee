"""A folder of class folders, or of images with a .txt caption beside each."""

import dataclasses
import pathlib
from typing import Any

from big_contrastive import errors

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


@dataclasses.dataclass
class Folder:
  """Records of a folder; see `source`.

  Args:
    records: (path, caption, id, label or None).
    classes: names by label, None if there are no class folders.
    skipped: reason -> number of files that were left out.
  """

  records: list[tuple[pathlib.Path, str, int, int | None]]
  classes: list[str] | None
  skipped: dict[str, int]

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path, text, ident, label = self.records[index]
    record = {"image": path.read_bytes(), "text": text, "id": ident}
    return record if label is None else record | {"label": label}


def source(
  split: str | None = None, *, root: str, caption: str = "{class}"
) -> Folder:
  """Returns the images below a folder, in the order of their paths.

  Args:
    split: a folder in root; None for root itself.
    root: holds class folders (root/class_name/x.jpg: the caption is made of
      the class's name, label and id are its number), or images with captions
      (x.jpg beside x.txt: the id is the image's number).
    caption: template for class folders.

  Raises:
    UserError: for a folder that is missing or without images.
  """
  top = pathlib.Path(root) / split if split else pathlib.Path(root)
  if not top.is_dir():
    remedy = f"It is not found below {pathlib.Path.cwd()}."
    raise errors.UserError("root", str(top), "a folder that exists", remedy)
  files = sorted(p for p in top.rglob("*") if p.suffix.lower() in _IMAGES)
  if not files:
    allowed = "a folder with images: " + ", ".join(sorted(_IMAGES))
    remedy = "Check the path."
    raise errors.UserError("root", str(top), allowed, remedy)
  captioned = [p for p in files if p.with_suffix(".txt").is_file()]
  if captioned:
    records = [
      (p, p.with_suffix(".txt").read_text().strip(), i, None)
      for i, p in enumerate(captioned)
    ]
    left = len(files) - len(captioned)
    return Folder(records, None, {"no .txt": left} if left else {})
  in_class = [p for p in files if p.parent != top]
  names = sorted({p.relative_to(top).parts[0] for p in in_class})
  if not names:
    allowed = "class folders, or a .txt caption beside each image"
    remedy = "Use the source `table` for captions in a table."
    raise errors.UserError("root", str(top), allowed, remedy)
  records = []
  classes = [name.replace("_", " ") for name in names]
  for p in in_class:
    label = names.index(p.relative_to(top).parts[0])
    text = caption.replace("{class}", classes[label])
    records.append((p, text, label, label))
  left = len(files) - len(in_class)
  return Folder(records, classes, {"no class": left} if left else {})
