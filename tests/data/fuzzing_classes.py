"""Labeled data and lists of their classes in every form: the true top-1.

Images and names of classes have embeddings of their own here, so that the
right figure is known from what is in the data, whatever they look like.
"""

import csv
import dataclasses
import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing_truth import Case, Truth

from big_contrastive.data.sources import folder, parquet, table
from big_contrastive.evals import Embed, Embedded, zero_shot

_NAMES = [
  "red fox", "cat", "sea-lion", "NA", "None", "no 5", "İstanbul cat", "x ray",
  "a", "猫", "dog", "New York",
]  # fmt: skip


@dataclasses.dataclass
class Figure:
  """What an evaluator says, as the only record of a source."""

  said: str
  skipped: dict
  classes: None = None

  def __len__(self) -> int:
    return 1

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": b"", "text": self.said, "id": 0}


def vector(text: str | bytes) -> np.ndarray:
  """A random unit vector of its own for each text."""
  data = text if isinstance(text, bytes) else text.encode()
  seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
  found = np.random.default_rng(seed).normal(size=6)
  return found / np.linalg.norm(found)


def meant(name: str) -> str:
  """A class, whatever its spelling; written apart from classes.alike."""
  for mark in "_-\t":
    name = name.replace(mark, " ")
  return " ".join(name.casefold().split())


def case(rng, root) -> Case:
  """Data with a few classes, a list of them, and one thing that is wrong."""
  names = rng.sample(_NAMES, rng.randint(2, len(_NAMES)))
  form = rng.choice(
    ["folders", "numbered folders", "table", "parquet", "noted"]
  )
  numbered = form in ("numbered folders", "parquet")
  images = [(f"image {i}".encode(), k) for k in range(len(names))
            for i in range(k * 9, k * 9 + rng.randint(1, 4))]  # fmt: skip
  listed = names if numbered else rng.sample(names, len(names))
  more = [n for n in _NAMES if n not in names]
  if not numbered:  # What is no class of the data only distracts.
    listed = listed + rng.sample(more, min(len(more), rng.randint(0, 3)))
    rng.shuffle(listed)
  listed = [_spelt(rng, name) for name in listed]
  change, refused = "right", False
  if rng.random() < 0.5:
    wrong = rng.choice(WRONG)
    change, (listed, refused) = (
      wrong.__name__,
      wrong(rng, listed, numbered, names),
    )
  given = _list(rng, root, listed, change)
  source, left = FORMS[form](rng, root, names, images)

  def read() -> Figure:
    data = source()
    run = zero_shot.prepare(data, classes=given)
    found = dict(
      run(Embed(_embed, None, lambda t: np.array([*map(_named, t)]), None))
    )
    return Figure(f"{found['top1']:.9f} of {len(data)}", data.skipped)

  own = listed if numbered else names
  right = [] if refused else [_right(x, own[k], listed) for x, k in images]
  said = "" if refused else f"{np.mean(right):.9f} of {len(images)}"
  truths = [] if refused else [Truth([(b"", (said,), None, None)], left)]
  note = f"{form}, {change}, {type(given).__name__}"
  return Case(note, read, truths, refused, ("classes",) if refused else ())


def _spelt(rng, name: str) -> str:
  forms = [
    name,
    name,
    name.replace(" ", "_"),
    name.replace(" ", "-"),
    f" {name}",
  ]
  return rng.choice([*forms, name.upper()] if name.isascii() else forms)


def _named(text: str) -> np.ndarray:
  return vector(meant(text))


def _embed(source) -> Embedded:
  records = [source[i] for i in range(len(source))]
  labels = np.array([record["label"] for record in records])
  ids = np.array([record["id"] for record in records])
  images = np.stack([vector(bytes(record["image"])) for record in records])
  return Embedded(images, labels, ids)


def _right(image: bytes, name: str, listed: list[str]) -> bool:
  """Whether of all listed classes the image's own is nearest."""
  scores = {meant(other): vector(image) @ _named(other) for other in listed}
  return max(scores, key=scores.__getitem__) == meant(name)


def _list(rng, root, listed: list[str], change: str) -> Any:
  """The list in one of the forms that are taken."""
  kind = rng.choice(["list", "txt", "json", "numbered", "key", "csv", "jsonl"])
  if change in ("a_blank_line", "an_empty_name"):
    kind = rng.choice(["list", "txt", "json", "key", "csv", "jsonl"])
  if kind == "list":
    return listed
  if kind == "txt":
    ends = rng.choice(["\n", "\r\n"])
    text = ends.join(listed) + rng.choice(["", ends, ends * 2])
    (root / "l.txt").write_bytes((rng.choice(["", "\ufeff"]) + text).encode())
    return str(root / "l.txt")
  if kind in ("json", "numbered", "key"):
    found: Any = listed
    if kind == "numbered":
      found = dict(
        rng.sample([(str(i), n) for i, n in enumerate(listed)], len(listed))
      )
    found = {"no": [], "my key": found} if kind == "key" else found
    plain = rng.random() < 0.5
    (root / "l.json").write_text(json.dumps(found, ensure_ascii=plain))
    return str(root / "l.json") + (":my key" if kind == "key" else "")
  path = root / f"l.{kind}"
  if kind == "jsonl":
    lines = [json.dumps({"n": 1, "name": name}) for name in listed]
    path.write_text("\n".join(lines))
  else:
    file = io.StringIO()
    rows = [["name", "n"], *([name, "1"] for name in listed)]
    csv.writer(file).writerows(rows)
    path.write_text(file.getvalue())
  return f"{path}:name"


def _folders(rng, root, names, images):
  spelt = [name.replace(" ", rng.choice(" _")) for name in names]
  return _tree(rng, root, spelt, images)


def _numbered(rng, root, names, images):
  padded = rng.random() < 0.5
  numbers = [f"{k:0{2 * padded}}" for k in range(len(names))]
  return _tree(rng, root, numbers, images)


def _tree(rng, root, folders, images):
  left = 0
  for image, k in images:
    inner = rng.choice([".", ".", "inner"])
    place = root / "data" / folders[k] / inner
    place.mkdir(parents=True, exist_ok=True)
    ending = rng.choice(["png", "JPG", "jpeg", "webp", "gif"])
    (place / f"{image.decode()}.{ending}").write_bytes(image)
    other = rng.choice(["", "", "", "x.md", ".x.png", "Thumbs.db"])
    if other and not (place / other).exists():
      (place / other).write_bytes(b"x")
      left += 1
  if rng.random() < 0.3:
    (root / "data" / "empty").mkdir()
    left += 1
  return lambda: folder.source(root=str(root / "data")), left


def _table(rng, root, names, images):
  (root / "i").mkdir()
  rows = []
  for image, k in rng.sample(images, len(images)):
    (root / "i" / f"{image.decode()}.png").write_bytes(image)
    row = {"image": f"{image.decode()}.png", "caption": "x", "y": names[k]}
    rows.append(json.dumps(row, ensure_ascii=rng.random() < 0.5))
  (root / "t.jsonl").write_text("\n".join(rows))
  (root / "own.txt").write_text("\n".join(rng.sample(names, len(names))))
  given = {"classes": str(root / "own.txt")}
  paths = {"captions": str(root / "t.jsonl"), "images": str(root / "i")}
  return lambda: table.source(**paths, label="y", **given), 0


def _parquet(rng, root, names, images, noted=False):
  order = rng.sample(images, len(images))
  own = rng.sample(names, len(names)) if noted else names
  labels = [own.index(names[k]) for _, k in order]
  kind = rng.choice([pa.int64(), pa.float64(), pa.int8()])
  columns = {
    "image": [image for image, _ in order], "caption": ["x"] * len(order),
    "y": pa.array(labels, kind),
  }  # fmt: skip
  made = pa.table(columns)
  if noted:
    features = {"info": {"features": {"y": {"names": own}}}}
    made = made.replace_schema_metadata({"huggingface": json.dumps(features)})
  pq.write_table(made, root / "p.parquet")
  return lambda: parquet.source(files=str(root / "p.parquet"), label="y"), 0


def _noted(rng, root, names, images):
  return _parquet(rng, root, names, images, noted=True)


FORMS = {
  "folders": _folders, "numbered folders": _numbered, "table": _table,
  "parquet": _parquet, "noted": _noted,
}  # fmt: skip


def a_class_missing(rng, listed, numbered, names):
  """One of those that the data have."""
  own = [n for n in listed if meant(n) in {*map(meant, names)}]
  left = rng.choice(own)
  return [name for name in listed if name != left], True


def a_class_renamed(rng, listed, numbered, names):
  own = [n for n in listed if meant(n) in {*map(meant, names)}]
  changed = rng.choice(own)
  # Where labels are numbers, names may be any.
  return [n if n != changed else "zebra" for n in listed], not numbered


def a_header_line(rng, listed, numbered, names):
  """It is one class more: where labels are numbers, all would be shifted."""
  return ["class name", *listed], numbered


def a_blank_line(rng, listed, numbered, names):
  at = rng.randrange(len(listed))
  return [*listed[:at], rng.choice(["", " "]), *listed[at:]], True


def an_empty_name(rng, listed, numbered, names):
  at = rng.randrange(len(listed))
  return [*listed[:at], " ", *listed[at + 1 :]], True


def a_name_too_many(rng, listed, numbered, names):
  return [*listed, "zebra"], numbered


WRONG = [
  a_class_missing, a_class_renamed, a_header_line, a_blank_line,
  an_empty_name, a_name_too_many,
]  # fmt: skip
