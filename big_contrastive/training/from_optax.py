"""Any optimizer of optax, by its name: optax.lion, optax.contrib.muon."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from big_contrastive.config import errors, rules, schema

PREFIX = "optax."


def direction(
  name: str, kwargs: dict[str, Any], where: str
) -> optax.GradientTransformation:
  """Returns the optimizer's direction, to which `optimizers.build` adds.

  That is its update with a learning rate of -1 and no decay. Decay, rates and
  clipping are `build`'s, as for the optimizers there. It is tried out: an
  optimizer whose update is not its rate times a direction, or in which the
  layers of a stacked parameter depend on each other, is refused. Muon takes
  each layer's kernel, its inputs times its outputs, for a matrix; what is no
  kernel has its Adam.

  Args:
    name: "optax.NAME" or "optax.contrib.NAME".
    kwargs: its other arguments.
    where: the section, for errors.

  Raises:
    UserError: for an unknown name, wrong arguments, or one that is refused.
  """
  known = _known()
  function = known[errors.choice(f"{where}.name", name, known)]
  taken = inspect.signature(function).parameters
  ours = {k: v for k, v in _OURS.items() if k in taken}
  arguments = {"learning_rate": 1.0} | ours
  bound = schema.complete(function, kwargs, where, arguments)

  def make(rate: Any) -> optax.GradientTransformation:
    return bound(learning_rate=rate)

  shown = f"{name}, {kwargs}" if kwargs else name
  try:
    by_schedule, alone, scale = _try(make)
  except Exception as e:  # Of any kind: wrong values, other arguments.
    first = next(iter(str(e).strip().splitlines()), type(e).__name__)
    allowed = "an optimizer of gradients and parameters, and its values"
    remedy = f"It fails: {first[:200].rstrip('.')}."
    raise errors.UserError(where, shown, allowed, remedy) from e
  remedy = f"Choose another, or one of ours: {', '.join(_LIKE)}."
  if by_schedule > 1e-5 * scale:
    allowed = "an optimizer whose update is its learning rate times a direction"
    raise errors.UserError(f"{where}.name", shown, allowed, remedy)
  if alone > 1e-4 * scale:
    allowed = "an optimizer that treats each of the stacked layers alone"
    raise errors.UserError(f"{where}.name", shown, allowed, remedy)
  return optax.chain(make(1.0), optax.scale(-1.0))


_LIKE = ("adamw", "adafactor", "sgd", "lars")


def _matrices(params: dict[str, Any]) -> dict[str, Any]:
  """Returns the axes of each kernel; all others are its layers."""
  return {
    name: MuonDimensionNumbers(*rules.sides(name, p.ndim))
    if name.endswith("/kernel")
    else None
    for name, p in params.items()
  }


# Arguments that have another place in a config, or none.
_OURS = {
  "weight_decay": 0.0, "adam_weight_decay": 0.0, "weight_decay_rate": None,
  "mask": None, "weight_decay_mask": None, "adam_learning_rate": None,
  "muon_weight_dimension_numbers": _matrices,
}  # fmt: skip


def _known() -> dict[str, Callable]:
  """Returns what makes an optimizer from a learning rate, by dotted name."""
  modules = {PREFIX: optax, f"{PREFIX}contrib.": optax.contrib}
  return {
    prefix + name: function
    for prefix, module in modules.items()
    for name, function in vars(module).items()
    if inspect.isfunction(function)
    and not name.startswith("scale_by")
    and "learning_rate" in inspect.signature(function).parameters
  }


_STACK = "x/blocks/fc/kernel"


def _try(make: Callable) -> tuple[float, float, float]:
  """Tries an optimizer out for three steps, on two layers and a vector.

  Args:
    make: learning rate -> the optimizer.

  Returns:
    How far the updates are off with a rate that halves each step, over that
    rate; how far with the layers as parameters of their own; and the largest
    update.
  """
  r = np.random.default_rng(0)
  # A thousandfold apart: what is shared between layers shows.
  size = np.asarray([1e-2, 10.0])[:, None, None]

  def draw() -> dict[str, Any]:
    stack, vector = size * r.normal(size=(2, 3, 4)), r.normal(size=4)
    return {_STACK: np.float32(stack), "x/pos": np.float32(vector)}

  params, grads = [draw() for _ in range(3)], [draw() for _ in range(3)]

  def run(rate: Any, form: Callable = lambda tree: tree) -> list[Any]:
    tx = make(rate)
    state, updates = tx.init(form(params[0])), []
    for p, g in zip(params, grads, strict=True):
      update, state = tx.update(form(g), state, form(p))
      updates.append(update)
    return updates

  @jax.jit
  def distances() -> list[jax.Array]:
    plain = run(1.0)
    halved = [
      jax.tree.map(lambda x, i=i: 2.0**i * x, update)
      for i, update in enumerate(run(lambda step: 0.5**step))
    ]
    alone = [_split(update) for update in plain]
    zero = jax.tree.map(jnp.zeros_like, plain)
    return [
      _farthest(plain, halved),
      _farthest(alone, run(1.0, _split)),
      _farthest(plain, zero),
    ]

  by_schedule, alone, largest = (float(x) for x in distances())
  return by_schedule, alone, largest


def _split(tree: dict[str, Any]) -> dict[str, Any]:
  """Returns the tree with each layer under a name of its own."""
  layers = {f"x/{i}/fc/kernel": x for i, x in enumerate(tree[_STACK])}
  return layers | {k: x for k, x in tree.items() if k != _STACK}


def _farthest(a: Any, b: Any) -> jax.Array:
  off = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), a, b)
  return jnp.max(jnp.stack(jax.tree.leaves(off)))
