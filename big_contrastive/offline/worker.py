"""Does the work of shards, each at most once."""

import collections
import dataclasses
import json
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.offline import parts
from big_contrastive.offline.tasks import Task

# Of a shard's records, how many may be unreadable because of the storage.
_UNREAD, _UNREAD_SHARE = 20, 0.01


class Work(Protocol):
  """What is done with a shard.

  Attributes:
    source: the records.
    made: what the result depends on beside the records; JSON. Parts that were
      made of something else are not taken for done.
  """

  source: Source
  made: dict[str, Any]

  def __call__(self, task: Task) -> tuple[pa.Table, dict[str, int]]:
    """Returns the rows of a part, and the number of bad records by kind."""


@dataclasses.dataclass(frozen=True)
class Stats:
  """What became of a shard.

  Args:
    records: how many it has.
    bad: how many of them are bad, by kind.
    seconds: what the work took; 0.0 if it was there already.
    done: False if it was there already.
  """

  records: int
  bad: dict[str, int]
  seconds: float = 0.0
  done: bool = False


def run(task: Task, work: Work) -> Stats:
  """Does a shard, unless its part is there.

  Raises:
    UserError: for a part that another work, or other records, made; and for a
      shard of which too much can't be read: is the storage there?
  """
  if there := _there(task, work):
    return Stats(len(task), there["bad"])
  began = time.monotonic()
  table, bad = work(task)
  if bad.get("read", 0) > max(_UNREAD, _UNREAD_SHARE * len(task)):
    raise errors.UserError(
      f"unreadable records of shard {task.number}", bad["read"],
      f"at most {_UNREAD}, or one in a hundred",
      "Is the storage there? Nothing of the shard is kept: run again.",
    )  # fmt: skip
  names = parts.digest(work.source, task.start, task.stop)
  records = {"start": task.start, "stop": task.stop, "names": names}
  about = {"made": work.made, "records": records, "bad": bad}
  parts.write(task.path, table, about)
  return Stats(len(task), bad, time.monotonic() - began, True)


def _there(task: Task, work: Work) -> dict[str, Any] | None:
  """What a part says of itself if it is the task's; None to do it."""
  if not task.path.exists():
    return None
  if wrong := parts.damage(task.path):
    logging.warning("%s is done again: %s", task.path, wrong)
    return None
  about = parts.about(task.path)
  if about.get("made") != work.made:
    raise errors.UserError(
      str(task.path), difference(about.get("made") or {}, work.made),
      "a part that the same model and flags made",
      "Choose another --out, or remove what is there.",
    )  # fmt: skip
  start, stop = (about["records"][k] for k in ("start", "stop"))
  last = min(stop, task.stop)
  names = parts.digest(work.source, task.start, last)
  if (
    start != task.start
    or stop > task.stop
    or names != about["records"]["names"]
  ):
    raise errors.UserError(
      str(task.path), f"records {start:,} to {stop:,} of other data",
      "those of --data, to which records may only have been added at the end",
      "Choose another --out, or remove what is there.",
    )  # fmt: skip
  if stop < task.stop:
    logging.warning("%s is done again: it has got more records", task.path)
    return None
  return about


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
  """Returns which of the things that a work depends on are not the same."""
  names = sorted(k for k in before | now if before.get(k) != now.get(k))
  return "made with another " + ", ".join(names)


def run_all(
  tasks: list[Task], work: Work, tell: Callable[[str], None]
) -> dict[str, int]:
  """Does shards one after another, and tells of each when the rest is done.

  Returns:
    The number of bad records by kind, of all these shards.
  """
  bad: collections.Counter[str] = collections.Counter()
  records = seconds = kept = 0
  for i, task in enumerate(tasks, 1):
    stats = run(task, work)
    bad.update(stats.bad)
    if not stats.done:
      kept += 1
      continue
    records, seconds = records + stats.records, seconds + stats.seconds
    left = sum(map(len, tasks[i:])) * seconds / records
    named = f", bad: {json.dumps(stats.bad)}" if stats.bad else ""
    tell(
      f"shard {task.number} ({i} of {len(tasks)}): {stats.records:,} records, "
      f"{records / seconds:,.1f}/s, {left:,.0f} s left{named}"
    )
  if kept:
    tell(f"{kept} of {len(tasks)} shards were there already")
  return dict(bad)
