"""Shards, and whose they are."""

import pathlib

import pytest

from big_contrastive.config import errors
from big_contrastive.data.files import embedded as embedded_files
from big_contrastive.offline import tasks

OUT = pathlib.Path("out")


@pytest.mark.parametrize("records", [0, 1, 6, 7, 8, 14])
def test_shards_have_every_record_once_in_order(records):
  shards = tasks.tasks(records, OUT, 7)
  numbers = [i for t in shards for i in range(t.start, t.stop)]
  assert numbers == list(range(records))
  assert all(len(t) == 7 for t in shards[:-1])
  assert [t.number for t in shards] == list(range(len(shards)))


def test_no_records_of_a_shard_are_an_error():
  with pytest.raises(errors.UserError, match="--per_shard = 0; expected"):
    tasks.tasks(3, OUT, 0)


def test_parts_are_listed_in_order_beyond_five_digits(tmp_path):
  for number in (100_000, 7, 99_999):
    tasks.path(tmp_path, number).touch()
  (tmp_path / "part-1.parquet").touch()
  (tmp_path / ".part-00003.parquet.abc").touch()
  names = [p.name for p in embedded_files.parts(tmp_path)]
  assert names == [f"part-{n}.parquet" for n in ("00007", "99999", "100000")]


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_workers_have_every_shard_once(n):
  shards = tasks.tasks(70, OUT, 10)
  taken = [t for i in range(n) for t in tasks.Share(i, n).of(shards)]
  assert sorted(t.number for t in taken) == list(range(7))


SLURM = {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "4"}
JOB = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "5"}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}


@pytest.mark.parametrize(
  "text, environment, expected",
  [
    (None, {}, (0, 1)),
    ("3/16", {}, (3, 16)),
    ("0/1", SLURM, (0, 1)),  # What is said goes before what is found.
    (None, SLURM | {"SLURM_ARRAY_TASK_MIN": "5"}, (1, 4)),
    (None, JOB, (2, 5)),
    (None, TPU, (1, 4)),
  ],
)
def test_a_scheduler_says_which_worker_this_is(text, environment, expected):
  share = tasks.share(text, environment)
  assert (share.i, share.n) == expected


@pytest.mark.parametrize(
  "text, environment, said",
  [
    ("16/16", {}, "--shards = '16/16'; expected i/n with 0 <= i < n"),
    ("1", {}, "--shards = '1'; expected i/n"),
    ("-1/2", {}, "--shards"),
    ("a/b", {}, "--shards"),
    (None, {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETIONS is missing"),
    (None, SLURM, "SLURM_ARRAY_TASK_ID = '6/4'"),  # An array of 5-8 or 6-12:2.
    (None, TPU | {"TPU_WORKER_ID": "x"}, "TPU_WORKER_ID = 'x/4'"),
  ],
)
def test_half_a_share_or_none_is_an_error(text, environment, said):
  with pytest.raises(errors.UserError, match=said):
    tasks.share(text, environment)
