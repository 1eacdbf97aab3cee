"""Low-rank adapters of weights: LoRA (arXiv:2106.09685)."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors, rules

PART = "lora"  # The part of a model's parameters with a and b of each weight.


def new(
  params: dict[str, Any], ranks: Mapping[str, int], key: jax.Array
) -> dict[str, Any]:
  """Returns new adapters, nested: {weight: {"a": [in, r], "b": [r, out]}}.

  a is uniform within 1 / sqrt(in), as in peft, and b is 0, so that nothing
  changes yet. Those of stacked weights have a leading layer axis.

  Args:
    params: of the model.
    ranks: by flat name of a weight.
    key: each weight folds in a number of its own.
  """
  flat, made = rules.shapes(params), {}
  for i, name in enumerate(flat):
    if name not in ranks:
      continue
    rows, columns = _sides(name, flat[name])
    layers = flat[name][: int(rules.stacked(name))]
    own, limit = jax.random.fold_in(key, i), rows**-0.5
    a = (*layers, rows, ranks[name])
    made[f"{name}/a"] = jax.random.uniform(own, a, minval=-limit, maxval=limit)
    made[f"{name}/b"] = jnp.zeros((*layers, ranks[name], columns))
  return rules.unflatten(made)


def fold(params: dict[str, Any], scales: Mapping[str, float]) -> dict[str, Any]:
  """Returns nested parameters with adapters folded in: w + scale * a @ b.

  Args:
    params: of the model, adapters included; what has none is returned as is.
    scales: alpha / rank, by flat name of a weight.
  """
  flat = rules.flatten(params)
  for name, scale in scales.items():
    if f"{PART}/{name}/a" in flat:
      w, a, b = (flat[k] for k in (name, *_names(name)))
      multiply = np.matmul if isinstance(w, np.ndarray) else _multiply
      flat[name] = w + (scale * multiply(a, b)).reshape(w.shape)
  return bare(rules.unflatten(flat))


# Not in bfloat16, as TPUs multiply otherwise: what is exported is what trained.
_multiply = functools.partial(jnp.matmul, precision="highest")


def folded(
  params: dict[str, Any], scales: Mapping[str, float]
) -> dict[str, Any]:
  """Returns `fold` of sharded arrays, or of their shapes; compiled."""
  if not scales:
    return params
  like = bare(params)

  def shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

  if isinstance(jax.tree.leaves(like)[0], jax.ShapeDtypeStruct):
    flat = rules.flatten(like)
    return rules.unflatten(
      {k: shape(x) if k in scales else x for k, x in flat.items()}
    )
  shardings = jax.tree.map(lambda x: x.sharding, like)
  run = functools.partial(fold, scales=scales)
  return jax.jit(run, out_shardings=shardings)(params)


def bare(params: dict[str, Any]) -> dict[str, Any]:
  """Returns the parameters without adapters."""
  return {k: v for k, v in params.items() if k != PART}


def _names(name: str) -> tuple[str, str]:
  return f"{PART}/{name}/a", f"{PART}/{name}/b"


def _sides(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
  """Returns how many inputs and outputs a weight has."""
  rows, columns = rules.sides(name, len(shape))
  return math.prod(shape[i] for i in rows), math.prod(shape[i] for i in columns)


def check(name: str, shape: tuple[int, ...], rank: int) -> None:
  """Raises UserError for a weight that can't have an adapter of that rank."""
  vector = name.rsplit("/", 1)[-1] in ("bias", "scale")
  if vector or len(shape) - rules.stacked(name) < 2:
    allowed = "rules that match matrices"
    remedy = f"Its shape is {shape}. End the pattern with /kernel."
    raise errors.UserError("config.lora", name, allowed, remedy)
  rows, columns = _sides(name, shape)
  if rank >= min(rows, columns):
    allowed = f"a rank below {min(rows, columns)}, the smaller side of {name}"
    remedy = "Lower it, or train the weight itself."
    raise errors.UserError("config.lora", rank, allowed, remedy)
