"""Shards of a data set, and a worker's share of them."""

import dataclasses
import os
import re
from collections.abc import Mapping

from big_contrastive.config import errors
from big_contrastive.storage.paths import Path

PER_SHARD = 10_000


@dataclasses.dataclass(frozen=True)
class Task:
  """A range of records, and the file that is made of it.

  Args:
    number: of the shard.
    start, stop: its records, stop not included.
    path: of its output.
  """

  number: int
  start: int
  stop: int
  path: Path

  def __len__(self) -> int:
    return self.stop - self.start


def tasks(records: int, out: Path, per_shard: int = PER_SHARD) -> list[Task]:
  """Returns the shards of a data set, in the order of its records.

  Args:
    records: how many it has.
    out: the folder of the outputs.
    per_shard: records of each shard; the last has what is left.

  Raises:
    UserError: if `per_shard` is not a positive number.
  """
  errors.at_least("--per_shard", per_shard, 1)
  return [
    Task(i, start, min(start + per_shard, records), path(out, i))
    for i, start in enumerate(range(0, records, per_shard))
  ]


def path(out: Path, number: int) -> Path:
  """Returns the file of a shard."""
  return out / f"part-{number:05}.parquet"


@dataclasses.dataclass(frozen=True)
class Share:
  """Worker i of n, counted from 0: every n-th shard from the i-th on."""

  i: int = 0
  n: int = 1

  def of(self, tasks: list[Task]) -> list[Task]:
    return tasks[self.i :: self.n]


# Where a scheduler says which worker this is, and of how many: names of
# variables, the first number, what it is called.
_SCHEDULERS = (
  ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
  ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", None),
)


def share(
  text: str | None = None, environment: Mapping[str, str] = os.environ
) -> Share:
  """Returns which shards are this worker's.

  Args:
    text: "i/n"; None takes them from a scheduler's variables: those of a SLURM
      array; JOB_COMPLETION_INDEX of a Kubernetes Job with completionMode
      Indexed, whose number of completions JOB_COMPLETIONS has to say; those of
      a TPU slice, TPU_WORKER_ID and TPU_WORKER_HOSTNAMES. Without any, all
      shards are this worker's.
    environment: variables by name.

  Raises:
    UserError: for another text, and for a scheduler that says half of it.
  """
  if text is not None:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    return _checked(
      "--shards", text, *(map(int, match.groups() if match else (0, 0)))
    )
  for own, count, least in _SCHEDULERS:
    if own in environment:
      if count not in environment:
        allowed = f"{count} beside {own}: how many workers there are"
        remedy = "Set it, or give --shards i/n."
        raise errors.UserError(count, None, allowed, remedy)
      said = environment[own], environment[count]
      first = environment.get(least, "0") if least else "0"
      return _numbers(own, said, first)
  if "TPU_WORKER_ID" in environment and "TPU_WORKER_HOSTNAMES" in environment:
    hosts = len(environment["TPU_WORKER_HOSTNAMES"].split(","))
    return _numbers(
      "TPU_WORKER_ID", (environment["TPU_WORKER_ID"], str(hosts)), "0"
    )
  return Share()


def _numbers(own: str, said: tuple[str, str], first: str) -> Share:
  numbers = [int(t) if t.isdecimal() else -1 for t in (*said, first)]
  return _checked(own, "/".join(said), numbers[0] - numbers[2], numbers[1])


def _checked(thing: str, value: str, i: int, n: int) -> Share:
  if not 0 <= i < n:
    allowed = "i/n with 0 <= i < n: worker i of n, counted from 0"
    raise errors.UserError(thing, value, allowed, "Give --shards i/n.")
  return Share(i, n)
