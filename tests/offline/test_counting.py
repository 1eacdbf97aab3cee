"""The command synsets: counts by shard, a vocabulary when all are there."""

import collections
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from big_contrastive import synsets as command
from big_contrastive.config import errors
from big_contrastive.data.labels import synsets, wordnet
from big_contrastive.offline import counting, tasks

TEXTS = [
  ["a red circle", "red rings and a star"], ["the moon"], ["of what"], [],
  ["two circles, a circle"], ["a star"], ["red, red"],
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
  table = {
    "image": [b"image %d" % i for i in range(len(TEXTS))],
    "captions": pa.array(TEXTS, pa.list_(pa.string())),
  }
  pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=2)
  return f"parquet:{tmp_path}/a.parquet"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
  def run(*more, **flags):
    argv = ["synsets", "--wordnet", "shapes"]
    for name, value in flags.items():
      argv += [f"--{name}", str(value)]
    monkeypatch.setattr(sys, "argv", [*argv, *more])
    command.run()
    out = capsys.readouterr().out
    return json.loads(out) if out else None

  return run


def by_hand(synonyms="head"):
  nouns = wordnet.read("shapes", "")
  counts = collections.Counter()
  for text in [t for several in TEXTS for t in several]:
    found = set()
    for word in text.replace(",", " ").split():
      lemma = nouns.lemma(word)
      offset = nouns.synset.get(lemma)
      if offset and (synonyms == "merge" or nouns.head[offset] == lemma):
        found.add(offset)
    counts.update(found)
  return counts


@pytest.mark.parametrize("synonyms", synsets.SYNONYMS)
def test_each_caption_counts_a_synset_once(synonyms, data, run, tmp_path):
  out = tmp_path / "v.json"
  told = run(
    data=data, counts=tmp_path / "c", per_shard=2, out=out, least=1,
    synonyms=synonyms,
  )  # fmt: skip
  made = synsets.Vocabulary(out.read_bytes())
  counts = by_hand(synonyms)
  order = sorted(counts, key=lambda n: (-counts[n], n))
  assert made.offsets.tolist() == order
  captions = sum(map(len, TEXTS))
  expected = np.minimum([counts[n] for n in order], captions - 0.5) / captions
  np.testing.assert_allclose(made.frequency, expected)
  assert told["captions"] == captions == 7
  if synonyms == "head":
    np.testing.assert_allclose(told["captions_with_nouns"], 6 / 7)
    assert told["most_frequent"][0] in ("red", "circle", "star")
    assert told["most_in_a_caption"] == 3
  assert told["classes"] == told["of_synsets"] == len(counts)


def test_workers_share_the_shards_and_the_last_one_writes(data, run, tmp_path):
  whole = run(
    data=data, counts=tmp_path / "a", out=tmp_path / "a.json", least=1
  )
  flags = {"data": data, "counts": tmp_path / "b", "per_shard": 2, "least": 1}
  assert run(shards="0/2", **flags) is None
  with pytest.raises(errors.UserError, match="part-00001.parquet.*missing"):
    run(shards="0/2", out=tmp_path / "b.json", **flags)
  assert not (tmp_path / "b.json").exists()
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / "b").glob("part*")}
  told = run(shards="1/2", out=tmp_path / "b.json", **flags)
  assert told == whole
  after = {p: p.stat().st_mtime_ns for p in before}
  assert after == before and len(after) == 2  # Nothing was done twice.
  assert (tmp_path / "a.json").read_bytes() == (
    tmp_path / "b.json"
  ).read_bytes()
  with pytest.raises(errors.UserError, match="made with another synonyms"):
    run(**flags | {"synonyms": "merge"})


def test_rare_synsets_are_left_out_and_told(data, run, tmp_path):
  counts = by_hand()
  told = run(data=data, counts=tmp_path / "c", out=tmp_path / "v.json", least=2)
  kept = [n for n in counts.values() if n >= 2]
  assert told["classes"] == len(kept) and told["of_synsets"] == len(counts)
  share = sum(kept) / sum(counts.values())
  np.testing.assert_allclose(told["share_of_nouns_kept"], share)
  told = run(
    data=data, counts=tmp_path / "c", out=tmp_path / "w.json", least=1, size=2
  )
  assert told["classes"] == 2


def test_a_bad_record_is_counted(data, monkeypatch):
  nouns = wordnet.read("shapes", "")
  work = counting.Counting(data, nouns, "head")
  real = type(work.source).__getitem__

  def read(self, index):
    if index == 1:
      raise OSError("gone")
    return real(self, index)

  monkeypatch.setattr(type(work.source), "__getitem__", read)
  table, bad = work(tasks.Task(0, 0, len(TEXTS), None))
  assert bad == {"read": 1, "caption": 1}  # The fourth has no caption.
  moon = nouns.synset["moon"]
  assert moon not in table["synset"].to_pylist()


def test_published_counts_make_a_vocabulary(run, tmp_path):
  nouns = wordnet.read("shapes", "")
  some = [nouns.synset[w] for w in ("star", "moon", "red")]
  counts = {f"n{n}": c for n, c in zip(some, (5, 9, 5), strict=True)}
  (tmp_path / "c.json").write_text(json.dumps(counts))
  told = run(
    published=tmp_path / "c.json", out=tmp_path / "v.json", captions=20
  )
  assert told["classes"] == 3 and told["most_frequent"][0] == "moon"
  made = synsets.Vocabulary((tmp_path / "v.json").read_bytes())
  np.testing.assert_allclose(made.frequency, [9 / 20, 1 / 4, 1 / 4])
  run(published=tmp_path / "c.json", out=tmp_path / "w.json", size=2)
  made = synsets.Vocabulary((tmp_path / "w.json").read_bytes())
  assert len(made.heads) == 2 and made.frequency is None


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ({}, "--data"),
    ({"data": "x", "published": "y"}, "--published"),
    ({"published": "c.json"}, "--out is missing"),
    ({"published": "c", "out": "v.json", "counts": "d"}, "--published = "),
    ({"data": "{data}"}, "--counts is missing"),
    ({"data": "{data}", "captions": 3}, "--captions = 3"),
    ({"data": "{data}", "counts": "{new}", "synonyms": "all"}, "--synonyms"),
    ({"data": "{data}", "counts": "{new}", "least": 0}, "--least = 0"),
    ({"data": "{data}", "counts": "{new}", "size": 0}, "--size = 0"),
    ({"data": "{data}", "counts": "{new}", "wordnet": "nowhere"}, "--wordnet"),
    (
      {"data": "{data}", "counts": "{new}", "out": "{new}.json", "least": 9},
      "--least = 9; expected at most 3",
    ),
  ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line(flags, said, data, tmp_path, monkeypatch):
  given = {"wordnet": "shapes"} | {
    k: str(v).format(data=data, new=tmp_path / "new") for k, v in flags.items()
  }
  monkeypatch.setattr(
    sys,
    "argv",
    ["synsets", *(x for k, v in given.items() for x in (f"--{k}", v))],
  )
  with pytest.raises(errors.UserError, match=said):
    command.run()
  assert not (tmp_path / "new.json").exists()
