"""Scores, rules, and the best records, beside NumPy's formulas."""

import json
import pickle

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from scipy.special import logsumexp

from big_contrastive import keep, score
from big_contrastive.config import errors
from big_contrastive.data import filters
from big_contrastive.data.files import embedded as embedded_files
from big_contrastive.data.loader import fingerprint
from big_contrastive.data.source import Records
from big_contrastive.offline import (
  parts,
  picture,
  scoring,
  selection,
  tasks,
  text_and_size,
)
from big_contrastive.offline.embedding import fixed

D = 6
# How many captions each record has; None for a bad record.
CAPTIONS = [1, 2, 0, 1, None, 3, 1, 1, 2, 1, 1]


def unit(r, n):
  z = r.normal(size=(n, D))
  return np.float32(z / np.linalg.norm(z, axis=-1, keepdims=True))


@pytest.fixture
def embedded(tmp_path):
  """Parts of four records each, and what is in them."""
  r = np.random.default_rng(0)
  zimg, ztxt = unit(r, len(CAPTIONS)), [unit(r, n or 0) for n in CAPTIONS]
  out = tmp_path / "embedded"
  out.mkdir()
  about = {
    "scale": 7.0, "bias": 0.0, "per_shard": 4, "data": "x",
    "records": {"records": len(CAPTIONS), "digest": ""},
    "made": {"dtype": "float32", "model": {}},
  }  # fmt: skip
  (out / embedded_files.ABOUT).write_text(json.dumps(about))
  for task in tasks.tasks(len(CAPTIONS), out, 4):
    rows = range(task.start, task.stop)
    good = np.array([CAPTIONS[i] is not None for i in rows])
    flat = np.concatenate([ztxt[i] for i in rows])
    offsets = np.cumsum([0, *(len(ztxt[i]) for i in rows)]).astype(np.int32)
    cosines = np.concatenate([ztxt[i] @ zimg[i] for i in rows])
    table = {
      "bad": pa.array([None if ok else "image" for ok in good], pa.string()),
      "image": fixed(zimg[task.start : task.stop], "float32", good),
      "texts": pa.ListArray.from_arrays(offsets, fixed(flat, "float32")),
      "cosines": pa.ListArray.from_arrays(offsets, pa.array(cosines)),
      "captions": pa.array(
        [[f"{i} a" + " b" * i] * len(ztxt[i]) for i in rows],
        pa.list_(pa.string()),
      ),
      "width": pa.array([10 * i for i in rows], pa.int32(), mask=~good),
      "height": pa.array([50] * len(task), pa.int32(), mask=~good),
    }
    parts.write(task.path, pa.table(table), {})
  return out, zimg, ztxt


def joined(found):
  blocks = list(found)
  ends = np.cumsum([len(b) for _, b in blocks])
  assert [f for f, _ in blocks] == [0, *ends[:-1]]
  return np.concatenate([b for _, b in blocks])


def test_a_cosine_is_that_of_the_best_caption(embedded):
  out, zimg, ztxt = embedded
  found = joined(scoring.cosines(scoring.Parts(out, "x")))
  expected = [
    max(z @ x) if len(z) else np.nan for x, z in zip(zimg, ztxt, strict=True)
  ]
  np.testing.assert_allclose(found, expected, atol=1e-6)


def expected_normalized(zimg, ztxt, reference, scale=7.0):
  """In float64: minus half of the two losses of a pair among a reference."""
  x = zimg.astype(np.float64)
  first = {j: ztxt[j][0].astype(np.float64) for j in reference}
  best = []
  for i, several in enumerate(ztxt):
    scores = [-np.inf]
    for z in several.astype(np.float64):
      own = scale * x[i] @ z
      others = [j for j in reference if j != i]
      rows = logsumexp([own, *(scale * x[i] @ first[j] for j in others)])
      columns = logsumexp([own, *(scale * z @ x[j] for j in others)])
      scores.append(own - (rows + columns) / 2)
    best.append(max(scores) if len(several) else np.nan)
  return best


@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_normalized_score_is_minus_the_pairs_loss(n, embedded, mesh):
  out, zimg, ztxt = embedded
  full = [i for i, k in enumerate(CAPTIONS) if k]
  found = scoring.Parts(out, "x")
  scores = joined(scoring.normalized(found, mesh(n), 100, 0))
  expected = expected_normalized(zimg, ztxt, full)
  np.testing.assert_allclose(scores, expected, atol=2e-6)
  of_one = joined(scoring.normalized(found, mesh(1), 100, 0))
  np.testing.assert_array_equal(scores, of_one)


def test_a_reference_is_drawn_by_its_seed(embedded, mesh):
  out, zimg, ztxt = embedded
  found = scoring.Parts(out, "x")
  rng = np.random.default_rng(3)
  drawn = rng.choice(len(CAPTIONS), 5, replace=False, shuffle=False)
  scores = joined(scoring.normalized(found, mesh(2), 5, 3))
  reference = sorted(i for i in drawn if CAPTIONS[i])
  expected = expected_normalized(zimg, ztxt, reference)
  np.testing.assert_allclose(scores, expected, atol=2e-6)
  other = joined(scoring.normalized(found, mesh(2), 5, 4))
  assert not np.allclose(scores, other, equal_nan=True)


def test_a_missing_part_is_an_error(embedded):
  out = embedded[0]
  tasks.path(out, 1).unlink()
  said = "1 of 3 missing: part-00001.parquet'; expected .*Give the command"
  with pytest.raises(errors.UserError, match=said):
    scoring.Parts(out, "--embedded")


def test_rules_leave_out_each_record_for_one_reason():
  table = pa.table(
    {
      "captions": [["a b"], ["a", "b c d"], [" ab  "], [], ["一二三"]],
      "width": pa.array([300, 100, 900, None, 200], pa.int32()),
      "height": pa.array([200, 300, 200, None, 200], pa.int32()),
    }
  )

  def broken(**rules):
    found = text_and_size.Rules(**rules).broken(table)
    return {k: np.flatnonzero(v).tolist() for k, v in found.items()}

  assert broken() == {}
  assert broken(min_side=150) == {"short side": [1]}
  assert broken(min_side=150, max_aspect=2) == {
    "short side": [1], "aspect": [2]
  }  # fmt: skip
  assert broken(max_aspect=4.5) == {"aspect": []}
  assert broken(min_words=2) == {"caption": [2, 4]}
  assert broken(min_words=3) == {"caption": [0, 2, 4]}
  assert broken(min_characters=3) == {"caption": [2]}
  assert broken(min_side=150, min_words=3) == {
    "short side": [1], "caption": [0, 2, 4]
  }  # fmt: skip


# --- The best. ---


def scores_with_ties(n, seed):
  r = np.random.default_rng(seed)
  scores = np.round(r.normal(size=n), 1).astype(np.float32)
  scores[r.integers(0, n, n // 10)] = np.nan
  scores[r.integers(0, n, n // 10)] = -0.0
  scores[r.integers(0, n, n // 10)] = np.float32(1e-42)  # Subnormal.
  return scores


@pytest.mark.parametrize("seed", range(3))
def test_the_best_are_those_of_a_stable_sort(seed, monkeypatch):
  monkeypatch.setattr(selection, "_BLOCK", 64)
  scores = scores_with_ties(1000, seed)
  order = np.argsort(-scores, kind="stable")  # NaN comes last.
  known = selection.known(scores)
  assert known == np.isfinite(scores).sum()
  for count in (1, 2, 17, 500, known - 1, known):
    chosen = selection.best(scores, count)
    found = np.concatenate([*selection.numbers(scores, chosen)])
    np.testing.assert_array_equal(found, np.sort(order[:count]))
    assert chosen.least == scores[order[count - 1]]


@pytest.mark.parametrize("threshold", [0.1, -0.3, 0.0, 5.0])
def test_a_threshold_keeps_what_is_not_below_it(threshold):
  """Also where float32 has no such number, as 0.1: it is above."""
  scores = scores_with_ties(1000, 5)
  scores[:2] = 0.1, np.nextafter(np.float32(0.1), np.float32(0))
  chosen = selection.at_least(scores, threshold)
  found = np.concatenate([*selection.numbers(scores, chosen)])
  expected = np.flatnonzero(scores.astype(np.float64) >= threshold)
  np.testing.assert_array_equal(found, expected)
  assert chosen.above + chosen.ties == len(expected)


def test_a_histogram_counts_every_score(monkeypatch):
  monkeypatch.setattr(selection, "_BLOCK", 64)
  scores = scores_with_ties(500, 1)
  counts, edges = selection.histogram(scores, bins=7)
  fine = scores[~np.isnan(scores)]
  assert sum(counts) == len(fine)
  np.testing.assert_array_equal(counts, np.histogram(fine, edges)[0])
  assert selection.histogram(np.float32([np.nan])) == ([], [])


# --- The commands. ---


def command(monkeypatch, capsys, module, **flags):
  argv = [f"--{k}={v}" for k, v in flags.items()]
  monkeypatch.setattr("sys.argv", ["x", *argv])
  module.run()
  return json.loads(capsys.readouterr().out)


def test_from_parts_to_the_records_that_a_source_keeps(
  embedded, tmp_path, monkeypatch, capsys
):
  said = command(
    monkeypatch, capsys, score, embedded=embedded[0], out=tmp_path / "scores",
    min_words=4,
  )  # fmt: skip
  lost = {"bad": 1, "no caption": 1, "caption": 2}
  assert said == {"records": 11, "scored": 7, "left_out": lost}
  about = json.loads((tmp_path / "scores" / "about.json").read_text())
  assert about["by"] == "cosine" and about["min_words"] == 4
  scores = np.load(tmp_path / "scores" / "scores.npy")
  assert np.isnan(scores[[0, 1, 2, 4]]).all() and scores.dtype == np.float32
  said = command(
    monkeypatch, capsys, keep, scores=tmp_path / "scores", fraction=0.29,
    out=tmp_path / "kept.npy",
  )  # fmt: skip
  kept = np.load(tmp_path / "kept.npy")
  assert said["kept"] == len(kept) == 3 and kept.dtype == np.int64
  np.testing.assert_array_equal(kept, np.sort(np.argsort(-scores)[:3]))
  records = Records([{"image": b"", "id": i} for i in range(11)])
  found = filters.apply(records, keep=str(tmp_path / "kept.npy"))
  assert [found[i]["id"] for i in range(3)] == kept.tolist()
  assert found.skipped == {"not in the list of kept ones": 8}


def test_a_decimal_fraction_is_what_it_says(tmp_path, monkeypatch, capsys):
  """0.29 * 100 is 28.999999999999996."""
  (tmp_path / "s").mkdir()
  np.save(tmp_path / "s" / "scores.npy", np.arange(100, dtype=np.float32))
  flags = {"scores": tmp_path / "s", "out": tmp_path / "k.npy"}
  said = command(monkeypatch, capsys, keep, fraction="0.29", **flags)
  assert said["kept"] == 29 and said["least"] == 71.0


@pytest.mark.parametrize(
  "flags, said",
  [
    ({}, "--fraction or --threshold is missing"),
    ({"fraction": 0.1, "threshold": 0}, "'both given'; expected one of"),
    ({"fraction": 0}, "above 0, at most 1"),
    ({"fraction": 1.01}, "above 0, at most 1"),
    ({"fraction": 0.01}, "0 of 5 records'; expected from 1 to 3"),
    ({"fraction": 0.8}, "4 of 5 records'; expected from 1 to 3"),
    ({"threshold": 9}, "--threshold = 9.0; expected a score that some"),
    ({"threshold": "nan"}, "--threshold = nan; expected a finite"),
    ({"fraction": 0.2, "out": "kept.txt"}, "expected NAME.npy"),
    ({"fraction": 0.2, "scores": "nowhere"}, "a folder that score has"),
  ],
)
def test_keep_says_what_is_wrong(flags, said, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "s").mkdir()
  scores = np.float32([1, np.nan, 3, 2, np.nan])
  np.save(tmp_path / "s" / "scores.npy", scores)
  with pytest.raises(errors.UserError, match=said):
    command(
      monkeypatch, capsys, keep, **{"scores": "s", "out": "k.npy"} | flags
    )
  assert not (tmp_path / "k.npy").exists()


@pytest.mark.parametrize(
  "numbers, said",
  [
    (np.array([0, 2, 2]), "do not ascend"),
    (np.array([3, 1]), "do not ascend"),
    (np.array([-1, 1]), "do not ascend"),
    (np.array([1, 5]), "record 5 of 5"),
    (np.array([1.0, 2.0]), "float64"),
    (np.array([[1], [2]]), r"int64 \[2, 1\]"),
  ],
)
def test_a_list_of_other_numbers_is_an_error(numbers, said, tmp_path):
  np.save(tmp_path / "k.npy", numbers)
  records = Records([{"image": b"", "id": i} for i in range(5)])
  with pytest.raises(errors.UserError, match=f"filter.keep = .*{said}"):
    filters.apply(records, keep=str(tmp_path / "k.npy"))


def test_a_list_is_mapped_by_each_process_not_copied(tmp_path):
  np.save(tmp_path / "k.npy", np.arange(0, 10**6, 2))
  records = Records([{"image": b"", "id": 0}] * 10**6)
  found = filters.apply(records, keep=str(tmp_path / "k.npy"))
  content = pickle.dumps(filters.Filtered(Records([]), found.kept, None, {}))
  assert len(content) < 1000
  again = pickle.loads(content)
  assert isinstance(again.kept, np.memmap)
  np.testing.assert_array_equal(again.kept, found.kept)
  plain = filters.Filtered(records, np.asarray(found.kept).copy(), None, {})
  same = [fingerprint.fingerprint(x)["digest"] for x in (found, plain)]
  assert same[0] == same[1]


def test_a_picture_has_the_best_the_worst_and_the_edge(
  tmp_path, monkeypatch, capsys
):
  scores = np.linspace(-1, 1, 25, dtype=np.float32)
  scores[3] = np.nan
  (tmp_path / "s").mkdir()
  np.save(tmp_path / "s" / "scores.npy", scores)
  seen = []
  real = picture._cell
  monkeypatch.setattr(
    picture, "_cell", lambda *a: (seen.append((a[3], a[5])), real(*a))
  )
  data = "shapes:split=heldout,train_size=512,size=32"
  command(
    monkeypatch, capsys, keep, scores=tmp_path / "s", fraction=0.4,
    out=tmp_path / "k.npy", picture=tmp_path / "p.png", data=data,
  )  # fmt: skip
  numbers = [i for i, _ in seen]
  assert numbers[:8] == [*range(24, 16, -1)]
  assert numbers[8:16] == [*range(15, 23)]  # Just kept: 15 is the least.
  assert numbers[16:24] == [*range(14, 6, -1)]
  assert numbers[24:] == [0, 1, 2, 4, 5, 6, 7, 8]
  assert all(color == ("green" if i >= 15 else "red") for i, color in seen)
  with PIL.Image.open(tmp_path / "p.png") as sheet:
    assert sheet.size[0] > 900


def test_a_picture_of_other_data_is_an_error(tmp_path, monkeypatch, capsys):
  (tmp_path / "s").mkdir()
  np.save(tmp_path / "s" / "scores.npy", np.zeros(24, np.float32))
  data = "shapes:split=heldout,train_size=512,size=32"
  flags = {"scores": tmp_path / "s", "fraction": 0.5, "out": tmp_path / "k.npy"}
  for more, said in (
    ({"data": data, "picture": tmp_path / "p.png"}, "25 records'; expected 24"),
    ({"data": data}, "--picture is missing"),
    ({"picture": tmp_path / "p.png"}, "--data is missing"),
    ({"data": data, "picture": tmp_path / "p.jpg"}, "expected NAME.png"),
  ):
    with pytest.raises(errors.UserError, match=said):
      command(monkeypatch, capsys, keep, **flags, **more)
  assert not (tmp_path / "k.npy").exists()
