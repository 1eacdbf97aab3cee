"""Evaluates a checkpoint, which is all it takes besides the data.

  python -m big_contrastive.evaluate --checkpoint runs/demo \\
    --task zero_shot --data shapes:split=heldout --templates '["a {c}"]'

--data is SOURCE:KEY=VALUE,...: a file of data/sources and its arguments.
Other flags are arguments of the task: see the files in big_contrastive/evals.
Figures are printed as one JSON line.
"""

import json
from typing import Any

import jax
import numpy as np

from big_contrastive import (
  assemble,
  checkpoint,
  command,
  embedding,
  errors,
  sharding,
)
from big_contrastive.data import image
from big_contrastive.models import two_tower


def load(
  path: str, batch_size: int = 64, threads: int = 4
) -> tuple[embedding.Embedder, dict[str, Any]]:
  """Returns an embedder and the parameters of a checkpoint, on all devices.

  Args:
    path: a workdir or a checkpoint in it.
    batch_size: rounded up to a multiple of the devices.
    threads: that read and decode.
  """
  directory = checkpoint.find(path, "--checkpoint")
  config = checkpoint.read_meta(directory)["config"]
  words = assemble.stored_tokenizer(directory)
  mesh = sharding.make_mesh()
  make, abstract = assemble.model(config["model"], words, sharding.pin(mesh))
  graph, shapes = two_tower.split(abstract)
  whole = sharding.replicated(mesh)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes
  )
  params = checkpoint.read_params(directory, shapes)
  ops = image.parse(config["eval_image"], "config.eval_image", train=False)
  n = sharding.ring_size(mesh)
  size = -(-batch_size // n) * n
  return embedding.Embedder(graph, mesh, words, ops, size, threads), params


def parse_data(spec: str) -> dict[str, Any]:
  """Returns {"name": ..., key: value} of "name:key=value,key=value"."""
  name, _, rest = spec.partition(":")
  config: dict[str, Any] = {"name": name}
  key = None
  for piece in rest.split(",") if rest else []:
    before, equals, value = piece.partition("=")
    if equals and before.isidentifier():
      key = before
      config[key] = command.literal(value)
    elif key is not None:
      config[key] = f"{config[key]},{piece}"  # A comma inside a value.
    else:
      remedy = "Write it like folder:root=photos."
      raise errors.UserError("--data", spec, "SOURCE:KEY=VALUE,...", remedy)
  return config


def run() -> None:
  """Parses the flags, evaluates and prints."""
  parser = command.parser(__doc__)
  parser.add_argument("--checkpoint", required=True, help="workdir or step")
  parser.add_argument("--data", required=True, help="SOURCE:KEY=VALUE,...")
  parser.add_argument("--task", required=True, help="a file of evals/")
  parser.add_argument("--batch_size", type=int, default=64)
  flags, rest = parser.parse_known_args()
  arguments = _pairs(rest)
  command.start(flags.distributed)
  config = {"task": flags.task, "source": parse_data(flags.data)} | arguments
  evaluator = assemble.evaluator(config, "--data")
  embedder, params = load(flags.checkpoint, flags.batch_size)
  results = evaluator(
    lambda source: embedder.images(params, source),
    lambda texts: embedder.texts(params, texts),
  )
  figures = {
    f"{flags.task}/{name}": float(value)
    for name, value in results
    if np.isscalar(value)
  }
  if jax.process_index() == 0:
    print(json.dumps(figures))


def _pairs(rest: list[str]) -> dict[str, Any]:
  """Arguments of the task from --key value or --key=value."""
  pieces = [p for r in rest for p in r.split("=", 1 if r[:2] == "--" else 0)]
  keys, values = pieces[::2], pieces[1::2]
  if len(keys) != len(values) or not all(k.startswith("--") for k in keys):
    remedy = "See --help."
    raise errors.UserError("arguments", " ".join(rest), "--KEY=VALUE", remedy)
  return {k[2:]: command.literal(v) for k, v in zip(keys, values, strict=True)}


if __name__ == "__main__":
  command.main(run)
