"""Embedding by shards: what is in the parts is what the model says.

Whatever is killed, damaged, bad, added or changed: the result is that of one
run without any of it, or one line.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from concurrent import futures

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_shuffle import png

from big_contrastive import embed
from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data import source as contract
from big_contrastive.data.files import embedded as embedded_files
from big_contrastive.data.loader.draws import DRAWS
from big_contrastive.data.transforms import operations
from big_contrastive.inference.model import load
from big_contrastive.offline import folder, parts, tasks, worker
from big_contrastive.offline.embedding import Embedding, fixed
from big_contrastive.parallel import sharding

CAPTIONS = [["a red cat", "dogs"], ["dogs"], ["2 small cats", "the grass"]] * 3


def tell(line):
  del line


@pytest.fixture(scope="module")
def made(tmp_path_factory, small):
  """A checkpoint and a table of pictures with one caption or two."""
  root = tmp_path_factory.mktemp("embed")
  (root / "model").symlink_to(small)
  lines = ["image\tname\tother\tkind"]
  for i, captions in enumerate(CAPTIONS):
    (root / f"{i}.png").write_bytes(png(20, 24, 25 * i))
    lines.append("\t".join([f"{i}.png", *[*captions, ""][:2], f"{i % 2}"]))
  (root / "t.tsv").write_text("\n".join(lines) + "\n")
  return root


def run(monkeypatch, root, out, *flags, table="t.tsv"):
  source = f"table:{root}/{table},images={root},caption=name|other,label=kind"
  flags = (
    "--checkpoint", root / "model", "--data", source, "--out", out,
    "--per_shard", "4", "--batch_size", "1", *flags,
  )  # fmt: skip
  monkeypatch.setattr("sys.argv", ["embed", *map(str, flags)])
  embed.run()


def contents(out):
  return {p.name: p.read_bytes() for p in embedded_files.parts(out)}


def rows(out):
  tables = [pq.read_table(p) for p in embedded_files.parts(out)]
  return pa.concat_tables(
    [t.replace_schema_metadata(None) for t in tables]
  ).to_pydict()


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
  """The folder of a run that nothing disturbed."""
  out = tmp_path_factory.mktemp("whole") / "out"
  with pytest.MonkeyPatch.context() as patch:
    run(patch, made, out)
  return out


def test_vectors_and_records_lie_side_by_side(made, whole, small):
  loaded = load(small, batch_size=1)  # As many a device: the same bits.
  names = [f"part-0000{i}.parquet" for i in range(3)]
  assert sorted(os.listdir(whole)) == ["about.json", *names]
  found = rows(whole)
  assert found["captions"] == CAPTIONS
  assert found["id"] == list(range(9)) and found["label"] == [0, 1] * 4 + [0]
  assert found["bad"] == [None] * 9
  assert [k.rpartition(":")[2] for k in found["key"]] == [
    f"{i}.png" for i in range(9)
  ]
  files = [made / f"{i}.png" for i in range(9)]
  images = np.array(found["image"], np.float32)
  np.testing.assert_array_equal(images, loaded.encode_image(files))
  about = json.loads((whole / "about.json").read_text())
  for i, texts in enumerate(found["texts"]):
    ztxt = np.array(texts, np.float32)
    np.testing.assert_array_equal(ztxt, loaded.encode_text(CAPTIONS[i]))
    logits = about["scale"] * images[i] @ ztxt.T + about["bias"]
    expected = loaded.logits(files[i], CAPTIONS[i])[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(found["cosines"][i], ztxt @ images[i], atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_bytes_are_the_same_on_any_number_of_devices(
  n, small, mesh, tmp_path, monkeypatch
):
  def of(devices, folder):
    folder.mkdir()
    source = Pictures([f"caption {i}" for i in range(21)])
    over = mesh(devices)
    with monkeypatch.context() as patch:
      patch.setattr(sharding, "make_mesh", lambda: over)
      work = Embedding(load(small, batch_size=2 * devices), source)
    worker.run_all(tasks.tasks(21, folder, 10), work, tell)
    return contents(folder)

  assert of(n, tmp_path / "n") == of(4, tmp_path / "4")


def test_what_is_there_stays_and_what_is_missing_is_done(
  made, whole, tmp_path, monkeypatch, capsys
):
  out = shutil.copytree(whole, tmp_path / "out")
  tasks.path(out, 1).unlink()
  before = {i: tasks.path(out, i).stat().st_ino for i in (0, 2)}
  run(monkeypatch, made, out)
  assert contents(out) == contents(whole)
  assert before == {i: tasks.path(out, i).stat().st_ino for i in (0, 2)}
  assert "2 of 3 shards were there already" in capsys.readouterr().err


def test_workers_together_do_what_one_does(made, whole, tmp_path, monkeypatch):
  out = tmp_path / "out"
  run(monkeypatch, made, out, "--shards", "1/2")
  assert list(contents(out)) == ["part-00001.parquet"]
  monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
  monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
  monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "3")
  run(monkeypatch, made, out)
  assert contents(out) == contents(whole)


@pytest.mark.parametrize("at", ["embed", "write", "rename"])
def test_killed_in_the_middle_it_costs_one_shard(
  at, made, whole, tmp_path, monkeypatch
):
  out, calls = tmp_path / "out", []

  def dies(real):
    def called(*args, **kwargs):
      calls.append(args)
      if at == "write" and len(calls) == 2:
        args[1].write(b"half of it")
      if len(calls) == 2:
        raise KeyboardInterrupt
      return real(*args, **kwargs)

    return called

  owner, name = {
    "embed": (Embedding, "_images"),
    "write": (parts.pq, "write_table"),
    "rename": (parts.os, "fsync"),
  }[at]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(owner, name, dies(getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
      run(patch, made, out)
  left = {p.name for p in out.iterdir()} - {"about.json", "part-00000.parquet"}
  assert not left
  run(monkeypatch, made, out)
  assert contents(out) == contents(whole)


def test_a_full_disk_leaves_no_part(made, tmp_path, monkeypatch):
  def full(*args, **kwargs):
    args[1].write(b"half")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(parts.pq, "write_table", full)
  with pytest.raises(OSError, match="No space"):
    run(monkeypatch, made, tmp_path / "out")
  assert os.listdir(tmp_path / "out") == ["about.json"]


@pytest.mark.parametrize("how", ["cut", "bit", "empty"])
def test_a_damaged_part_is_done_again(
  how, made, whole, tmp_path, monkeypatch, caplog
):
  out = shutil.copytree(whole, tmp_path / "out")
  path = tasks.path(out, 1)
  data = bytearray(path.read_bytes())
  data[len(data) // 3] ^= 4
  path.write_bytes({"cut": data[:-9], "bit": data, "empty": b""}[how])
  assert parts.damage(path)
  run(monkeypatch, made, out)
  assert contents(out) == contents(whole)
  assert "part-00001.parquet is done again" in caplog.text


@pytest.mark.parametrize(
  "flags, said",
  [
    (("--dtype", "float16"), "made with another dtype"),
    (("--per_shard", "3"), "made with another per_shard"),
    (
      ("--views", "1", "--train_image", '[["resize", {"size": 16}]]'),
      "made with another views",
    ),
  ],
)
def test_parts_of_other_flags_are_an_error(
  flags, said, made, whole, tmp_path, monkeypatch
):
  out = shutil.copytree(whole, tmp_path / "out")
  kept = [k for k in ("--per_shard", "4") if "--per_shard" not in flags]
  source = f"table:{made}/t.tsv,images={made},caption=name|other,label=kind"
  argv = [
    "embed", "--checkpoint", made / "model", "--data", source, "--out", out,
    *kept, *flags,
  ]  # fmt: skip
  monkeypatch.setattr("sys.argv", [*map(str, argv)])
  with pytest.raises(errors.UserError, match=said):
    embed.run()
  assert contents(out) == contents(whole)


def test_parts_of_another_model_are_an_error(loaded, whole, tmp_path):
  """Also for a worker that finds a part, but not what wrote about.json."""
  out = shutil.copytree(whole, tmp_path / "out")
  (out / "about.json").unlink()
  params = loaded.params | {"img": loaded.params["txt"]}
  other = dataclasses.replace(loaded, params=params)
  work = Embedding(other, Pictures(CAPTIONS))
  with pytest.raises(errors.UserError, match="made with another model"):
    worker.run(tasks.tasks(9, out, 4)[0], work)


def test_records_that_are_added_are_done_and_others_stay(
  made, whole, tmp_path, monkeypatch
):
  out = shutil.copytree(whole, tmp_path / "out")
  lines = (made / "t.tsv").read_text().splitlines()
  for i in range(10, 14):
    (made / f"{i}.png").write_bytes(png(20, 24, 15 * i))
    lines.append(f"{i}.png\tnew {i}\t\t0")
  (made / "more.tsv").write_text("\n".join(lines) + "\n")
  kept = {i: tasks.path(out, i).stat().st_ino for i in (0, 1)}
  run(monkeypatch, made, out, table="more.tsv")
  assert kept == {i: tasks.path(out, i).stat().st_ino for i in (0, 1)}
  run(monkeypatch, made, tmp_path / "anew", table="more.tsv")
  assert contents(out) == contents(tmp_path / "anew")
  assert rows(out)["captions"] == [
    *CAPTIONS,
    *([f"new {i}"] for i in range(10, 14)),
  ]


@pytest.mark.parametrize("kind", ["fewer", "other", "put before"])
def test_other_records_are_an_error(kind, made, whole, tmp_path, monkeypatch):
  out = shutil.copytree(whole, tmp_path / "out")
  head, *lines = (made / "t.tsv").read_text().splitlines()
  lines = {
    "fewer": lines[:-1],
    "other": [*lines[1:], lines[0]],
    "put before": [lines[-1], *lines],
  }[kind]
  (made / "other.tsv").write_text("\n".join([head, *lines]) + "\n")
  said = "other data|folder of 9 records when it was begun"
  with pytest.raises(errors.UserError, match=said):
    run(monkeypatch, made, out, table="other.tsv")
  assert contents(out) == contents(whole)


def test_bad_records_are_counted_and_keep_their_row(
  made, whole, tmp_path, monkeypatch, caplog, capsys
):
  table = (made / "t.tsv").read_text().splitlines()
  table[3:3] = ["broken.png\tx\t\t1", "nowhere.png\tx\t\t1"]
  (made / "broken.png").write_bytes(b"no picture")
  (made / "bad.tsv").write_text("\n".join(table) + "\n")
  source = f"table:{made}/bad.tsv,images={made},caption=name|other,label=kind"
  del source
  run(monkeypatch, made, tmp_path / "out", table="bad.tsv")
  found, good = rows(tmp_path / "out"), rows(whole)
  lost = [i for i, kind in enumerate(found["bad"]) if kind]
  assert [found["bad"][i] for i in lost] == ["image"]
  for name in ("image", "id", "label", "cosines", "texts", "captions"):
    empty = [] if name in ("cosines", "texts", "captions") else None
    assert all(found[name][i] == empty for i in lost), name
  kept = [i for i in range(len(found["bad"])) if i not in lost]
  assert [found["image"][i] for i in kept] == good["image"]
  assert [found["texts"][i] for i in kept] == good["texts"]
  assert "bad record (image): " in caplog.text
  assert "1 of them bad {'image': 1}" in capsys.readouterr().err


class Pictures(contract.Source):
  """Pictures that differ with these captions, or without."""

  def __init__(self, captions, fault=None):
    self.captions, self.fault = captions, fault or {}

  def __len__(self):
    return len(self.captions)

  def __getitem__(self, i):
    if i in self.fault:
      raise self.fault[i]
    image = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
    picture, text = {"image": image, "id": i}, self.captions[i]
    return picture if text is None else picture | {"text": text}


def table_of(model, source, **kwargs):
  (task,) = tasks.tasks(len(source), pathlib.Path("nowhere"))
  table, bad = Embedding(model, source, **kwargs)(task)
  return table, bad


def test_a_caption_that_is_no_text_is_a_bad_record(loaded):
  captions = ["a", [None], ["b", 5.0], b"a", [], "half \ud83d of it"]
  table, bad = table_of(loaded, Pictures(captions))
  assert bad == {"type": 3}
  expected = [["a"], [], [], [], [], ["half ? of it"]]
  assert table["captions"].to_pylist() == expected
  lengths = [len(c) for c in table["cosines"].to_pylist()]
  assert lengths == [len(e) for e in expected]


def test_storage_that_is_away_is_no_bad_record(loaded, tmp_path):
  """A few are; more than one in a hundred and twenty leave nothing."""
  away = {i: OSError("connection refused") for i in range(21)}
  for n, fails in ((20, False), (21, True)):
    source = Pictures(["x"] * 40, {i: away[i] for i in range(n)})
    (task,) = tasks.tasks(40, tmp_path)
    if fails:
      said = "unreadable records of shard 0 = 21; expected at most 20"
      task = dataclasses.replace(task, path=tmp_path / "part-00001.parquet")
      with pytest.raises(errors.UserError, match=said):
        worker.run(task, Embedding(loaded, source))
      assert [p.name for p in tmp_path.iterdir()] == ["part-00000.parquet"]
    else:
      stats = worker.run(task, Embedding(loaded, source))
      assert stats.bad == {"read": 20} and stats.done


def test_an_error_of_the_user_is_no_bad_record(loaded):
  fault = errors.UserError("label", "x", "a class", "Fix it.")
  with pytest.raises(errors.UserError, match="label = 'x'"):
    table_of(loaded, Pictures(["a", "b"], {1: fault}))


def test_workers_that_begin_at_once_agree(loaded, tmp_path):
  """On about.json, too, which all of them write."""
  work = Embedding(loaded, Pictures(["a"] * 6))
  out = tmp_path / "out"
  with futures.ThreadPoolExecutor(8) as pool:
    begun = [
      pool.submit(folder.describe, out, work, {"per_shard": 2})
      for _ in range(32)
    ]
  assert [one.result() for one in begun] == [None] * 32
  assert [p.name for p in out.iterdir()] == ["about.json"]


def test_what_stands_for_a_bad_record_need_not_be_a_vector(loaded, monkeypatch):
  """As of a tower that gives zeros for gray."""
  gone = bad_records.BadRecord("missing", "no file")
  source = Pictures(["a", "b", "c"], {1: gone})
  real = loaded.embedder.embed_image

  def zeros(params, batch):
    z, *others = real(params, batch)
    gray = (batch["image"] == 128).all((1, 2, 3))
    return z * ~gray[:, None], *others

  monkeypatch.setattr(loaded.embedder, "embed_image", zeros)
  table, bad = table_of(loaded, source)
  assert bad == {"missing": 1} and table["image"].null_count == 1


def test_all_records_may_be_bad_or_without_captions(loaded):
  gone = bad_records.BadRecord("missing", "no file")
  table, bad = table_of(loaded, Pictures([["a"], "b"], {0: gone, 1: gone}))
  assert bad == {"missing": 2} and table["image"].null_count == 2
  table, bad = table_of(loaded, Pictures([None, []]))
  assert not bad and table["texts"].to_pylist() == [[], []]
  assert table["image"].null_count == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_vectors_are_rounded_to_their_dtype(dtype):
  z = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
  column = fixed(z, dtype, np.array([True, True, False, True, True]))
  assert column.is_valid().to_pylist() == [True, True, False, True, True]
  kept = np.asarray(column.flatten()).reshape(4, 7)
  expected = z[[0, 1, 3, 4]].astype(getattr(ml_dtypes, dtype, dtype))
  if dtype == "bfloat16":
    assert kept.dtype == np.uint16
    wide = (kept.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(wide, expected.astype(np.float32))
  else:
    np.testing.assert_array_equal(kept, expected)


def test_without_vectors_there_are_the_cosines(loaded):
  source = Pictures([["a", "b"], "c"])
  less, _ = table_of(loaded, source, dtype="none")
  full, _ = table_of(loaded, source)
  assert not {"image", "texts"} & set(less.column_names)
  assert less["cosines"].to_pylist() == full["cosines"].to_pylist()


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_duckdb_and_polars_read_the_parts(dtype, loaded, tmp_path):
  duckdb = pytest.importorskip("duckdb")
  polars = pytest.importorskip("polars")
  fault = {1: bad_records.BadRecord("missing", "no file")}
  source = Pictures([["a", "b"], "c", None], fault)
  work = Embedding(loaded, source, dtype)
  worker.run_all(tasks.tasks(3, tmp_path, 2), work, tell)
  expected = rows(tmp_path)
  columns = [k for k in expected if k != "texts"]
  query = f"SELECT {', '.join(columns)}, texts FROM '{tmp_path}/*.parquet'"
  cells = duckdb.sql(query).fetchall()
  by_polars = polars.read_parquet(f"{tmp_path}/*.parquet").to_dicts()
  for i in range(3):
    ducks = dict(zip([*columns, "texts"], cells[i], strict=True))
    for found in (ducks, by_polars[i]):
      assert found["bad"] == expected["bad"][i]
      assert found["key"] == expected["key"][i]
      for name in ("image", "texts", "cosines"):
        mine, theirs = expected[name][i], found[name]
        assert (mine is None) == (theirs is None), name
        if mine is not None:
          np.testing.assert_array_equal(
            np.array(theirs, np.float64), np.array(mine, np.float64)
          )


CROP = [
  ["random_resized_crop", {"size": 16, "area": [0.3, 1.0]}],
  ["flip_lr", {}],
]


def test_a_view_is_the_crop_of_its_seed_record_and_number(loaded):
  ops, source = operations.parse(CROP, "x"), Pictures(["a"] * 5)
  table, _ = table_of(loaded, source, views=[ops] * 3, seed=7)
  for k in range(3):
    crops = [ops(source[i]["image"], DRAWS.at(7, i, block=k)) for i in range(5)]
    expected = loaded.embedder.images(
      loaded.params, [{"image": c, "id": 0} for c in crops]
    )
    np.testing.assert_array_equal(
      np.array(table[f"view_{k}"].to_pylist(), np.float32), expected.zimg
    )
  views = [table[f"view_{k}"].to_pylist() for k in range(3)]
  assert views[0] != views[1] != views[2]


def test_views_do_not_depend_on_the_shards(loaded, tmp_path):
  ops, source = operations.parse(CROP, "x"), Pictures(["a"] * 6)
  for size in (2, 6):
    out = tmp_path / str(size)
    out.mkdir()
    work = Embedding(loaded, source, views=[ops] * 2)
    worker.run_all(tasks.tasks(6, out, size), work, tell)
  assert rows(tmp_path / "2") == rows(tmp_path / "6")


@pytest.mark.parametrize("size", ["0", "-3", "many"])
def test_no_batch_is_no_batch_size(size, monkeypatch):
  monkeypatch.setattr("sys.argv", ["embed", f"--batch_size={size}"])
  said = f"--batch_size = '{size}'; expected an integer from 1"
  with pytest.raises(errors.UserError, match=said):
    embed.run()


def test_a_folder_that_is_in_use_is_left_alone(made, tmp_path, monkeypatch):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine").touch()
  with pytest.raises(errors.UserError, match="--out.*It holds mine"):
    run(monkeypatch, made, tmp_path / "out")
  assert os.listdir(tmp_path / "out") == ["mine"]
