"""Vectors in the place of images: read as they were stored, in blocks."""

import json
import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import test_source_contract
from test_embed import Pictures, tell

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.build import build_source
from big_contrastive.data.files import block_cache
from big_contrastive.data.loader import fingerprint, shuffle
from big_contrastive.data.transforms import operations
from big_contrastive.offline import folder, tasks, worker
from big_contrastive.offline.embedding import Embedding

CAPTIONS = [["a cat", "b"], "c", ["d"], "e", "f", ["g", "h", "i"], "j"]
CROP = [["random_resized_crop", {"size": 16, "area": [0.3, 1.0]}]]


def write(model, out, *, views=0, dtype="float32", fault=None, per_shard=3):
  source = Pictures(CAPTIONS, fault)
  ops = operations.parse(CROP, "x")
  work = Embedding(model, source, dtype, [ops] * views)
  folder.describe(out, work, work.about() | {"per_shard": per_shard})
  shards = tasks.tasks(len(source), out, per_shard)
  worker.run_all(shards, work, tell)
  return work


@pytest.fixture(scope="module")
def parts(tmp_path_factory, loaded):
  """Seven records in three parts; the third can't be read."""
  out = tmp_path_factory.mktemp("cached") / "parts"
  write(loaded, out, views=2, fault={2: bad_records.BadRecord("image", "x")})
  return out


def test_a_record_has_its_vectors_and_captions(parts, loaded, tmp_path):
  found = build_source(f"cached:{parts}", "x")
  kept = [0, 1, 3, 4, 5, 6]
  assert [found[i]["id"] for i in range(6)] == kept
  assert found.skipped == {"could not be embedded": 1}
  for i, number in enumerate(kept):
    text = CAPTIONS[number]
    several = [text] if isinstance(text, str) else text
    got = found[i]["text"]
    assert ([got] if isinstance(got, str) else got) == several
    image = found[i]["image"]
    assert image.shape == (2, 24) and image.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(image, axis=-1), 1, atol=1e-6)
  test_source_contract.check(found)
  assert found.name(2) == "part-00001.parquet:0"
  assert found.blocks.tolist() == [2, 3, 1]
  again = pickle.loads(pickle.dumps(found))
  np.testing.assert_array_equal(again[3]["image"], found[3]["image"])
  same = [fingerprint.fingerprint(s) for s in (found, again)]
  assert same[0] == same[1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_vectors_have_the_bits_that_were_stored(dtype, loaded, tmp_path):
  write(loaded, tmp_path / "p", dtype=dtype)
  found = build_source(f"cached:{tmp_path}/p", "x")
  records = [
    {"image": Pictures(CAPTIONS)[i]["image"], "id": 0} for i in range(7)
  ]
  expected = loaded.embedder.images(loaded.params, records).zimg
  images = np.stack([found[i]["image"][0] for i in range(7)])
  rtol = {"float32": 0, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
  atol = 0 if dtype == "float32" else 1e-6
  np.testing.assert_allclose(images, expected, rtol=rtol, atol=atol)


def test_an_epoch_reads_whole_blocks(parts):
  """Each once, in memory for one: in the order of training."""
  found = build_source(f"cached:{parts}", "x")
  inner, reads = found.source, []
  found.window = 1

  def read(block):
    reads.append(block)
    return inner._folder.read(block)

  inner._read = block_cache.BlockCache(read, lambda block: 1, 1)
  order = shuffle.stream(found, 0)
  for index in order(np.arange(len(found))):
    found[int(index)]
  assert sorted(reads) == [0, 1, 2]


def test_training_draws_a_view_and_evaluation_takes_the_first(parts):
  ops = operations.parse([("vectors", {"size": 24})], "x")
  data = build_source(f"cached:{parts}", "x")[0]["image"]
  np.testing.assert_array_equal(ops(data, None), data[0])
  rng = np.random.default_rng(0)
  drawn = {ops(data, rng).tobytes() for _ in range(30)}
  assert drawn == {data[0].tobytes(), data[1].tobytes()}
  assert ops.blank().shape == (24,) and ops.size == (24,)
  other = operations.parse([["vectors", {"size": 25}]], "x")
  with pytest.raises(bad_records.BadRecord, match="no vectors of 25"):
    other(data)


@pytest.mark.parametrize(
  "arguments", [{}, {"size": 0}, {"size": 2.5}, {"width": 3}]
)
def test_vectors_have_a_width_and_nothing_else(arguments):
  with pytest.raises(errors.UserError, match="of vectors of d numbers"):
    operations.parse([("vectors", arguments)], "config.train_image")


@pytest.mark.parametrize("kind", ["missing", "other", "none", "no parts"])
def test_what_is_no_whole_work_of_one_model_is_an_error(
  kind, parts, loaded, tmp_path
):
  out = shutil.copytree(parts, tmp_path / "parts")
  said = {
    "missing": "records'; expected all of them. Give the command of embed",
    "other": "part-00001.parquet: made with another model or other flags",
    "none": "parts with vectors. Run embed without --dtype none",
    "no parts": "a folder that embed has written",
  }[kind]
  if kind == "missing":
    tasks.path(out, 2).unlink()
  elif kind == "other":
    write(loaded, tmp_path / "b", views=1)
    shutil.copy(tasks.path(tmp_path / "b", 1), tasks.path(out, 1))
  elif kind == "none":
    shutil.rmtree(out)
    write(loaded, out, dtype="none")
  else:
    out = tmp_path
  with pytest.raises(errors.UserError, match=said):
    build_source(f"cached:{out}", "--data")


def test_a_damaged_block_is_a_bad_record(parts, tmp_path):
  out = shutil.copytree(parts, tmp_path / "parts")
  path = tasks.path(out, 1)
  data = bytearray(path.read_bytes())
  about = json.loads((out / "about.json").read_text())
  assert about["made"]["dtype"] == "float32"
  head = pq.read_metadata(path).row_group(0)
  columns = [head.column(k) for k in range(head.num_columns)]
  (column,) = (c for c in columns if c.path_in_schema.startswith("view_1"))
  data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
  path.write_bytes(data)
  found = build_source(f"cached:{out}", "x")
  faults = 0
  for i in range(len(found)):
    try:
      found[i]
    except bad_records.BadRecord as e:
      assert e.kind == "read" and "part-00001.parquet" in str(e)
      faults += 1
  assert faults == 3
