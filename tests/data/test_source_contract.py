"""What every source obeys: those of data/sources, and one from outside."""

import inspect
import pickle
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_shuffle import png
from test_webdataset import write

from big_contrastive import pack
from big_contrastive.config import errors, registry
from big_contrastive.data.build import build_source
from big_contrastive.data.loader import evaluation
from big_contrastive.data.loader.examples import Examples
from big_contrastive.data.loader.training import Training
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.data.transforms import decode

# What `cached` has in place of pictures is tried in test_cached.py.
NAMES = [n for n in registry.names("data.sources") if n != "cached"]
COUNT = 5  # Pictures, whose red is their number.


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
  """A section of a config for each source, with COUNT records or more."""
  root = tmp_path_factory.mktemp("contract")
  (root / "photos").mkdir()
  lines, members = ["image\tcaption"], {}
  pictures = [png(value=i) for i in range(COUNT)]
  for i, picture in enumerate(pictures):
    (root / f"photos/{i}.png").write_bytes(picture)
    (root / f"photos/{i}.txt").write_text(f"caption {i}")
    lines.append(f"{i}.png\tcaption {i}")
    members |= {f"{i:06}.png": picture, f"{i:06}.txt": b"caption"}
  (root / "t.tsv").write_text("\n".join(lines) + "\n")
  write(root / "s.tar", members)
  columns = {"image": pictures, "caption": [f"caption {i}" for i in range(5)]}
  pq.write_table(pa.table(columns), root / "a.parquet", row_group_size=2)
  shapes = {"train_size": 20, "size": 16, "data_dir": f"{root}/tfds"}
  build_source({"name": "shapes", "split": "val", **shapes}, "x")
  (drawn,) = root.glob("tfds/shapes/*/*/dataset_info.json")
  return {
    "folder": {"root": f"{root}/photos"},
    "table": {"captions": f"{root}/t.tsv", "images": f"{root}/photos"},
    "webdataset": {"urls": f"{root}/s.tar"},
    "parquet": {"files": f"{root}/a.parquet"},
    "shapes": {"split": "train", **shapes},
    "tfds": {"split": "train", "dataset": str(drawn.parent), "id": "id"},
  }


def shown(image, rng):
  return decode.pixels(image)[:4, :4]


def same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


def check(source):
  """Raises AssertionError unless the source obeys data/source.py."""
  assert isinstance(source, Source)
  size = len(source)
  assert size >= COUNT
  records = [source[i] for i in range(size)]
  for i, record in enumerate(records):
    assert {"image", "id"} <= record.keys() <= {"image", "id", "text", "label"}
    assert isinstance(record["image"], bytes | np.ndarray)
    assert 0 <= record["id"] < 2**31
    same(record, source[i])
    assert isinstance(source.name(i), str)
    assert 0 <= source.after(i) < size and source.after(i) != i
    assert source.preprocess(i) is None or callable(source.preprocess(i))
  assert len({source.name(i) for i in range(size)}) == size
  assert source.classes is None or all(
    isinstance(name, str) for name in source.classes
  )
  assert all(source.skipped.values())
  assert all(
    isinstance(line, str | bytes | memoryview) for line in source.outline()
  )
  if source.blocks is not None:
    assert source.blocks.sum() == size and source.window > 0
  copied = pickle.loads(pickle.dumps(source))
  for i, record in enumerate(records):
    same(record, copied[i])
  assert list(copied.outline()) == list(source.outline())


def test_every_source_is_tried(configs):
  assert configs.keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_obeys_the_contract(configs, name):
  check(build_source({"name": name, **configs[name]}, "config.source"))


@pytest.mark.parametrize("name", NAMES)
def test_a_mixture_and_a_filter_of_every_source_obey_it_too(configs, name):
  config = {"name": name, **configs[name]}
  chosen = config | {"filter": {"min_side": 4}}
  check(build_source(chosen, "config.source"))
  both = {"mixture": [{"source": config}, {"source": chosen}]}
  check(build_source(both, "config.source"))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_annotated_and_documented(name):
  function = registry.module("data.sources", name, "x").source
  told = inspect.getdoc(function)
  for parameter in inspect.signature(function).parameters.values():
    assert parameter.annotation is not parameter.empty
    names = told.partition("Args:")[2]
    listed = [line.partition(":")[0] for line in names.splitlines()]
    assert parameter.name in ", ".join(listed).replace(" ", "").split(",")


ALONE = {name: {"caption": "none"} for name in NAMES if name != "shapes"}
ALONE["tfds"] = {"text": "none"}  # What is drawn always has captions.


@pytest.mark.parametrize("name", ALONE)
def test_images_come_alone_from_every_source_that_reads_files(
  configs, name, tmp_path
):
  config = {"name": name, **configs[name]}
  with_text = build_source(config, "config.source")
  config |= ALONE[name]
  source = build_source(config | {"filter": {"min_side": 4}}, "config.source")
  check(source)
  assert len(source) == len(with_text)
  for i in range(len(source)):
    want = {k: v for k, v in with_text[i].items() if k != "text"}
    same(source[i], want)
  data = Training(Examples(source, shown), 4, np.arange(4), seed=0, threads=2)
  (batch,) = data.batches(0, 1)
  assert batch.keys() == {"image", "id", "record"}
  assert batch["image"].shape[0] == 4
  ((batch, real), *_) = evaluation.evaluation(source, shown, 4, np.arange(4), 2)
  assert batch.keys() == {"image", "id", "label"} and real == 4
  assert not any(evaluation.captions(source))
  for out, spec in (("a.tar", "wds:"), ("a.parquet", "parquet:")):
    (packed,) = pack.pack(source, f"{tmp_path}/{out}", 100)
    kinds = "json:id" if spec == "wds:" else "id"
    again = build_source(f"{spec}{packed},caption=none,id={kinds}", "x")
    check(again)
    assert [again[i]["id"] for i in range(len(again))] == [
      source[i]["id"] for i in range(len(source))
    ]


def test_class_folders_of_images_alone_have_labels_and_ids_of_their_own(
  tmp_path,
):
  for i in range(4):
    (tmp_path / f"{'ab'[i % 2]}").mkdir(exist_ok=True)
    (tmp_path / f"{'ab'[i % 2]}/{i}.png").write_bytes(png(value=i))
  source = build_source(f"folder:{tmp_path},caption=none", "x")
  assert source.classes == ["a", "b"]
  assert [source[i]["label"] for i in range(4)] == [0, 0, 1, 1]
  assert [source[i]["id"] for i in range(4)] == [0, 1, 2, 3]
  assert not any("text" in source[i] for i in range(4))


def test_a_tokenizer_makes_a_record_without_text_a_bad_one(configs):
  source = build_source(
    {"name": "folder", **configs["folder"], "caption": "none"}, "x"
  )
  made = Examples(source, shown, build_tokenizer("bytes", 12))
  with pytest.raises(errors.UserError, match="no caption"):
    made(0, np.random.default_rng(0))


MINE = '''
import numpy as np

from big_contrastive.data.source import Source


class Squares(Source):
  def __init__(self, count):
    self.count = count

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    image = np.full((4, 4, 3), i, np.uint8)
    return {"image": image, "id": i, "text": f"square {i}"}


def source(split: str | None = None, *, count: int) -> Squares:
  """Returns squares of one color each.

  Args:
    split: unused.
    count: of them.
  """
  return Squares(count)
'''


def pixels(image, rng):
  return image


def test_a_source_from_outside_the_package_trains(tmp_path):
  """A file named by its path: by threads, by workers, and in a string."""
  path = tmp_path / "my_squares.py"
  path.write_text(textwrap.dedent(MINE))
  source = build_source({"name": str(path), "count": 20}, "config.source")
  check(source)
  check(build_source(f"{path}:20", "--data"))
  check(build_source(f"{path}:count=20", "--data"))
  made = Examples(source, pixels, build_tokenizer("bytes", 12))
  batches = {
    workers: [
      {key: value.copy() for key, value in batch.items()}
      for batch in Training(
        made, 8, np.arange(8), seed=0, threads=2, workers=workers
      ).batches(0, 5)
    ]
    for workers in (0, 1)
  }
  seen = np.concatenate([batch["id"] for batch in batches[0]])
  assert sorted(seen[:20]) == list(range(20))
  for a, b in zip(batches[0], batches[1], strict=True):
    same(a, b)
    np.testing.assert_array_equal(a["image"][:, 0, 0, 0], a["id"])
