"""Evaluates a model: one of our checkpoints, or another project's files.

  python -m big_contrastive.evaluate --checkpoint runs/demo \\
    --task zero_shot --data shapes:split=heldout --templates '["a {c}"]'

--data is SOURCE:VALUE,KEY=VALUE,...: a file of data/sources and its arguments,
such as wds:shards/{00..12}.tar, parquet:FOLDER, tfds:NAME, folder:PHOTOS.
Other flags are arguments of the task: see the files in big_contrastive/evals.
Some tasks have training data, which --train names as --data does:

  python -m big_contrastive.evaluate --checkpoint runs/demo --task knn \\
    --data folder:root=test_photos --train folder:root=train_photos

The metrics are printed as one JSON line. If a metric or an embedding is not
finite, nothing is printed and the exit code is 3.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax

from big_contrastive.config import errors, files
from big_contrastive.factory import cli, evaluators
from big_contrastive.inference.model import load

# Our tasks without metrics; refused before any work.
_PICTURES = ("gallery", "neighbors")

_FLAGS = "--"  # The section whose fields the flags are.


def run() -> None:
  """Parses the flags, evaluates the model and prints its metrics."""
  parser = cli.model_parser(__doc__)
  parser.add_argument("--task", required=True, help="a file of evals/")
  flags, rest = parser.parse_known_args()
  arguments = _pairs(rest)
  for name in arguments.keys() & {"task", "source"}:
    listed = "an argument of the task"
    remedy = "Give --task and --data once."
    raise errors.UserError(f"--{name}", arguments[name], listed, remedy)
  if flags.task in _PICTURES:
    raise _no_metrics(flags.task)
  cli.start(flags.distributed)
  config = {"task": flags.task, "source": flags.data} | arguments
  with _flags():
    evaluator = evaluators.evaluator(config, _FLAGS)
  model = load(
    flags.checkpoint,
    tokenizer=flags.tokenizer,
    batch_size=flags.batch_size,
    where="--checkpoint",
  )
  with _flags():
    metrics = {
      f"{flags.task}/{name}": value
      for name, value in evaluator(model.embedder.bound(model.params))
      if isinstance(value, float)  # Pictures are not.
    }
  if not metrics:
    raise _no_metrics(flags.task)
  if jax.process_index() == 0:
    print(json.dumps(metrics, allow_nan=False))


@contextlib.contextmanager
def _flags() -> Iterator[None]:
  """Names the fields of the task in errors as flags; source is --data."""
  try:
    yield
  except errors.UserError as e:
    named = e.replaced(f"{_FLAGS}.source", "--data")
    raise named.replaced(f"{_FLAGS}.", "--") from e


def _no_metrics(task: str) -> errors.UserError:
  remedy = "Training draws its pictures: list it in config.evals."
  return errors.UserError("--task", task, "a task with metrics", remedy)


def _pairs(rest: list[str]) -> dict[str, Any]:
  """Arguments of the task from --key value or --key=value."""
  pieces = [p for r in rest for p in r.split("=", 1 if r[:2] == "--" else 0)]
  keys, values = pieces[::2], pieces[1::2]
  for key in keys:
    if keys.count(key) > 1:
      both = [v for k, v in zip(keys, values, strict=False) if k == key]
      raise errors.UserError(key, both, "one value", "Leave one out.")
  if len(keys) != len(values) or not all(k.startswith("--") for k in keys):
    remedy = "See --help."
    raise errors.UserError("arguments", " ".join(rest), "--KEY=VALUE", remedy)
  return {k[2:]: files.literal(v) for k, v in zip(keys, values, strict=True)}


if __name__ == "__main__":
  cli.main(run)
