"""Evaluates a model: a checkpoint of ours, or what other projects wrote.

  python -m big_contrastive.evaluate --checkpoint runs/demo \\
    --task zero_shot --data shapes:split=heldout --templates '["a {c}"]'

--data is SOURCE:VALUE,KEY=VALUE,...: a file of data/sources and its arguments,
like wds:shards/{00..12}.tar, parquet:FOLDER, tfds:NAME, folder:PHOTOS.
Other flags are arguments of the task: see the files in big_contrastive/evals.
Figures are printed as one JSON line, if all of them are finite: exit code 3
says that one is not, or what the model made of an image or a text.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import json
from typing import Any

import jax

from big_contrastive.config import errors, files
from big_contrastive.factory import cli, evaluators
from big_contrastive.inference.model import load


def run() -> None:
  """Parses the flags, evaluates and prints."""
  parser = cli.model_parser(__doc__)
  parser.add_argument("--task", required=True, help="a file of evals/")
  flags, rest = parser.parse_known_args()
  arguments = _pairs(rest)
  for name in arguments.keys() & {"task", "source"}:
    remedy = "Give --task and --data once."
    raise errors.UserError(f"--{name}", arguments[name], "nothing", remedy)
  cli.start(flags.distributed)
  config = {"task": flags.task, "source": flags.data} | arguments
  evaluator = evaluators.evaluator(config, "--data")
  model = load(
    flags.checkpoint,
    tokenizer=flags.tokenizer,
    batch_size=flags.batch_size,
    where="--checkpoint",
    texts=True,
  )
  results = evaluator(
    lambda source: model.embedder.images(model.params, source),
    lambda texts: model.embedder.texts(model.params, texts),
  )
  figures = {
    f"{flags.task}/{name}": value
    for name, value in results
    if isinstance(value, float)  # Pictures are not.
  }
  if not figures:
    remedy = "Its pictures are drawn in training: config.evals has it."
    raise errors.UserError("--task", flags.task, "one with figures", remedy)
  if jax.process_index() == 0:
    print(json.dumps(figures, allow_nan=False))


def _pairs(rest: list[str]) -> dict[str, Any]:
  """Arguments of the task from --key value or --key=value."""
  pieces = [p for r in rest for p in r.split("=", 1 if r[:2] == "--" else 0)]
  keys, values = pieces[::2], pieces[1::2]
  for key in keys:
    if keys.count(key) > 1:
      raise errors.UserError(key, "given twice", "once", "Leave one out.")
  if len(keys) != len(values) or not all(k.startswith("--") for k in keys):
    remedy = "See --help."
    raise errors.UserError("arguments", " ".join(rest), "--KEY=VALUE", remedy)
  return {k[2:]: files.literal(v) for k, v in zip(keys, values, strict=True)}


if __name__ == "__main__":
  cli.main(run)
