"""Every command reads from buckets and writes to them as on a disk."""

import buckets
import fsspec
import numpy as np
import pytest
import test_embed
import test_pack

from big_contrastive import convert, keep, pack, score
from big_contrastive.config import errors, rules
from big_contrastive.data.build import build_source
from big_contrastive.data.files import embedded, tables
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.inference.model import load
from big_contrastive.interop import model_files
from big_contrastive.storage import paths

made = test_embed.made
config = test_pack.config


def put(url, folder):
  """Copies a folder to a bucket, as gcloud storage cp -r would."""
  fsspec.filesystem(url.partition("://")[0]).put(
    f"{folder}/", url, recursive=True
  )


def run(command, monkeypatch, *flags):
  monkeypatch.setattr("sys.argv", ["x", *map(str, flags)])
  command.run()


def test_a_workdir_that_was_copied_there_is_read_there(bucket, small, loaded):
  put(f"{bucket}/copied", small)
  assert "copied/checkpoints/0/SHA256SUMS" in buckets.names(bucket)
  for path in ("copied", "copied/checkpoints/0"):
    ours = load(f"{bucket}/{path}")
    np.testing.assert_array_equal(
      ours.encode_text(["a red cat"]), loaded.encode_text(["a red cat"])
    )
  files = fsspec.filesystem(bucket.partition("://")[0])
  files.rm(f"{bucket}/copied/checkpoints/0/tokenizer", recursive=True)
  with pytest.raises(errors.UserError, match=r"damaged: tokenizer/.* missing"):
    load(f"{bucket}/copied")


@pytest.mark.parametrize("format", ["hugging_face", "checkpoint"])
def test_convert_writes_there_and_reads_it_back(
  format, bucket, small, tmp_path, monkeypatch
):
  there, here = f"{bucket}/{format}", tmp_path / "here"
  for target in (there, here):
    run(
      convert, monkeypatch, "--from", small, "--to", target, "--format", format
    )
  want = {str(p.relative_to(here)) for p in here.rglob("*") if p.is_file()}
  # Orbax gives its data files random names.
  found = set(buckets.names(there))
  assert {n for n in found if "/d/" not in n} == {
    n for n in want if "/d/" not in n
  }
  ours, theirs = (model_files.read(p).params for p in (there, here))
  for name, array in rules.flatten(ours).items():
    np.testing.assert_array_equal(array, rules.flatten(theirs)[name])
  with pytest.raises(errors.UserError, match="a path where nothing is"):
    run(convert, monkeypatch, "--from", small, "--to", there)


def test_single_files_are_read_from_there(bucket, small, tmp_path):
  npz = tmp_path / "model.npz"
  model_files.write(model_files.read(small), npz, "big_vision")
  files = fsspec.filesystem(bucket.partition("://")[0])
  files.put_file(str(npz), f"{bucket}/model.npz")
  found = model_files.read(f"{bucket}/model.npz")
  assert found.model == model_files.read(npz).model
  files.pipe_file(f"{bucket}/t.tsv", b"image\ttext\na.png\tone\n")
  assert tables.read_table(f"{bucket}/t.tsv", "x")[0]["text"] == "one"
  files.pipe_file(f"{bucket}/t.tsv", b"image\ttext\na.png\ttwo\n")
  assert tables.read_table(f"{bucket}/t.tsv", "x")[0]["text"] == "two"
  words = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\ncat\n"
  files.pipe_file(f"{bucket}/vocab.txt", words)
  made = build_tokenizer("bert", 8, path=f"{bucket}/vocab.txt")
  assert made.vocab_size == 6
  missing = f"{bucket}/missing.txt"
  with pytest.raises(errors.UserError, match=r"path = .*missing.txt.*exists"):
    build_tokenizer("bert", 8, path=missing)
  with pytest.raises(errors.UserError, match=r"--from = .*missing"):
    model_files.read(missing)


def test_pack_writes_there_what_it_writes_here(
  bucket, config, tmp_path, monkeypatch
):
  for out in (tmp_path, f"{bucket}/packed"):
    for name in ("a.tar", "a.parquet"):
      run(
        pack, monkeypatch, "--data", config, "--out", f"{out}/{name}",
        "--per_file", 3,
      )  # fmt: skip
  want = sorted(p.name for p in tmp_path.glob("a-*"))
  assert buckets.names(f"{bucket}/packed") == want
  files = fsspec.filesystem(bucket.partition("://")[0])
  for name in want:
    if not name.endswith("npz"):  # The index has the tar's time in it.
      here = (tmp_path / name).read_bytes()
      assert files.cat_file(f"{bucket}/packed/{name}") == here
  columns = "caption=json:captions,id=json:id,label=json:label"
  found = build_source(f"wds:{bucket}/packed/a-*.tar,{columns}", "x")
  here = build_source(config, "x")
  assert test_pack.records(found) == test_pack.records(here)
  with pytest.raises(errors.UserError, match="a new name"):
    run(pack, monkeypatch, "--data", config, "--out", f"{bucket}/packed/a.tar")


def test_pack_leaves_nothing_there_when_it_fails(bucket, config, monkeypatch):
  monkeypatch.setattr(pack._Good, "check", lambda self: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    run(
      pack, monkeypatch, "--data", config, "--out", f"{bucket}/failed/a.tar",
      "--per_file", 3,
    )  # fmt: skip
  assert not [n for n in buckets.names(f"{bucket}/failed") if ".npz" not in n]


def test_offline_work_there_is_that_of_here(
  bucket, made, tmp_path, monkeypatch, capsys
):
  """embed twice, score, keep and training's source: byte for byte."""
  roots = tmp_path, f"{bucket}/offline"
  for root in roots:
    test_embed.run(monkeypatch, made, f"{root}/parts")
    capsys.readouterr()
    test_embed.run(monkeypatch, made, f"{root}/parts")
    assert "records/s" not in capsys.readouterr().err  # Nothing is done again.
    run(
      score, monkeypatch, "--embedded", f"{root}/parts", "--out",
      f"{root}/scores",
    )  # fmt: skip
    run(
      keep, monkeypatch, "--scores", f"{root}/scores", "--out",
      f"{root}/kept.npy", "--fraction", "0.5",
    )  # fmt: skip
  here, there = (
    embedded.Folder(paths.at(f"{root}/parts", "x"), "x") for root in roots
  )
  files = fsspec.filesystem(bucket.partition("://")[0])
  for name in ("scores/scores.npy", "kept.npy"):
    assert (
      files.cat_file(f"{roots[1]}/{name}") == (tmp_path / name).read_bytes()
    )
  for a, b in zip(here.files, there.files, strict=True):
    assert a.read_bytes() == b.read_bytes()
  np.testing.assert_array_equal(here.read(1)[0], there.read(1)[0])
  one, two = (build_source(f"cached:{root}/parts", "x") for root in roots)
  assert len(one) == len(two) == 9
  assert [*map(bytes, one.outline()[:1]), *one.outline()[1:]] == [
    *map(bytes, two.outline()[:1]),
    *two.outline()[1:],
  ]


def test_a_damaged_part_there_is_done_again(bucket, made, monkeypatch, caplog):
  out = f"{bucket}/damaged"
  test_embed.run(monkeypatch, made, out)
  files = fsspec.filesystem(bucket.partition("://")[0])
  whole = files.cat_file(f"{out}/part-00001.parquet")
  files.pipe_file(f"{out}/part-00001.parquet", whole[:-20])
  test_embed.run(monkeypatch, made, out)
  assert "part-00001.parquet is done again" in caplog.text
  assert files.cat_file(f"{out}/part-00001.parquet") == whole
