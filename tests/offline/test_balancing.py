"""MetaCLIP's balancing, against its definition."""

import json

import numpy as np
import pytest

from big_contrastive import balance
from big_contrastive.config import errors
from big_contrastive.offline import balancing


def substrings(names, texts):
  """The definition: " entry " in a text with spaces around punctuation."""
  return [
    number for number, name in enumerate(names)
    if any(f" {name} " in balancing.spaced(text) for text in texts)
  ]  # fmt: skip


def test_entries_are_found_as_substrings_are():
  """Words, several words, parts of words, punctuation, several spaces."""
  rng = np.random.default_rng(0)
  pieces = ["cat", "cats", "red", "the", "a", ",", ".", " ", "  ", "\t", "é"]
  names = dict.fromkeys(
    "".join(rng.choice(["cat", "red", "the", " ", " ", ",", "é"], 5))
    for _ in range(400)
  )
  names = [name for name in names if name.strip()]
  entries = balancing.Entries(names, "x")
  hits = 0
  for _ in range(500):
    texts = [
      " ".join(rng.choice(pieces, rng.integers(0, 12)))
      for _ in range(rng.integers(1, 3))
    ]
    want = substrings(names, texts)
    assert entries.found(texts) == want
    hits += len(want)
  assert hits > 300


def test_an_entry_is_one_and_not_empty():
  for names, said in ((["a", " "], "x:2 = ' '"), (["a", "b", "a"], "line 1")):
    with pytest.raises(errors.UserError, match=said):
      balancing.Entries(names, "x")


@pytest.fixture
def zipf():
  """Names, and captions in which the n-th name is n times as rare."""
  rng = np.random.default_rng(0)
  names = [f"thing{i}" for i in range(200)]
  weights = 1 / np.arange(1, 201)
  drawn = rng.choice(names, (4_000, 2), p=weights / weights.sum())
  return names, [[f"a {a} and, a {b}"] for a, b in drawn] + [["nothing"], []]


def matched(names, captions, folder, block=3000):
  folder.mkdir()
  found = balancing.Matches(balancing.Entries(names, "x"), folder)
  for start in range(0, len(captions), block):
    found.add(captions[start : start + block])
  return found


def test_the_frequent_are_cut_to_the_limit_and_the_rare_stay(zipf, tmp_path):
  names, captions = zipf
  found = matched(names, captions, tmp_path / "a")
  sets = [substrings(names, texts) for texts in captions]
  counts = np.bincount(np.concatenate(sets).astype(int), minlength=200)
  np.testing.assert_array_equal(found.counts, counts)
  stays = found.probabilities(20)
  for numbers, p in list(zip(sets, stays, strict=True))[:500]:
    share = [min(1.0, 20 / counts[e]) for e in numbers]
    want = 1 - np.prod([1 - p for p in share]) if share else 0.0
    assert p == pytest.approx(want, abs=1e-12)
  assert stays[-2] == stays[-1] == 0
  kept = np.flatnonzero(balancing.drawn(len(captions), 0) < stays)
  assert abs(len(kept) - stays.sum()) < 4 * np.sqrt((stays * (1 - stays)).sum())
  left = np.bincount(
    np.concatenate([sets[i] for i in kept]).astype(int), minlength=200
  )
  rare = counts <= 20
  np.testing.assert_array_equal(left[rare], counts[rare])
  # A frequent one also stays in records that another entry has kept.
  for e in np.flatnonzero(~rare):
    p = np.array([stays[i] for i, s in enumerate(sets) if e in s])
    assert abs(left[e] - p.sum()) <= 5 * np.sqrt((p * (1 - p)).sum()) + 1e-9
    assert p.min() >= 20 / counts[e] - 1e-12
  assert left.max() < counts.max() / 2


def test_a_record_stays_by_its_number_and_the_seed_alone():
  few, many = balancing.drawn(1000, 3), balancing.drawn(5000, 3)
  np.testing.assert_array_equal(few, many[:1000])
  assert np.corrcoef(few, balancing.drawn(1000, 4))[0, 1] < 0.15
  assert 0 <= many.min() < 0.01 and 0.99 < many.max() < 1
  counts = np.histogram(many, 10)[0]
  assert np.abs(counts - 500).max() < 5 * np.sqrt(450)


def test_the_limit_of_a_tail(zipf, tmp_path):
  names, captions = zipf
  counts = matched(names, captions, tmp_path / "a").counts
  limit = balancing.limit_of_tail(counts, 0.3)
  share = counts[counts <= limit].sum() / counts.sum()
  assert abs(share - 0.3) < 0.02
  assert balancing.limit_of_tail(np.array([1, 1, 2, 0, 4]), 0.5) == 2


def test_the_command_lists_them(tmp_path, monkeypatch, capsys):
  (tmp_path / "entries.txt").write_text("red\nblue\nno such thing\n")
  flags = [
    "--data", "shapes:split=heldout,train_size=64,size=16", "--entries",
    str(tmp_path / "entries.txt"), "--out", str(tmp_path / "b.npy"),
  ]  # fmt: skip
  monkeypatch.setattr("sys.argv", ["balance", *flags, "--limit", "1000"])
  balance.run()
  said = json.loads(capsys.readouterr().out)
  kept = np.load(tmp_path / "b.npy")
  assert said["kept"] == said["matched"] == len(kept) < said["records"]
  assert said["entries_matched"] == 2 and kept.dtype == np.int64
  (tmp_path / "entries.txt").write_text("no such thing\n")
  (tmp_path / "b.npy").unlink()
  monkeypatch.setattr("sys.argv", ["balance", *flags, "--tail", "0.5"])
  with pytest.raises(errors.UserError, match="--entries = .* stand in caption"):
    balance.run()
