"""Tiny things for tests: configs, a step over two towers, random pairs."""

import dataclasses
import math
import pathlib
import types

import flax.nnx as nnx
import jax
import numpy as np

from big_contrastive import objectives
from big_contrastive.config import files, rules
from big_contrastive.models import build
from big_contrastive.objectives import pairs
from big_contrastive.objectives._ema import averaged
from big_contrastive.parallel import sharding
from big_contrastive.training import optimizers, schedules, step

BATCH = 16
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# What recipes share, and no recipe itself.
SHARED = {
  "augmentations", "captioners", "captions_as_labels", "common", "parsing",
  "quick", "self_supervised", "small", "sources", "towers",
}  # fmt: skip
# Recipes of images alone, a method each.
METHODS = sorted(
  path.stem
  for path in CONFIGS.glob("*.py")
  if "self_supervised.begin(" in path.read_text() and path.stem != "cifar10"
)


def load(name, argument, *overrides):
  """Returns the config configs/<name>.py:<argument>."""
  path = f"{CONFIGS}/{name}.py:{argument}"
  return files.load_config(path, list(overrides))


def make_step(
  mesh, *, loss="sigmoid", freeze=(), optimizer="adamw", keep=0.5,
  dropout=0.1, dtype="float32", lr=1e-3, text=None, micro_batch=None, ema=None,
  depth=2,
  **objective,
) -> tuple[step.Step, nnx.GraphDef]:  # fmt: skip
  """Returns a step over towers of two blocks, and the model's structure."""

  shared = dict(depth=depth, dropout=dropout)
  sizes = dict(vocab_size=64, length=8, out_dim=32) | (text or {})
  tokenizer = types.SimpleNamespace(
    length=sizes.pop("length"),
    vocab_size=64,
    pad_id=sizes.get("pad_id"),
    eos_id=None,
  )
  sections = {
    "image": {"variant": "mu/8", "res": 32, "keep": keep, **shared},
    "text": {"variant": "mu", **sizes, **shared},
    "scale": math.exp(2.3), "bias": -10.0 if loss == "sigmoid" else None,
    "dtype": dtype, "remat": None,
  }  # fmt: skip
  model = build.build_model(sections, tokenizer, sharding.pin(mesh))
  names = frozenset(rules.flatten(model.shapes))
  frozen = frozenset(k for k in names if k.split("/")[0] in freeze)
  setting = objectives.Setting(model, mesh, BATCH, micro_batch)
  method = pairs.build(setting, loss=loss, **objective)
  method = method if ema is None else averaged(method, ema)
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
  method = method.freeze(frozen)
  return step.Step(method, tx, rate, names - frozen, 0), model.graph


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


def place(recipe: step.Step, mesh, rules=((".*", "fsdp"),)) -> step.Placed:
  """Returns step.place, but draws the first state on one device.

  That is compiled once for all meshes.
  """
  placed = step.place(recipe, mesh, rules)
  where = jax.tree.map(lambda leaf: leaf.sharding, placed.abstract)
  init = jax.jit(recipe.init)
  return dataclasses.replace(placed, init=lambda: jax.device_put(init(), where))


def train(mesh, steps: int = 3, rules=((".*", "fsdp"),), **kwargs):
  """Returns the losses, and the last state and metrics, of a short run."""
  placed = place(make_step(mesh, **kwargs)[0], mesh, rules)
  state, losses = placed.init(), []
  for i in range(steps):
    state, metrics = placed.update(state, batch(mesh, i))
    losses.append(float(metrics["loss"]))
  return losses, state, metrics
