"""Embedding a data set: what is on disk is what the model says."""

import dataclasses
import json
import os
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_shuffle import png

from big_contrastive import embed
from big_contrastive.config import errors
from big_contrastive.data import source as contract
from big_contrastive.inference.model import load

CAPTIONS = [["a red cat", "dogs"], ["dogs"], ["2 small cats", "the grass"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory, small):
  """A checkpoint and a table of pictures with one caption or two."""
  root = tmp_path_factory.mktemp("embed")
  (root / "model").symlink_to(small)
  lines = ["image\tname\tother\tkind"]
  for i, captions in enumerate(CAPTIONS):
    (root / f"{i}.png").write_bytes(png(20, 24, 80 * i))
    lines.append("\t".join([f"{i}.png", *[*captions, ""][:2], f"{i % 2}"]))
  (root / "t.tsv").write_text("\n".join(lines) + "\n")
  return root


def run(monkeypatch, root, out, **table):
  table = {"images": root, "caption": "name|other", "label": "kind"} | table
  source = f"table:{root}/t.tsv," + ",".join(
    f"{k}={v}" for k, v in table.items()
  )
  flags = "--checkpoint", root / "model", "--data", source, "--out", out
  monkeypatch.setattr("sys.argv", ["embed", *map(str, flags)])
  embed.run()


def test_vectors_and_records_lie_side_by_side(made, tmp_path, monkeypatch):
  out = tmp_path / "out"
  run(monkeypatch, made, out)
  assert sorted(os.listdir(tmp_path)) == ["out"]
  records = pq.read_table(out / "records.parquet").to_pydict()
  assert records["captions"] == CAPTIONS
  assert records["label"] == [0, 1, 0] and records["id"] == [0, 1, 2]
  images, texts = (np.load(out / f"{k}.npy") for k in ("images", "texts"))
  model = load(str(made / "model"))
  files = [made / f"{i}.png" for i in range(3)]
  flat = [text for several in CAPTIONS for text in several]
  np.testing.assert_array_equal(images, model.encode_image(files))
  np.testing.assert_array_equal(texts, model.encode_text(flat))
  about = json.loads((out / "about.json").read_text())
  logits = about["scale"] * images @ texts.T + about["bias"]
  np.testing.assert_allclose(logits, model.logits(files, flat), atol=1e-5)
  assert (about["images"], about["texts"], about["d"]) == (3, 5, 24)


def test_a_folder_that_is_in_use_is_left_alone(made, tmp_path, monkeypatch):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine").touch()
  with pytest.raises(errors.UserError, match="--out.*where nothing is"):
    run(monkeypatch, made, tmp_path / "out")
  assert os.listdir(tmp_path / "out") == ["mine"]


@pytest.mark.parametrize("size", ["0", "-3", "many"])
def test_no_batch_is_no_batch_size(size, monkeypatch):
  monkeypatch.setattr("sys.argv", ["embed", f"--batch_size={size}"])
  said = f"--batch_size = '{size}'; expected an integer from 1"
  with pytest.raises(errors.UserError, match=said):
    embed.run()


def test_a_picture_that_is_broken_leaves_nothing(made, tmp_path, monkeypatch):
  table = (made / "t.tsv").read_text() + "broken.png\tx\t\t1\n"
  (made / "broken.png").write_bytes(b"no picture")
  (made / "all.tsv").write_text(table)
  flags = [
    "--checkpoint", made / "model", "--out", tmp_path / "out", "--data",
    f"table:{made}/all.tsv,images={made},caption=name",
  ]  # fmt: skip
  monkeypatch.setattr("sys.argv", ["embed", *map(str, flags)])
  with pytest.raises(errors.UserError, match="broken.png.*unreadable"):
    embed.run()
  assert not os.listdir(tmp_path)


class Pictures(contract.Source):
  """Equal pictures with these captions, or without."""

  def __init__(self, captions):
    self.captions = captions

  def __len__(self):
    return len(self.captions)

  def __getitem__(self, i):
    picture = {"image": np.zeros((20, 24, 3), np.uint8), "id": 0}
    text = self.captions[i]
    return picture if text is None else picture | {"text": text}


def test_half_a_surrogate_pair_is_written_as_a_question_mark(loaded, tmp_path):
  found = embed.embed(
    loaded, Pictures(["half \ud83d of it", ["b", "c \udfff"]])
  )
  embed.write(tmp_path / "out", found, {"checkpoint": "x", "data": "y"})
  written = pq.read_table(tmp_path / "out" / "records.parquet").to_pydict()
  assert written["captions"] == [["half ? of it"], ["b", "c ?"]]
  flat = ["half ? of it", "b", "c ?"]
  texts = np.load(tmp_path / "out" / "texts.npy")
  np.testing.assert_array_equal(texts, loaded.encode_text(flat))


def test_a_caption_that_is_none_ends_it_before_anything_is_embedded(loaded):
  asked = []
  never = types.SimpleNamespace(images=asked.append, texts=asked.append)
  model = dataclasses.replace(loaded, embedder=never)
  for wrong in (["a", [None]], [["a"], ["b", 5.0]], [b"a", "b"]):
    with pytest.raises(errors.UserError, match="record [01] = "):
      embed.embed(model, Pictures(wrong))
  assert not asked


def test_records_without_captions_and_no_records_have_no_texts(
  loaded, tmp_path
):
  for i, source in enumerate(
    (Pictures([[], []]), Pictures([None]), Pictures([]))
  ):
    out = tmp_path / str(i)
    embed.write(out, embed.embed(loaded, source), {})
    about = json.loads((out / "about.json").read_text())
    assert (about["images"], about["texts"]) == (len(source), 0)
    assert about["d"] == 24
    table = pq.read_table(out / "records.parquet")
    assert table.column_names == ["id", "label", "captions"]
    assert table.schema.field("captions").type.value_type == pa.string()
    assert table.num_rows == len(source)


def test_about_is_strict_json(loaded, tmp_path):
  found = embed.embed(loaded, Pictures(["a"])) | {"scale": float("inf")}
  with pytest.raises(ValueError, match="JSON"):
    embed.write(tmp_path / "out", found, {})
  assert not list(tmp_path.iterdir())
