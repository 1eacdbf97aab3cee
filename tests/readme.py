"""What the documents show: their snippets, and the data that these name."""

import ast
import io
import json
import pathlib
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from test_big_vision import arrays, image, save

import tiny
from big_contrastive import convert, pack
from big_contrastive.checkpoints import checkpointer
from big_contrastive.data.build import build_source
from big_contrastive.factory import experiment
from big_contrastive.models import layers
from big_contrastive.offline import captioning, embedding, folder, tasks, worker

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = (
  "train", "evaluate", "pack", "convert", "embed", "score", "keep", "dedup",
  "balance", "plan", "synsets", "caption", "report",
)  # fmt: skip
_WORDS = r"(?:python -m|make|launch/\S+|sbatch|pip|sha256sum|bash)\s"
_MENTION = rf"(?:{'|'.join(COMMANDS)})\s.*--\w"
_SOURCE = r"(?:wds|webdataset|parquet|tfds|folder|table|shapes):\S"


class Snippet(NamedTuple):
  """Something that a document shows, and the file and line of it."""

  place: str
  kind: str  # command, python, files, mention, flag, source or config.
  text: str


def documents() -> list[Snippet]:
  """Returns the snippets of README.md and docs/, and of the docstrings."""
  pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
  return [s for path in pages for s in markdown(path)]


def docstrings() -> list[Snippet]:
  """Returns the commands in the docstrings of configs and of commands."""
  paths = [*sorted((ROOT / "configs").glob("*.py"))]
  paths += [ROOT / "big_contrastive" / f"{name}.py" for name in COMMANDS]
  found = []
  for path in paths:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = re.findall(rf"^ +{_WORDS}(?:.*\\\n)*.*$", text, re.MULTILINE)
    found += [Snippet(path.name, "command", _joined(x)) for x in lines]
  return found


def markdown(path: pathlib.Path) -> Iterator[Snippet]:
  """Yields a page's fenced blocks, indented commands, and spans of code."""
  text = path.read_text()
  fences = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
  for found in fences.finditer(text):
    place = _place(path, text, found.start())
    yield from _block(place, found[1].strip(), found[2])
  # Spaces in their place: so that lines keep their numbers.
  rest = fences.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
  indented = rf"^ {{4,}}{_WORDS}(?:.*\\\n)*.*$"
  for found in re.finditer(indented, rest, re.MULTILINE):
    place = _place(path, text, found.start())
    yield Snippet(place, "command", _joined(found[0]))
  for found in re.finditer(r"`([^`]+)`", rest):
    span = " ".join(found[1].split())
    kinds = {
      "command": _WORDS, "mention": _MENTION, "flag": "--", "source": _SOURCE,
      "config": r"configs/\w+\.py:",
    }  # fmt: skip
    for kind, form in kinds.items():
      if re.match(form, span):
        yield Snippet(_place(path, text, found.start()), kind, span)
        break


def _block(place: str, language: str, text: str) -> Iterator[Snippet]:
  if language in ("", "sh", "bash", "console") and re.search(
    rf"^{_WORDS}", text, re.MULTILINE
  ):
    for line in _joined(text).splitlines():
      line = line.partition("   #")[0].strip()
      if line:
        yield Snippet(place, "command", line)
  else:
    kind = "files" if text.startswith("configs/ ") else language or "text"
    yield Snippet(place, kind, text)


def _joined(text: str) -> str:
  """The text with lines that end in a backslash made one with the next."""
  return re.sub(r"\\\n\s*", "", text).strip()


def _place(path: pathlib.Path, text: str, at: int) -> str:
  return f"{path.name}:{text.count(chr(10), 0, at) + 1}"


# --- What the snippets name. A new one is a function here.

MAKERS: dict[str, Callable[[pathlib.Path], None]] = {}
CAPTIONS = ["a red circle", "a blue square", "a green ring", "two red bars"]
_COLORS = [(220, 20, 20), (20, 20, 220), (20, 200, 20), (180, 60, 60)]


def makes(*names: str) -> Callable:
  """Registers what makes the files of these names in a folder."""

  def register(make: Callable[[pathlib.Path], None]) -> Callable:
    MAKERS.update({name: lambda root, name=name: make(root, name)
                   for name in names})  # fmt: skip
    return make

  return register


def here(text: str) -> str:
  """A text whose URLs are paths; tests/storage has the buckets themselves.

  And whose WordNet is the part of it that is in the package.
  """
  text = text.replace("/usr/share/wordnet", "shapes --least 9")
  return re.sub(r"(gs://my-bucket|hf://google)/", "", text)


def provide(root: pathlib.Path, text: str) -> None:
  """Makes everything that a snippet names and that is not there yet."""
  text = here(text)
  for name, make in MAKERS.items():
    # As a whole word, or as the beginning of a path.
    named = re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-])", text)
    if named and not (root / name).exists():
      make(root)


def picture(i: int) -> bytes:
  """Returns a PNG whose color goes with CAPTIONS[i % 4]."""
  r = np.random.default_rng(i)
  pixels = r.integers(0, 40, (40, 48, 3)) + np.array(_COLORS[i % 4])
  file = io.BytesIO()
  PIL.Image.fromarray(pixels.clip(0, 255).astype("u1")).save(file, "PNG")
  return file.getvalue()


@makes(
  "photos",
  "my_photos_by_class",
  "test_photos",
  "train_photos",
  "labeled",
  "labeled_test",
)
def _photos(root, name):
  for i in range(32):
    file = root / name / CAPTIONS[i % 4] / f"{i}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(picture(i))


@makes("captions.tsv")
def _captions(root, name):
  rows = ["image\tfile\tpath\tcaption\ttext"]
  for i in range(32):
    file, caption = f"{CAPTIONS[i % 4]}/{i}.png", f"{CAPTIONS[i % 4]}, {i}"
    rows.append("\t".join([file] * 3 + [caption] * 2))
  (root / name).write_text("\n".join(rows) + "\n")


@makes("shards", "val.tar")
def _shards(root, name):
  tars = 128 if name == "shards" else 1
  for k in range(tars):
    path = root / (f"shards/{k:03}.tar" if tars > 1 else name)
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
      for i in range(k, k + (1 if tars > 1 else 16)):
        about = json.dumps({"text": CAPTIONS[i % 4], "id": i}).encode()
        for end, data in (("png", picture(i)), ("json", about)):
          member = tarfile.TarInfo(f"{i:06}.{end}")
          member.size = len(data)
          tar.addfile(member, io.BytesIO(data))


@makes("packed")
def _packed(root, name):
  (root / name).mkdir()
  _shards(root, "val.tar")
  source = build_source(f"wds:{root}/val.tar,caption=json:text", "")
  pack.pack(source, str(root / name / "train.tar"), 8)


def _pairs(root, title, **features):
  """A TFDS data set, in the class's name with underscores."""
  f = tfds.features

  def info(self):
    made = f.FeaturesDict({"image": f.Image(), **features})
    return tfds.core.DatasetInfo(builder=self, features=made)

  def examples(self):
    for i in range(32):
      text = CAPTIONS[i % 4]
      captions = {"captions": [{"text": text}], "text": text}
      yield i, {"image": picture(i)} | {k: captions[k] for k in features}

  with tfds.core.registered.skip_registration():
    made = type(
      title, (tfds.core.GeneratorBasedBuilder,),
      {
        "VERSION": tfds.core.Version("1.0.0"), "_info": info,
        "_split_generators": lambda self, dl: {"train": examples(self)},
        "_generate_examples": examples, "code_path": None,
      },
    )  # fmt: skip
  made(data_dir=root, file_format="array_record").download_and_prepare()


@makes("my_pairs")
def _my_pairs(root, name):
  _pairs(root, "MyPairs", text=tfds.features.Text())
  images = [{"bytes": picture(i), "path": None} for i in range(16)]
  texts = [CAPTIONS[i % 4] for i in range(16)]
  rows = pa.table({"image": images, "caption": texts})
  pq.write_table(rows, root / name / "train.parquet")


@makes("my_tfds_pairs")
def _my_tfds_pairs(root, name):
  _pairs(root, "MyTfdsPairs", text=tfds.features.Text())


@makes("coco_captions")
def _coco(root, name):
  text = {"text": tfds.features.Text()}
  _pairs(root, "CocoCaptions", captions=tfds.features.Sequence(text))


@makes(
  "runs/demo", "runs/mine", "runs/flip", "runs/siglip", "runs/simclr",
  "runs/catlip", "runs/cappa", "runs/blip",
)  # fmt: skip
def _runs(root, name):
  recipe = name.removeprefix("runs/").replace("mine", "demo")
  config = tiny.load(recipe, "smoke")
  made = experiment.build(config | {"evals": {}})
  store = checkpointer.Checkpoints(root / name)
  store.save(0, made.first().items(), made.meta(0), made.blob)
  store.close()


@makes("embedded", "vectors")
def _embedded(root, name):
  provide(root, "runs/demo")
  out = folder.begin(str(root / name), "out")
  data = "shapes:split=heldout,train_size=512,size=32"
  work = embedding.open_work(checkpoint=str(root / "runs/demo"), data=data)
  folder.describe(out, work, work.about() | {"per_shard": 20, "data": data})
  shards = tasks.tasks(len(work.source), out, 20)
  worker.run_all(shards, work, lambda line: None)


@makes("captioned")
def _captioned(root, name):
  provide(root, "runs/blip")
  out = folder.begin(str(root / name), "out")
  data = "shapes:split=train,train_size=512,size=32"
  decoding, model = {"method": "greedy"}, str(root / "runs/blip")
  work = captioning.open_work(model=model, data=data, decoding=decoding)
  folder.describe(out, work, {"per_shard": 512, "data": data})
  worker.run_all(tasks.tasks(512, out, 512), work, lambda line: None)


@makes("scores", "kept.npy")
def _scores(root, name):
  if name == "kept.npy":
    np.save(root / name, np.arange(20))
  else:
    (root / name).mkdir()
    np.save(root / name / "scores.npy", np.arange(25, dtype=np.float32))


@makes("unique.npy", "balanced.npy")
def _list(root, name):
  np.save(root / name, np.arange(20))


@makes("entries.txt")
def _entries(root, name):
  (root / name).write_text("red\nblue\ncircle\n")


@makes("exported", "DIR_OR_NPZ", "siglip2-base-patch16-224")
def _exported(root, name):
  provide(root, "runs/siglip")
  convert.convert(str(root / "runs/siglip"), str(root / name))


@makes("B_16.npz")
def _npz(root, name):
  size = tuple(layers.size_of("mu").values())
  save(root / name, arrays(image(size, 8, 4, pool="tok")))
