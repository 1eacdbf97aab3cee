"""Tiny things for tests: configs, a step over two towers, random pairs."""

import pathlib

import flax.nnx as nnx
import jax
import numpy as np

from big_contrastive.config import files, registry, rules
from big_contrastive.models import two_tower
from big_contrastive.models.image.vit import ImageTower
from big_contrastive.models.text.transformer import TextTower
from big_contrastive.objectives import pairs
from big_contrastive.parallel import sharding
from big_contrastive.training import optimizers, schedules, step

BATCH = 16
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def load(name, argument, *overrides):
  """Returns the config configs/<name>.py:<argument>."""
  path = f"{CONFIGS}/{name}.py:{argument}"
  return files.load_config(path, list(overrides))


def make_step(
  mesh, *, loss="sigmoid", freeze=(), optimizer="adamw", keep=0.5,
  dropout=0.1, dtype="float32", lr=1e-3, text=None, **objective,
) -> tuple[step.Step, nnx.GraphDef]:  # fmt: skip
  """Returns a step over towers of two blocks, and the model's structure."""

  def build(key):
    shared = dict(
      rngs=nnx.Rngs(key), pin=sharding.pin(mesh), depth=2, dropout=dropout,
      dtype=dtype,
    )  # fmt: skip
    img = ImageTower("mu/8", 32, keep=keep, **shared)
    words = dict(vocab_size=64, length=8, out_dim=32) | (text or {})
    txt = TextTower("mu", **words, **shared)
    bias = -10.0 if loss == "sigmoid" else None
    return two_tower.TwoTower(img, txt, t=2.3, b=bias)

  abstract = nnx.eval_shape(lambda: build(jax.random.key(0)))
  graph, shapes = two_tower.split(abstract)
  names = rules.flatten(shapes)
  frozen = {k for k in names if k.split("/")[0] in freeze}
  goal = pairs.build(
    graph, registry.module("losses", loss, "").loss, mesh,
    frozenset(freeze), **objective,
  )  # fmt: skip
  rate = schedules.schedule(lr, 100, decay="cosine", warmup=2)
  ones = dict.fromkeys(names, 1.0)
  # The exact gradient of a key's bias is 0: Adam's usual eps would blow its
  # rounding up to a whole step.
  direction = optimizers.OPTIMIZERS | {
    "adamw": lambda: optimizers.adamw(eps=1e-4)
  }
  tx = optimizers.build(
    direction[optimizer](), rate, weight_decay=0.1, decay=ones,
    lr_mult=ones, clip=1.0,
  )  # fmt: skip
  trained = frozenset(names) - frozen
  return step.Step(
    lambda key: two_tower.split(build(key))[1], goal, tx, rate, trained, 0
  ), graph


def batch(mesh, seed: int):
  """Returns a global batch of random pairs on the mesh."""
  r = np.random.default_rng(seed)
  host = {
    "image": r.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8),
    "text": r.integers(0, 64, (BATCH, 8)).astype(np.int32),
    "id": (np.arange(BATCH) // 2).astype(np.int32),
  }
  rows = sharding.local_rows(BATCH, mesh)
  return sharding.to_global({k: v[rows] for k, v in host.items()}, BATCH, mesh)


def train(mesh, steps: int = 3, rules=((".*", "fsdp"),), **kwargs):
  """Returns the losses, and the last state and metrics, of a short run."""
  placed = step.place(make_step(mesh, **kwargs)[0], mesh, rules)
  state, losses = placed.init(), []
  for i in range(steps):
    state, metrics = placed.update(state, batch(mesh, i))
    losses.append(float(metrics["loss"]))
  return losses, state, metrics
