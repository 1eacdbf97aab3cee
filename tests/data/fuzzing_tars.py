"""WebDataset tars in every form that tar has, right or wrong in one place."""

import gzip
import io
import json
import math
import tarfile
from typing import Any

from fuzzing_truth import BAD, MISSING, NO_TEXTS, Case, Row, text, truth

from big_contrastive.data.sources import webdataset

CLASSES = ["a dog", "Red_fox", "None", "NA", "12", "cat"]
Member = tuple[str, Any]  # Name, and bytes or the name of what it links to.


def case(rng, folder) -> Case:
  """Tars of one data set; half of them are wrong in one place."""
  options = {
    "caption": rng.choice(["txt", "json:caption"]),
    "label": rng.choice([None, "cls", "json:label"]),
    "id": rng.choice([None, "key", "image", "json:id"]),
    "classes": rng.random() < 0.5,
  }
  rows, tars = _samples(rng, options)
  wrong, refused, lossy = None, False, False
  if rng.random() < 0.5:
    wrong = rng.choice(WRONG)
    refused, lossy = wrong(rng, rows, tars, options)
  left = options.get("left", 0)
  for k, members in enumerate(tars):
    left += _write(rng, folder / f"{k}.tar", members, options)
  if wrong in DAMAGES:
    path = folder / "0.tar"
    path.write_bytes(options["damage"](path.read_bytes()))
  given = {k: options[k] for k in ("caption", "label", "id") if options[k]}
  named = options["classes"] and options["label"]
  if named:
    given["classes"] = CLASSES
  made = truth(rows, left, CLASSES if named else None)

  def read():
    webdataset.source(urls=f"{folder}/*.tar", **given)
    return webdataset.source(urls=f"{folder}/*.tar", **given)  # By its index.

  note = wrong.__name__ if wrong else "right"
  # A member that no sample has can't be asked for, and nothing may be left.
  refusable = bool(wrong) or not made.records or _lacks(tars, options)
  return Case(
    f"{given}, {note}", read, [] if refused else [made], refusable,
    options.get("named", ("0.tar",)) if refused else (), lossy,
  )  # fmt: skip


def _samples(rng, options) -> tuple[list[Row], list[list[Member]]]:
  """Samples, and the members of each tar in any order."""
  tars: list[list[Member]] = []
  rows: list[Row] = []
  for k in range(rng.randint(1, 3)):
    members = []
    for key in rng.sample(_KEYS, rng.randint(1, 5)):
      row, files = _sample(rng, f"image {k} {key}".encode(), key, options)
      rows.append(row)
      members += [(f"{key}.{kind}", data) for kind, data in files.items()]
    rng.shuffle(members)
    tars.append(members)
  return rows, tars


_KEYS = [
  "0", "7", "007", "000123", "f/0", "f/1", "a b", "é/ü", "nan", "None", "A",
  "a",
  "x" * 90, "long/" * 30 + "y", "-1",
]  # fmt: skip


def _lacks(tars, options) -> bool:
  there = {n.rpartition("/")[2].partition(".")[2] for t in tars for n, _ in t}
  asked = [options[k] for k in ("caption", "label", "id")]
  kinds = {a.partition(":")[0] for a in asked if a} - {"key", "image"}
  return not kinds <= {kind.lower() for kind in there}


def _sample(rng, image: bytes, key: str, options) -> tuple[Row, dict]:
  about: dict[str, Any] = {"more": rng.choice([1, None, [1], "x"])}
  files: dict[str, Any] = {rng.choice(["jpg", "png", "PNG", "webp"]): image}
  row = Row(image, MISSING)
  _add_caption(rng, row, files, about, options)
  row.key = {"key": key, "image": image}.get(options["id"])
  if options["id"] == "key" and key.removeprefix("-").isdigit():
    row.key = int(key) if key[0] != "0" or key == "0" else key
  if options["id"] == "json:id":
    row.key = rng.choice([0, 7, "007", "a b", "3.5"])
    about["id"] = row.key
    if isinstance(row.key, int):
      spelt = [row.key, float(row.key), str(row.key), f"{row.key}.0"]
      about["id"] = rng.choice(spelt)
    if rng.random() < 0.05:
      about["id"], row.key = rng.choice([None, math.nan, ""]), (MISSING,)
  if options["label"]:
    _add_label(rng, row, files, about, options)
  uses = "json" in f"{options['caption']} {options['label']} {options['id']}"
  if uses or rng.random() < 0.3:
    pairs = rng.sample(list(about.items()), len(about))
    files["json"] = json.dumps(dict(pairs), ensure_ascii=rng.random() < 0.5)
    files["json"] = files["json"].encode()
  if rng.random() < 0.05:
    del files[next(iter(files))]
    row.image = None
  return row, files


def _add_caption(rng, row, files, about, options) -> None:
  said = text(rng, rng.choice(["", "\n", '"']))
  row.captions = [said]
  if options["caption"] == "txt":
    spelt = [said, f" {said}\n", f"{said}\r\n", "\ufeff" + said]
    files["txt"] = rng.choice(spelt).encode()
    if rng.random() < 0.1:
      files["txt"], row.captions = rng.choice(
        [
          (b"", MISSING),
          (b" \n", MISSING),
          (b"caf\xe9", BAD),
          (b"nan", MISSING),
        ]
      )
    return
  values = [(said, [said]), ([said, None, "b"], [said, "b"]), (3.0, ["3"])]
  if rng.random() < 0.1:
    values = [(v, MISSING) for v in (None, math.nan, [], *NO_TEXTS)]
    values += [(v, BAD) for v in (True, {}, math.inf)]
  about["caption"], row.captions = rng.choice(values)


def _add_label(rng, row, files, about, options) -> None:
  row.label = rng.randrange(len(CLASSES))
  spelt: list[Any] = [str(row.label), f"0{row.label}", f" {row.label}"]
  if options["classes"]:
    name = CLASSES[row.label]
    spelt += [name, name.upper(), f" {name.replace(' ', '_')}"]
  value = rng.choice(spelt)
  if options["label"] == "json:label":
    about["label"] = rng.choice([value, row.label, float(row.label)])
    if rng.random() < 0.1:
      about["label"], row.label = rng.choice(
        [(None, MISSING), (-1, BAD), (3.5, BAD), (True, BAD), ("", MISSING)]
      )
  else:
    files["cls"] = (value + rng.choice(["", "\n"])).encode()


def _write(rng, path, members: list[Member], options) -> int:
  """Writes a tar, or several joined; returns what is left out besides."""
  forms = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
  if all(len(name) < 80 and name.isascii() for name, _ in members):
    forms.append(tarfile.USTAR_FORMAT)
  prefix = rng.choice(["", "", "./", "/", "a/../"])
  left, parts = 0, 1 if options.get("whole") else rng.randint(1, 2)
  cuts = sorted(rng.randint(0, len(members)) for _ in range(parts - 1))
  with path.open("wb") as file:
    for first, last in zip([0, *cuts], [*cuts, len(members)], strict=True):
      own = dict(fileobj=file, mode="w", format=rng.choice(forms))
      with tarfile.open(**own) as tar:
        if rng.random() < 0.3:
          folder = tarfile.TarInfo("f")
          folder.type = tarfile.DIRTYPE
          tar.addfile(folder)
        for name, data in members[first:last]:
          _add(tar, prefix + name, data, rng, prefix)
          if rng.random() < 0.05:
            _add(tar, f"{prefix}._{name.replace('/', '')}", b"mac", rng, prefix)
            left += 1
  return left


def _add(tar, name: str, data: Any, rng, prefix: str) -> None:
  member = tarfile.TarInfo(name)
  if isinstance(data, str):
    member.type, member.linkname = tarfile.LNKTYPE, prefix + data
    tar.addfile(member)
    return
  member.size, member.mtime = len(data), rng.choice([0, 1.5, 2**31])
  tar.addfile(member, io.BytesIO(data))


def a_damage(rng, rows, tars, options):
  """From some byte on there is nothing, or something else."""
  options["whole"] = True
  part, kind = rng.random(), rng.randrange(3)

  def damage(data):
    at = int(part * len(data))
    if kind == 0:
      return data[:at]
    heads = [
      i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"
    ]
    at = heads[int(part * len(heads))]
    return data[:at] + (b"\xff" * 512 if kind == 1 else b"no" * 256)

  options["damage"] = damage
  return False, True


def compressed_or_empty(rng, rows, tars, options):
  options["damage"] = rng.choice([lambda d: b"", gzip.compress])
  return True, False


def a_member_twice(rng, rows, tars, options):
  """The first counts."""
  options["whole"] = True
  name, _ = rng.choice(tars[0])
  tars[0].append((name, b"another"))
  options["left"] = 1
  return False, False


def a_link_to_an_earlier_member(rng, rows, tars, options):
  """Another sample's caption is that of the first."""
  if options["caption"] != "txt" or options["label"] or options["id"]:
    return a_member_twice(rng, rows, tars, options)
  texts = [name for name, _ in tars[0] if name.endswith(".txt")]
  if not texts:
    return False, False
  name = texts[0]
  image = f"image 0 {name[:-4]}".encode()
  row = next((r for r in rows if r.image == image), None)
  if row is None:
    return False, False
  tars[0] += [("zz.jpg", b"image zz"), ("zz.txt", name)]
  rows.append(Row(b"image zz", row.captions))
  options["whole"] = True
  return False, False


def a_link_to_nothing(rng, rows, tars, options):
  tars[0].append(("zz.jpg", "nothing.jpg"))
  options["left"] = 1
  return False, False


def a_path_that_leads_out(rng, rows, tars, options):
  tars[0].append(("../../../zz.jpg", b"image"))
  options["left"] = 1
  return False, False


def a_broken_json(rng, rows, tars, options):
  """Of one sample, which is bad if anything of it is read."""
  for i, (name, data) in enumerate(tars[0]):
    if name.endswith(".json"):
      bad = rng.choice(
        [b"", b"{", b"[1]", data[:-1], data[:-1] + b', "more": 2}']
      )
      tars[0][i] = name, bad
      image = f"image 0 {name[:-5]}".encode()
      used = f"{options['caption']} {options['label']} {options['id']}"
      for row in rows:
        if row.image == image and "json:" in used:
          row.captions = BAD
      break
  return False, False


def a_member_that_nobody_has(rng, rows, tars, options):
  role = rng.choice(["caption", "label", "id"])
  options[role] = rng.choice(["text", "json", "jpgs", "txt2"])
  options["named"] = ("member", options[role])
  return True, False


DAMAGES = [a_damage, compressed_or_empty]
WRONG = [
  *DAMAGES, a_damage, a_member_twice, a_link_to_an_earlier_member,
  a_link_to_nothing, a_path_that_leads_out, a_broken_json,
  a_member_that_nobody_has,
]  # fmt: skip
