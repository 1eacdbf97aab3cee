"""The order of records: coverage, mixtures, blocks, filters, string forms."""

import collections
import io

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_loader import WORDS, Source, ids, image, training
from test_webdataset import samples, write

from big_contrastive.config import errors
from big_contrastive.data import bad_records, filters, mixture, spec
from big_contrastive.data import source as contract
from big_contrastive.data.build import build_source
from big_contrastive.data.loader import (
  evaluation,
  examples,
  shuffle,
)
from big_contrastive.data.loader import (
  training as training_loader,
)

SIZES = {"table": 23, "folder": 19, "webdataset": 21, "parquet": 26}


def png(width=8, height=8, value=0):
  file = io.BytesIO()
  PIL.Image.new("RGB", (width, height), (value, 0, 0)).save(file, "PNG")
  return file.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A config of each source that reads files; ids are 0, 1, ..."""
  root = tmp_path_factory.mktemp("sources")
  (root / "photos").mkdir()
  lines = ["image\tcaption"]
  for i in range(SIZES["table"]):
    (root / "photos" / f"{i}.png").write_bytes(png(value=i))
    lines.append(f"{i}.png\tcaption {i}")
  (root / "t.tsv").write_text("\n".join(lines) + "\n")
  (root / "texts").mkdir()
  for i in range(SIZES["folder"]):
    (root / "texts" / f"{i:03}.png").write_bytes(png(value=i))
    (root / "texts" / f"{i:03}.txt").write_text(f"caption {i}")
  for k, (a, b) in enumerate([(0, 9), (9, 10), (10, SIZES["webdataset"])]):
    members = samples(a, b)
    members = {
      name: png(value=int(name[:6])) if name.endswith("jpg") else data
      for name, data in members.items()
    }
    write(root / f"s-{k}.tar", members)
  count = SIZES["parquet"]
  columns = {
    "image": [png(value=i) for i in range(count)],
    "caption": [f"caption {i}" for i in range(count)],
  }
  pq.write_table(pa.table(columns), root / "a.parquet", row_group_size=4)
  return {
    "table": f"table:{root}/t.tsv,images={root}/photos",
    "folder": f"folder:{root}/texts",
    "webdataset": f"wds:{root}/s-{{0..2}}.tar",
    "parquet": f"parquet:{root}/a.parquet",
  }


def pixels(data, rng):
  return np.asarray(PIL.Image.open(io.BytesIO(data)))[:1, :1]


def stream(source, batch=8, rows=None, seed=3, ops=pixels, **kwargs):
  made = examples.Examples(source, ops, WORDS)
  rows = np.arange(batch) if rows is None else np.asarray(rows)
  return training_loader.Training(made, batch, rows, seed, threads=2, **kwargs)


def assert_epochs(found, size):
  """Each whole epoch has each id once."""
  for start in range(0, len(found) - size + 1, size):
    assert sorted(found[start : start + size]) == list(range(size))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("windowed", [False, True])
def test_an_epoch_has_every_id_once_over_all_processes_and_a_resume(
  made, name, windowed
):
  """For 1, 2 and 4 processes, which all make the same global batches."""
  source, size = build_source(made[name], "x"), SIZES[name]
  if windowed:
    if name != "parquet":
      pytest.skip("no blocks")
    source.window = 9
  assert len(source) == size
  steps = 3 * size // 8 + 1
  whole = list(stream(source).batches(0, steps))
  assert_epochs(ids(whole).tolist(), size)
  for processes in (2, 4):
    parts = []
    for rows in np.split(np.arange(8), processes):
      before = list(stream(source, rows=rows).batches(0, 4))
      parts.append(before + list(stream(source, rows=rows).batches(4, steps)))
    for step, batch in enumerate(whole):
      for key, value in batch.items():
        joined = np.concatenate([part[step][key] for part in parts])
        np.testing.assert_array_equal(joined, value)


def test_a_block_is_read_by_few_of_the_workers(made):
  """Not by all: each would read the whole source, of any size."""
  source = build_source(made["parquet"], "x")
  data = stream(source, batch=64, workers=4)
  chunks = data._chunks(0, 40, reuse=False)
  per_batch = chunks.per_batch
  assert per_batch == 4  # Grain deals parts out in turn: a worker's is one.
  readers = collections.defaultdict(set)
  found = []
  for step in range(40):
    for part in range(per_batch):
      first, last = part * 16, part * 16 + 16
      for number, row, position in chunks._taken(step)[first:last]:
        block = int(np.searchsorted(np.cumsum(source.blocks), number, "right"))
        readers[block].add(part)
        found.append((position, row, number))
  chunks.memory.close()
  assert len(readers) == len(source.blocks)
  assert np.mean([len(r) for r in readers.values()]) < 2.6
  positions, rows, numbers = zip(*sorted(found), strict=True)
  assert positions == tuple(range(64 * 40))
  assert rows == tuple(range(64)) * 40
  plain = shuffle.stream(source, 3)(np.arange(64 * 40))
  assert numbers == tuple(plain.tolist())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 90, 1000, 4097])
def test_an_epoch_is_a_permutation_whatever_the_batches(size):
  shuffled = shuffle.Shuffled(size, seed=3)
  whole = shuffled(np.arange(2 * size, 5 * size))
  assert_epochs(whole.tolist(), size)
  parts = [shuffled(p) for p in np.split(np.arange(2 * size, 5 * size), [1])]
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_shuffle_is_like_one_by_chance():
  """Where records come, and what comes behind what: chi-square, 5 sigma."""
  size, epochs = 60, 3000
  for seed in (0, 1, -7):
    found = shuffle.Shuffled(size, seed)(np.arange(size * epochs))
    found = found.reshape(epochs, size)
    chance = np.random.default_rng(0).permuted(found, axis=1)
    for kind in (found, chance):
      place = np.zeros((size, size))
      np.add.at(place, (np.arange(size)[None], kind), 1)
      step = np.bincount((kind[:, 1:] - kind[:, :-1]).ravel() % size)[1:]
      for counts, free in ((place, (size - 1) ** 2), (step, size - 2)):
        square = ((counts - counts.mean()) ** 2).sum() / counts.mean()
        assert abs(square - free) < 5 * np.sqrt(2 * free)


def test_a_hundred_billion_records_are_shuffled_without_a_table():
  size = 10**11
  found = shuffle.Shuffled(size, seed=0)(np.arange(10**5) + 7 * size)
  assert len(set(found.tolist())) == 10**5
  assert 0 <= found.min() < size / 10**4 and size * 0.999 < found.max() < size
  assert abs(np.corrcoef(found, np.arange(10**5))[0, 1]) < 0.016


# Mixtures.


def mixed(weights=(2, 1, 0.5), sizes=(20, 7, 11), **kwargs):
  parts = [Source(size=size) for size in sizes]
  return mixture.Mixture(parts, weights, [None] * len(parts), **kwargs)


def split(found, parts=3):
  """The ids of each part, as they came."""
  step = 2**31 // parts
  by_part = collections.defaultdict(list)
  for i in found:
    by_part[i // step].append(i % step)
  return by_part


def test_each_part_of_a_mixture_has_its_own_epochs():
  source = mixed()
  found = split(ids(stream(source, ops=image).batches(0, 30)).tolist())
  for part, size in enumerate((20, 7, 11)):
    assert len(found[part]) > 2 * size
    assert_epochs(found[part], size)


def test_a_mixture_is_the_same_for_all_processes_and_after_a_resume():
  whole = list(stream(mixed(), ops=image).batches(0, 9))
  parts = [
    list(stream(mixed(), ops=image, rows=rows).batches(0, 4))
    + list(stream(mixed(), ops=image, rows=rows).batches(4, 9))
    for rows in (range(4), range(4, 8))
  ]
  for step, batch in enumerate(whole):
    for key, value in batch.items():
      joined = np.concatenate([part[step][key] for part in parts])
      np.testing.assert_array_equal(joined, value)


@pytest.mark.parametrize("shares", [[1], [1, 1], [3, 2], [7, 1, 2], [1, 999]])
def test_at_any_time_each_part_has_had_its_share(shares):
  """And its positions are 0, 1, 2, ... without a gap."""
  counts = [0] * len(shares)
  for position in range(2000):
    part, own = shuffle.pick(position, shares)
    assert own == counts[part]
    counts[part] += 1
    for count, share in zip(counts, shares, strict=True):
      want = (position + 1) * share / sum(shares)
      assert abs(count - want) < len(shares)


def test_a_mixture_in_a_mixture_keeps_its_weights_and_preprocessing():
  def black(pixels, rng):
    return np.zeros_like(pixels)

  parts = [Source(size=7), Source(size=11, broken=[3])]
  inner = mixture.Mixture(parts, (1, 9), (None, black), shared=True)
  outer = mixture.Mixture([inner, Source(size=5)], (1, 1), (None, None))
  run = stream(outer, ops=image, bad_floor=10**6)
  batches = list(run.batches(0, 250))
  counts = collections.Counter()
  for batch in batches:
    for i, picture in zip(batch["id"], batch["image"], strict=True):
      if i < 2**30:
        counts["second" if not picture.any() and i else "first"] += 1
      else:
        counts["other"] += 1
  assert counts["other"] == 1000
  # The pictures of record 0 are black whoever made them.
  assert 800 < counts["second"] < 900 and 100 <= counts["first"] < 200


def test_weights_are_shares_to_the_last_digit():
  source = mixed(weights=(0.7, 0.2, 0.1))
  found = split(ids(stream(source, ops=image).batches(0, 125)).tolist())
  assert [len(found[k]) for k in range(3)] == [700, 200, 100]


def test_ids_of_different_parts_differ_unless_they_are_shared():
  source = mixed()
  found = [source[i]["id"] for i in range(len(source))]
  assert len(set(found)) == len(source) == 38 and max(found) < 2**31
  shared = mixed(shared=True)
  assert {shared[i]["id"] for i in range(38)} == set(range(20))


def test_a_bad_record_of_a_mixture_is_replaced_by_one_of_its_part():
  parts = [Source(size=3, broken=[2]), Source(size=5)]
  source = mixture.Mixture(parts, (1, 1), (None, None))
  run = stream(source, ops=image, bad_floor=10**6)
  found = split(ids(run.batches(0, 12)).tolist(), 2)
  assert set(found[0]) == {0, 1} and len(found[0]) == 48
  assert run.counts(12) == {"read": 16}


def test_a_part_has_its_own_preprocessing():
  def black(pixels, rng):
    return np.zeros_like(pixels)

  parts = [Source(size=9), Source(size=9)]
  source = mixture.Mixture(parts, (1, 1), (None, black))
  for batch in stream(source, ops=image).batches(0, 4):
    for i, picture in zip(batch["id"], batch["image"], strict=True):
      own = 0 if i >= 2**30 else i
      assert (picture[0] == own).all()


def test_a_mixture_comes_from_a_config(made):
  resize = [("resize", {"size": 4})]
  config = {
    "mixture": [
      {"source": made["table"], "weight": 3, "train_image": resize},
      {"source": {"mixture": [{"source": made["folder"]}]}},
    ]
  }
  source = build_source(config, "config.source")
  assert len(source) == 42 and source.weights == (3, 19)
  assert source.ops[0].size == (4, 4) and source.ops[1] is None
  assert source.name(41).startswith("source 1, source 0, ")


@pytest.mark.parametrize(
  "wrong, said",
  [
    ({"mixture": []}, r"config.source.mixture = \[\]"),
    ({"mixture": [{}]}, r"config.source.mixture\[0\].source"),
    ({"mixture": [{"source": "nosuch:x"}]}, "nosuch.*parquet"),
    ({"mixture": [{"source": "{table}", "weight": 0}]}, "weight = 0.*above 0"),
    ({"mixture": [{"source": "{table}", "wieght": 1}]}, "'weight'"),
    ({"mixture": [{"source": "{table}"}], "shared": 1}, "shared_ids"),
    (
      {"mixture": [{"source": "{table}", "train_image": ["flop"]}]},
      r"mixture\[0\].train_image.*flip_lr",
    ),
  ],
)
def test_a_wrong_mixture_is_named(made, wrong, said):
  for part in wrong["mixture"]:
    if part.get("source") == "{table}":
      part["source"] = made["table"]
  with pytest.raises(errors.UserError, match=said):
    build_source(wrong, "config.source")


# Blocks.


@pytest.mark.parametrize("window", [1, 7, 30, 100])
def test_blocks_are_each_read_in_one_window_and_shuffled_in_it(window):
  sizes = np.array([5, 1, 9, 4, 4, 7, 1, 1, 8])
  found = shuffle.Blocks(sizes, window, seed=1)(np.arange(3 * 40)).tolist()
  for epoch in range(3):
    part = found[40 * epoch : 40 * (epoch + 1)]
    assert sorted(part) == list(range(40))
    ends = np.cumsum(sizes)
    for block in range(len(sizes)):
      places = [
        p
        for p, i in enumerate(part)
        if np.searchsorted(ends, i, "right") == block
      ]
      assert max(places) - min(places) < window + 2 * max(sizes)
  assert found[:40] != found[40:80]


def test_two_sources_with_blocks_do_not_get_the_order_of_one_another():
  sizes = np.array([5, 5, 5])
  a, b = (shuffle.Blocks(sizes, 5, seed) for seed in (1, 2))
  assert a(np.arange(15)).tolist() != b(np.arange(15)).tolist()


# Filters.


class Pictures(contract.Source):
  """Records of given sizes and captions."""

  def __init__(self, sizes, captions):
    self.sizes, self.captions = sizes, captions

  def __len__(self):
    return len(self.sizes)

  def __getitem__(self, i):
    if self.sizes[i] is None:
      return {"image": b"broken", "text": self.captions[i], "id": i}
    return {"image": png(*self.sizes[i]), "text": self.captions[i], "id": i}


PICTURES = Pictures(
  [(8, 8), (4, 9), (20, 8), None, (9, 9)],
  ["a cat", "a dog", "a bear", "a fox", ["ant", "a long caption"]],
)


def kept(**kwargs):
  found = filters.apply(PICTURES, **kwargs)
  return [int(i) for i in found.kept], found.skipped


def test_filters_are_exact_and_counted():
  assert kept() == ([0, 1, 2, 3, 4], {})
  assert kept(min_side=8) == ([0, 2, 3, 4], {"short side": 1})
  assert kept(max_aspect=2.0) == ([0, 3, 4], {"aspect": 2})
  assert kept(max_caption=5) == (
    [0, 1, 3, 4], {"length of the caption": 1}
  )  # fmt: skip
  found = filters.apply(PICTURES, min_caption=4)
  assert found[4]["text"] == ["a long caption"] and len(found) == 5


def test_a_list_of_kept_records_is_by_name_or_id(made, tmp_path):
  (tmp_path / "keep.txt").write_text("1\n4\n77\n")
  assert kept(keep=f"{tmp_path}/keep.txt")[0] == [1, 4]
  source = build_source(made["webdataset"], "x")
  (tmp_path / "keep.txt").write_text(f"000003\n{source.name(12)}\n")
  found = filters.apply(source, keep=f"{tmp_path}/keep.txt")
  assert [found[i]["id"] for i in range(len(found))] == [3, 12]


def test_epochs_are_over_what_a_filter_keeps(made, tmp_path):
  (tmp_path / "keep.txt").write_text(
    "\n".join(f"row {i}" for i in range(0, 26, 2))
  )
  config = spec.parse(made["parquet"], "x")
  config["filter"] = {"keep": f"{tmp_path}/keep.txt"}
  source = build_source(config, "config.source")
  assert source.blocks.sum() == len(source) == 13
  source.window = 4
  found = ids(stream(source).batches(0, 5)).tolist()
  for epoch in range(3):
    assert sorted(found[13 * epoch : 13 * (epoch + 1)]) == list(range(0, 26, 2))


def test_a_filter_that_leaves_nothing_or_is_misspelt_is_an_error(made):
  with pytest.raises(errors.UserError, match="nothing left.*short side"):
    filters.apply(Pictures([(4, 4)], ["x"]), min_side=5)
  config = spec.parse(made["table"], "x") | {"filter": {"min_sied": 3}}
  with pytest.raises(errors.UserError, match="config.source.filter.min_sied"):
    build_source(config, "config.source")


# Strings.


@pytest.mark.parametrize(
  "text, config",
  [
    ("wds:a.tar", {"name": "webdataset", "urls": "a.tar"}),
    (
      "webdataset:gs://b/{00..12}.tar,c.tar,caption=json:x,id=key",
      {
        "name": "webdataset", "urls": "gs://b/{00..12}.tar,c.tar",
        "caption": "json:x", "id": "key",
      },
    ),
    ("parquet:d,split=val,cache_mb=7", {
      "name": "parquet", "files": "d", "split": "val", "cache_mb": 7
    }),
    ("tfds:coco:1.0.0", {"name": "tfds", "dataset": "coco:1.0.0"}),
    ("folder:root=x", {"name": "folder", "root": "x"}),
    ("table:t.csv,images=p,q", {
      "name": "table", "captions": "t.csv", "images": "p,q"
    }),
    ("shapes:heldout,size=32", {
      "name": "shapes", "split": "heldout", "size": 32
    }),
    ("shapes:split=train", {"name": "shapes", "split": "train"}),
    ("folder:2024", {"name": "folder", "root": "2024"}),
  ],
)  # fmt: skip
def test_a_string_says_what_a_config_says(text, config):
  assert spec.parse(text, "--data") == config


def test_a_misspelt_source_is_named():
  with pytest.raises(errors.UserError, match="--data = 'wdss'.*'wds'"):
    spec.parse("wdss:x", "--data")


def test_captions_for_a_tokenizer_leave_bad_records_out():
  class Broken(Source):
    def __getitem__(self, i):
      if i == 1:
        raise bad_records.BadRecord("encoding", "not UTF-8")
      return super().__getitem__(i)

  source = Broken(size=3)
  assert list(evaluation.captions(source, skip_bad=True)) == [["0 0"], ["2 0"]]
  with pytest.raises(errors.UserError, match="record 1.*not UTF-8"):
    list(evaluation.captions(source))


def test_training_makes_no_more_batches_than_asked(made):
  assert len(list(training(Source()).batches(2, 2))) == 0
