"""Folders of images with a .txt caption beside each, and whatever else."""

from fuzzing_truth import BAD, MISSING, NO_TEXTS, Case, Row, text, truth

from big_contrastive.data.sources import folder

_ENDINGS = ["png", "JPG", "jpeg", "webp", "gif", "Tiff", "bmp"]
_STEMS = ["0", "a b", "é", "x.y", "nan", "A", "a", "7", "[1]", "%s", "-"]


def case(rng, root) -> Case:
  """Images with captions, some without, and files that are neither."""
  top = root / rng.choice(["data", "da ta", "[x]", "é"])
  top.mkdir()
  rows, left = [], 0
  for inner in rng.sample(["", "in/", "in/er/", "é/"], rng.randint(1, 4)):
    for stem in rng.sample(_STEMS, rng.randint(1, 4)):
      path = top / f"{inner}{stem}"
      path.parent.mkdir(parents=True, exist_ok=True)
      rows.append(_pair(rng, path, first=not rows))
    left += _others(rng, top / inner)
  made = truth(rows, left, None)
  wrong, split = None, None
  if rng.random() < 0.3:
    wrong = rng.choice(["no images", "no folder", "no split", "a file"])
    if wrong == "no images":
      for path in [*top.rglob("*.*")]:
        if path.suffix[1:] in _ENDINGS:
          path.unlink()
    split = "nowhere" if wrong == "no split" else None
    given = top / "no" if wrong == "no folder" else top
    if wrong == "a file":
      given = root / "x.png"
      given.write_bytes(b"image")
  else:
    given = top
  named = ("split",) if split else ("root",)
  return Case(
    wrong or "right", lambda: folder.source(split, root=str(given)),
    [] if wrong else [made], bool(wrong), named if wrong else (),
  )  # fmt: skip


def _pair(rng, path, first: bool) -> Row:
  """An image and its caption; one of them may not be there."""
  image = f"image {path}".encode()
  ending = rng.choice(_ENDINGS)
  path.with_name(f"{path.name}.{ending}").write_bytes(image)
  said = text(rng, rng.choice(["", "\n", '"', "\t"]))
  spelt = [said, f" {said}\n", f"{said}\r\n", "\ufeff" + said]
  row, data = Row(image, [said]), rng.choice(spelt).encode()
  if not first and rng.random() < 0.2:
    none = [(None, MISSING), (b"caf\xe9", BAD), (said.encode("utf-16"), BAD)]
    none += [(value.encode(), MISSING) for value in NO_TEXTS]
    data, row.captions = rng.choice(none)
  if data is not None:
    suffix = rng.choice(["txt", "txt", "TXT"])
    path.with_name(f"{path.name}.{suffix}").write_bytes(data)
  return row


def _others(rng, place) -> int:
  """Writes files that are no pairs; returns how many."""
  names = ["x.md", ".hidden.png", "Thumbs.db", "alone.txt", "none", "x.json"]
  chosen = rng.sample(names, rng.randint(0, 3))
  for name in chosen:
    (place / name).write_bytes(b"x")
  return len(chosen)
