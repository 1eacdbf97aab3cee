"""Ray as the engine: actors do the shards, and are restarted when they die.

Needs the extra `ray`. The same parts, byte for byte, as without it.
"""

import collections
import time
from collections.abc import Callable
from typing import Any

from big_contrastive.config import errors
from big_contrastive.offline import worker
from big_contrastive.offline.tasks import Task


class _Actor:
  """Builds the work once, and does shards."""

  def __init__(self, make: Callable[[], worker.Work]):
    self._work = make()

  def run(self, task: Task) -> worker.Stats:
    """See worker.run."""
    return worker.run(task, self._work)


def run_all(
  tasks: list[Task],
  make: Callable[[], worker.Work],
  tell: Callable[[str], None],
  actors: int,
  resources: dict[str, float],
) -> dict[str, int]:
  """Does shards with an actor pool; returns the bad records by kind.

  An actor that dies is restarted, elsewhere if need be, and its shard is done
  again; ray.init has been called, or connects as RAY_ADDRESS says.

  Args:
    tasks: the shards.
    make: returns the work; pickled.
    tell: takes a line of progress.
    actors: how many; each loads the model.
    resources: of each: {"CPU": 1, "GPU": 1, "TPU": 4}.

  Raises:
    UserError: without Ray, and what `worker.run` raises.
  """
  ray = _ray()
  if not ray.is_initialized():
    ray.init(log_to_driver=False, include_dashboard=False)
  count = {k.lower(): resources[k] for k in ("CPU", "GPU") if k in resources}
  other = {k: v for k, v in resources.items() if k not in ("CPU", "GPU")}
  options = {f"num_{k}s": v for k, v in count.items()}
  kind = ray.remote(
    max_restarts=-1, max_task_retries=-1, resources=other, **options
  )(_Actor)
  n = min(actors, len(tasks))
  idle = [kind.remote(make) for _ in range(n)]
  bad: collections.Counter[str] = collections.Counter()
  waiting, running, began = tasks[::-1], {}, time.monotonic()
  done = records = 0
  while waiting or running:
    while waiting and idle:
      actor, task = idle.pop(), waiting.pop()
      running[actor.run.remote(task)] = actor, task
    (ready,), _ = ray.wait(list(running), num_returns=1)
    actor, task = running.pop(ready)
    try:
      stats = ray.get(ready)
    except ray.exceptions.RayTaskError as e:
      if isinstance(e.cause, errors.UserError):
        raise e.cause from e
      raise
    idle.append(actor)
    done, records = done + 1, records + stats.records * stats.done
    bad.update(stats.bad)
    rate = records / (time.monotonic() - began)
    tell(f"shard {task.number} ({done} of {len(tasks)}), {rate:,.1f} records/s")
  return dict(bad)


def _ray() -> Any:
  try:
    import ray
  except ImportError as e:
    allowed = "an engine that is installed"
    remedy = f"pip install big_contrastive[ray]: {e}."
    raise errors.UserError("--engine", "ray", allowed, remedy) from e
  return ray
