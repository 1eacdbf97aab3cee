"""CapFilt: captions and scores in parts are what the models say of records.

In any sharding, after any kill; and training gets the captions that score well.
"""

import dataclasses
import json
import pathlib
import pickle
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_convert import filled
from test_shuffle import png

from benchmarks import capfilt
from big_contrastive import caption
from big_contrastive.config import errors
from big_contrastive.data import bad_records, filters
from big_contrastive.data import source as contract
from big_contrastive.data.build import build_source
from big_contrastive.data.files import embedded as embedded_files
from big_contrastive.data.loader import fingerprint
from big_contrastive.data.source import Records
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.inference.model import load
from big_contrastive.inference.no_tokenizer import NoTokenizer
from big_contrastive.interop import model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models.captioning.generation import Decoding
from big_contrastive.models.model import merge
from big_contrastive.offline import captioning, folder, parts, tasks, worker
from big_contrastive.offline.captioning import Captioning
from big_contrastive.parallel import sharding

CAPTIONS = [["a red cat", "dogs"], ["dogs"], ["2 small cats", "grass"]] * 3
YES = 8.6  # So that about half of the pairs match.
SIZE = {"width": 16, "depth": 1, "mlp": 32, "heads": 2}
WORDS = build_tokenizer("bytes", 12, bos=True)
HOW = Decoding("nucleus", 8, 3, repetition_penalty=1.1)


def bundle(res=16, **text):
  """A small BLIP whose captions and matches differ from picture to picture."""
  ids = WORDS.vocab_size
  sections = {
    "image": {"variant": "mu/8", "res": res, "pool": "tok", "out_dim": 12,
              "out_bias": True, **SIZE},
    "text": {"tower": "blip", "variant": "mu", "out_dim": 12, "pad_id": 0,
             "vocab_size": ids + 2, "dec_id": ids, "enc_id": ids + 1, **SIZE,
             **text},
    "scale": 5.0,
  }  # fmt: skip
  found = filled(sections, [["resize", {"size": res}]], WORDS)
  del found.params["b"]
  if "match" in found.params["txt"]:  # Answers of all degrees.
    found.params["txt"]["match"]["kernel"] *= 20
    found.params["txt"]["match"]["bias"] = np.array([0, YES], np.float32)
  if "logit_bias" in found.params["txt"]:
    # Letters and spaces alone are said, and EOS.
    likely = np.full(ids + 2, -100, np.float32)
    said = [*b"abcdefgh "]
    likely[[*WORDS.rows(["abcdefgh "])[0][1 : 1 + len(said)]]] = 0
    likely[WORDS.eos_id] = -1
    found.params["txt"]["logit_bias"] = likely
  return ModelBundle(
    sections, found.params, WORDS.spec, WORDS.blob, found.image
  )


@pytest.fixture(scope="module")
def made(tmp_path_factory, small):
  """Checkpoints, and a table of pictures with one caption or two."""
  root = tmp_path_factory.mktemp("caption")
  model_files.write(bundle(), root / "blip", "checkpoint")
  model_files.write(bundle(24, decoder=False), root / "judge", "checkpoint")
  model_files.write(bundle(match=False), root / "blind", "checkpoint")
  (root / "towers").symlink_to(small)
  lines = ["image\tname\tother\tkind"]
  for i, captions in enumerate(CAPTIONS):
    (root / f"{i}.png").write_bytes(png(20, 24, 25 * i))
    lines.append("\t".join([f"{i}.png", *[*captions, ""][:2], f"{i % 2}"]))
  (root / "t.tsv").write_text("\n".join(lines) + "\n")
  return root


@pytest.fixture(scope="module")
def blip(made):
  return load(made / "blip", batch_size=8)


def spec(root, table="t.tsv"):
  return f"table:{root}/{table},images={root},caption=name|other,label=kind"


def run(
  monkeypatch, root, out, *flags, table="t.tsv", model="blip", per_shard=4
):
  flags = (
    "--model", root / model, "--data", spec(root, table), "--out", out,
    "--per_shard", per_shard, "--batch_size", "1", "--max_tokens", "8", *flags,
  )  # fmt: skip
  monkeypatch.setattr("sys.argv", ["caption", *map(str, flags)])
  caption.run()


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


def probability(model, picture, text):
  """Of "yes", of one pair, once on each device."""
  towers = merge(model.embedder.graph, model.params)
  image = model.embedder.image(picture, None)
  seen, _, mask = towers.img.features(jnp.stack([image] * 8))
  row = jnp.asarray(model.embedder.tokenizer.rows([text] * 8))
  logits = towers.txt.matched(towers.txt.grounded(row, seen, mask))
  return float(jax.nn.softmax(logits)[0, 1])


def test_captions_and_scores_are_what_the_model_says(made, whole, blip):
  found = rows(whole)
  assert list(found) == ["key", "id", "label", "captions", "bad"]
  assert found["id"] == list(range(9)) and found["label"] == [0, 1] * 4 + [0]
  assert found["bad"] == [None] * 9
  pictures = [{"image": (made / f"{i}.png").read_bytes(), "id": i}
              for i in range(9)]  # fmt: skip
  said = blip.embedder.bound(blip.params).captions.generate
  how = Decoding("nucleus", 8, 5, repetition_penalty=1.1)
  expected, _ = said(Records(pictures), how)
  assert len(set(expected)) > 3
  for i, captions in enumerate(found["captions"]):
    own, new = captions[:-1], captions[-1]
    assert [c["text"] for c in own] == CAPTIONS[i]
    assert {c["source"] for c in own} == {"web"}
    assert new["source"] == "synthetic" and new["text"] == expected[i]
    for c in captions:
      p = probability(blip, pictures[i]["image"], c["text"])
      np.testing.assert_allclose(c["score"], p, rtol=1e-4, atol=1e-6)
  scores = [c["score"] for each in found["captions"] for c in each]
  assert 0 <= min(scores) < 0.4 and 0.6 < max(scores) <= 1
  about = json.loads((whole / "about.json").read_text())
  assert about["made"]["by"] == "match"
  assert about["made"]["captioner"] == about["made"]["filter"]
  assert about["made"]["decoding"]["top_p"] == 0.9
  assert about["filter"] == about["model"] == str(made / "blip")


def test_the_filter_may_be_another_model_of_another_size(
  made, whole, tmp_path, monkeypatch
):
  run(monkeypatch, made, tmp_path / "o", "--filter", made / "judge")
  judge, found, before = load(made / "judge"), rows(tmp_path / "o"), rows(whole)
  for i, captions in enumerate(found["captions"]):
    texts = [c["text"] for c in captions]
    assert texts == [c["text"] for c in before["captions"][i]]
    data = (made / f"{i}.png").read_bytes()
    for c in captions:
      p = probability(judge, data, c["text"])
      np.testing.assert_allclose(c["score"], p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("which", ["towers", "judge"])
def test_two_towers_score_by_cosine(which, made, tmp_path, monkeypatch):
  more = ("--by", "cosine") if which == "judge" else ()
  run(monkeypatch, made, tmp_path / "o", "--filter", made / which, *more)
  towers, found = load(made / which), rows(tmp_path / "o")
  for i, captions in enumerate(found["captions"]):
    zimg = towers.encode_image(made / f"{i}.png")
    ztxt = towers.encode_text([c["text"] for c in captions])
    scores = [c["score"] for c in captions]
    np.testing.assert_allclose(scores, (zimg @ ztxt.T)[0], atol=1e-5)


def test_captions_alone_have_no_scores(made, whole, tmp_path, monkeypatch):
  run(monkeypatch, made, tmp_path / "o", "--by", "none")
  expected = [
    [c | {"score": None} for c in each] for each in rows(whole)["captions"]
  ]
  assert rows(tmp_path / "o")["captions"] == expected
  with pytest.raises(errors.UserError, match="expected captions with scores"):
    pooled(made, tmp_path / "o")


@pytest.mark.parametrize("size", ["2", "3", "9"])
def test_captions_are_the_same_in_any_sharding(
  size, made, whole, tmp_path, monkeypatch
):
  run(monkeypatch, made, tmp_path / "o", "--shards", "1/2")
  run(monkeypatch, made, tmp_path / "o", "--shards", "0/2")
  assert contents(tmp_path / "o") == contents(whole)
  out, found = tmp_path / "p", rows(whole)
  run(monkeypatch, made, out, per_shard=size)
  assert rows(out) == found


@pytest.mark.parametrize("n", [1, 2, 8])
def test_captions_are_the_same_on_any_number_of_devices(
  n, made, mesh, monkeypatch
):
  """And scores up to rounding."""

  def of(devices):
    over = mesh(devices)
    with monkeypatch.context() as patch:
      patch.setattr(sharding, "make_mesh", lambda: over)
      model = load(made / "blip", batch_size=2 * devices)
    found, _ = table_of(model, Pictures([f"{i}" for i in range(21)]))
    flat = [c for each in found["captions"].to_pylist() for c in each]
    return [c["text"] for c in flat], [c["score"] for c in flat]

  (texts, scores), (expected, close) = of(n), of(4)
  assert texts == expected
  np.testing.assert_allclose(scores, close, atol=1e-5)


@pytest.mark.parametrize("at", ["caption", "write"])
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
    "caption": (Captioning, "_over"), "write": (parts.pq, "write_table")
  }[at]  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(owner, name, dies(getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
      run(patch, made, out)
  names = sorted(p.name for p in out.iterdir())
  assert names == ["about.json", "part-00000.parquet"]
  before = tasks.path(out, 0).stat().st_ino
  run(monkeypatch, made, out)
  assert contents(out) == contents(whole)
  assert before == tasks.path(out, 0).stat().st_ino


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (("--top_p", "0.5"), "made with another decoding"),
    (("--seed", "1"), "made with another seed"),
    (("--prompt", "a "), "made with another prompt"),
    (("--by", "cosine"), "made with another by"),
  ],
)
def test_parts_of_other_flags_are_an_error(
  flags, said, made, whole, tmp_path, monkeypatch
):
  out = shutil.copytree(whole, tmp_path / "out")
  with pytest.raises(errors.UserError, match=said):
    run(monkeypatch, made, out, *flags)
  assert contents(out) == contents(whole)


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
  return Captioning(model, source, HOW, **kwargs)(task)


def test_bad_records_are_counted_and_change_no_other(blip):
  captions = ["a", "b", [None], ["c", "d"], None, [" ", "e"]]
  gone = bad_records.BadRecord("missing", "no file")
  table, bad = table_of(blip, Pictures(captions, {1: gone}))
  assert bad == {"missing": 1, "type": 1}
  kinds = [None, "missing", "type", None, None, None]
  assert table["bad"].to_pylist() == kinds
  assert table["id"].to_pylist() == [0, None, None, 3, 4, 5]
  every = table["captions"].to_pylist()
  web = [[c["text"] for c in each if c["source"] == "web"] for each in every]
  assert web == [["a"], [], [], ["c", "d"], [], [" ", "e"]]
  assert [len(each) for each in every] == [2, 0, 0, 3, 1, 3]
  assert every[5][0]["score"] is None and every[5][1]["score"] is not None
  fine = ["a", "b", "c", ["c", "d"], None, [" ", "e"]]
  others, _ = table_of(blip, Pictures(fine))
  others = others["captions"].to_pylist()
  assert [others[i] for i in (0, 3, 4, 5)] == [every[i] for i in (0, 3, 4, 5)]


def test_all_records_may_be_bad(blip):
  gone = bad_records.BadRecord("missing", "no file")
  table, bad = table_of(blip, Pictures(["a", "b"], {0: gone, 1: gone}))
  assert bad == {"missing": 2} and table["captions"].to_pylist() == [[], []]


def pooled(root, out, threshold=None, table="t.tsv", **more):
  given = {"captions": str(out)} | more
  if threshold is not None:
    given["threshold"] = threshold
  section = {
    "name": "table", "captions": f"{root}/{table}", "images": str(root),
    "caption": "name|other", "label": "kind", "filter": given,
  }  # fmt: skip
  return build_source(section, "config.source")


@pytest.mark.parametrize("threshold", [None, 0.2, 0.9])
def test_what_trains_is_what_scores_well(threshold, made, whole, caplog):
  source, least = pooled(made, whole, threshold), threshold or 0.5
  expected = {
    i: [c["text"] for c in each if c["score"] >= least]
    for i, each in enumerate(rows(whole)["captions"])
  }
  kept = [i for i, texts in expected.items() if texts]
  assert 0 < len(kept) < 9 or threshold == 0.2
  assert [source[k]["id"] for k in range(len(source))] == kept
  assert [source[k]["text"] for k in range(len(source))] == [
    expected[i] for i in kept
  ]
  assert source.name(0).endswith(f"{kept[0]}.png")
  left = 9 - len(kept)
  assert source.skipped == (
    {f"no caption that scores {least:g}": left} if left else {}
  )
  assert (f"{left} left out: no caption" in caplog.text) == bool(left)
  again = pickle.loads(pickle.dumps(source))
  assert again[0]["text"] == source[0]["text"]
  other = pooled(made, whole, 0.3 if threshold == 0.2 else 0.2)
  assert fingerprint.fingerprint(again) == fingerprint.fingerprint(source)
  assert fingerprint.fingerprint(other) != fingerprint.fingerprint(source)


def test_pooled_captions_go_with_lists_and_lengths(made, whole, tmp_path):
  every = pooled(made, whole, 0.2)
  kept = [every[k]["id"] for k in range(len(every))]
  np.save(tmp_path / "list.npy", np.array([*kept[1:3], 8]))
  some = pooled(made, whole, 0.2, keep=str(tmp_path / "list.npy"))
  assert [r["id"] for r in some] == sorted({*kept[1:3], 8} & {*kept})
  long = pooled(made, whole, 0.2, min_caption=5)
  for record in long:
    assert all(len(t.strip()) >= 5 for t in record["text"])
  assert 0 < len(long) <= len(every)


def test_a_bad_record_is_left_out_and_counted(blip, tmp_path):
  gone = bad_records.BadRecord("missing", "no file")
  source = Pictures(["a", "b", "c", "d"], {2: gone})
  work = Captioning(blip, source, HOW)
  (tmp_path / "o").mkdir()
  folder.describe(tmp_path / "o", work, {"per_shard": 3})
  for task in tasks.tasks(4, tmp_path / "o", 3):
    worker.run(task, work)
  data = filters.apply(source, captions=str(tmp_path / "o"), threshold=0.0)
  assert [r["id"] for r in data] == [0, 1, 3]
  assert data.skipped == {"could not be captioned": 1}
  assert data.source.kept.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
  ("threshold", "said"),
  [
    (1.5, "filter.threshold = 1.5; expected a number from 0 to 1, a match"),
    (float("nan"), "filter.threshold = nan"),
    (1.0, "filter = 'nothing left'; .*no caption that scores 1"),
  ],
)
def test_no_threshold_is_one_line(threshold, said, made, whole):
  with pytest.raises(errors.UserError, match=said):
    pooled(made, whole, threshold)


def test_folders_that_do_not_fit_are_one_line(
  made, whole, tmp_path, monkeypatch
):
  def fails(out, said, **more):
    with pytest.raises(errors.UserError, match=said):
      pooled(made, out, **more)

  head, *lines = (made / "t.tsv").read_text().splitlines()
  for name, some in {"fewer": lines[:-1], "moved": lines[::-1]}.items():
    (made / f"{name}.tsv").write_text("\n".join([head, *some]) + "\n")
  fails(whole, "of 9 records'; expected .*8 records", table="fewer.tsv")
  fails(whole, "of other data'; expected captions of", table="moved.tsv")
  fails(tmp_path / "no", "a folder that caption has written")
  out = shutil.copytree(whole, tmp_path / "out")
  tasks.path(out, 1).unlink()
  fails(out, "5 of 9 records.*Give the command of caption again")
  shutil.copy(tasks.path(whole, 1), out)
  about = json.loads((out / "about.json").read_text())
  (out / "about.json").write_text(json.dumps(about | {"made": {}}))
  fails(out, "made with another model or other flags")
  with pytest.raises(errors.UserError, match="filter.captions is missing"):
    filters.apply(Records([]), threshold=0.5)
  run(monkeypatch, made, tmp_path / "c", "--filter", made / "towers")
  fails(tmp_path / "c", "filter.threshold is missing.*from -1 to 1, a cosine")
  assert len(pooled(made, tmp_path / "c", -1.0)) == 9


@pytest.mark.parametrize(
  ("model", "flags", "said"),
  [
    ("towers", (), "decoder of --model is missing; expected a model with a"),
    ("judge", (), "decoder of --model is missing"),
    ("blind", ("--by", "match"), "--by = 'match'; expected cosine or none"),
    ("blip", ("--top_p", "2"), "--top_p = 2.0; expected a number above 0"),
    ("blip", ("--min_tokens", "9"), "--min_tokens = 9; expected at most max"),
    ("blip", ("--prompt", "x" * 20), "--prompt = 'x*'; expected a text"),
    ("blip", ("--prompt", "aaaaa"), "--max_tokens = 8; expected at most 7"),
    ("blip", ("--method", "beams"), "--method = .*Did you mean 'beam'"),
    ("blip", ("--filter", "nowhere"), "--filter = 'nowhere'"),
  ],
)  # fmt: skip
def test_what_can_not_be_is_one_line(
  model, flags, said, made, tmp_path, monkeypatch
):
  with pytest.raises(errors.UserError, match=said):
    run(monkeypatch, made, tmp_path / "o", *flags, model=model)
  assert not (tmp_path / "o").exists()


def test_a_captioner_alone_has_no_scores(made, blip):
  """As CapPa, which has no text tower."""
  with pytest.raises(errors.UserError, match="--by none for captions without"):
    captioning._way(blip_without_text(blip), None)


def blip_without_text(model):
  nothing = types.SimpleNamespace(tokenizer=NoTokenizer("x", has_text=False))
  return dataclasses.replace(model, embedder=nothing)


def test_the_figures_of_the_recipe_by_hand():
  """Records 0 and 1 have their own captions, 2, 3 and 4 those of others."""
  columns = [
    # record, web, true, score
    (0, True, True, 0.9), (0, False, True, 0.8),
    (1, True, True, 0.2), (1, False, False, 0.1),
    (2, True, False, 0.3), (2, False, True, 0.7),
    (3, True, False, 0.6), (3, False, True, 0.9),
    (4, True, False, 0.1), (4, False, False, 0.5),
  ]  # fmt: skip
  names = ("record", "web", "true", "score")
  found = dict(zip(names, map(np.array, zip(*columns, strict=True))))
  wrong = np.array([False, False, True, True, True])
  assert capfilt.figures(found, wrong, 0.5) == pytest.approx(
    {
      "precision": 1 / 2, "recall": 1 / 2, "area": (3 + 1) / 6,
      "true": 3 / 5, "kept_true": 3 / 4, "restored": 1 / 3, "lost": 1 / 5,
      "pool_before": 2 / 5, "pool": 4 / 6,
    }
  )  # fmt: skip


def test_numbers_that_are_not_finite_end_the_run(blip):
  params = jax.tree.map(lambda x: x, blip.params)
  params["txt"]["match"]["bias"] = jnp.full(2, jnp.nan)
  broken = dataclasses.replace(blip, params=params)
  with pytest.raises(errors.RunError, match="the filter: not finite: scores"):
    table_of(blip, Pictures(["a", "b"]), judge=broken)
