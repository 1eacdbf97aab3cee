"""The training step: (state, batch) -> (state, metrics), and its placement."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from big_contrastive import optim, sharding, tree

Metrics = dict[str, jax.Array]


class State(NamedTuple):
  """Everything on the devices that training changes.

  The randomness of a step is fold_in(seed, step), so no key is kept.
  """

  step: jax.Array
  params: dict[str, Any]
  opt: Any
  extra: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
  """How the state begins and what one step does to it.

  Args:
    init_params: key -> nested dict of parameters.
    objective: see objectives/.
    tx: optimizer over a flat dict of the trained parameters.
    rate: step -> learning rate, for the metrics.
    trained: flat names of what is trained; the rest stays as it is.
    seed: of the initialisation and of every step.
  """

  init_params: Callable[[jax.Array], dict[str, Any]]
  objective: Any
  tx: optax.GradientTransformation
  rate: optim.Schedule
  trained: frozenset[str]
  seed: int

  def init(self) -> State:
    """Returns the first state."""
    params = self.init_params(jax.random.key(self.seed))
    opt = self.tx.init(self._split(params)[0])
    extra = self.objective.init_extra(params)
    return State(jnp.zeros((), jnp.int32), params, opt, extra)

  def update(
    self, state: State, batch: dict[str, jax.Array]
  ) -> tuple[State, Metrics]:
    """Returns the state after one step, and metrics of the state before it."""
    rng = jax.random.fold_in(jax.random.key(self.seed), state.step)
    trained, frozen = self._split(state.params)

    def loss_fn(trained):
      params = tree.unflatten(frozen | trained)
      return self.objective(params, state.extra, batch, rng)

    grads, (metrics, extra) = jax.grad(loss_fn, has_aux=True)(trained)
    updates, opt = self.tx.update(grads, state.opt, trained)
    trained = optax.apply_updates(trained, updates)
    params = self.objective.project(tree.unflatten(frozen | trained))
    metrics |= {k: state.params[k] for k in ("t", "b") if k in state.params}
    metrics |= {
      "learning_rate": self.rate(state.step),
      "grad_norm": optim.norm(grads),
      "param_norm": optim.norm(state.params),
      "update_norm": optim.norm(updates),
    }
    return State(state.step + 1, params, opt, extra), metrics

  def _split(self, params: dict[str, Any]) -> tuple[dict, dict]:
    """Flat dicts of what is trained and what is frozen."""
    flat = tree.flatten(params)
    trained = {k: v for k, v in flat.items() if k in self.trained}
    return trained, {k: v for k, v in flat.items() if k not in self.trained}


@dataclasses.dataclass(frozen=True)
class Placed:
  """A Step compiled for a mesh, with its state sharded by rules.

  Nothing unsharded is ever made: `init` runs under the same shardings.
  """

  mesh: Mesh
  abstract: State  # Shapes, dtypes and shardings.
  init: Callable[[], State]
  update: Callable[[State, Any], tuple[State, Metrics]]


def place(step: Step, mesh: Mesh, rules: tree.Rules) -> Placed:
  """Returns the step jitted, with shardings and donation.

  Args:
    step: what is to be done.
    mesh: from sharding.make_mesh.
    rules: config.shard, see sharding.params.
  """
  abstract = jax.eval_shape(step.init)
  whole = sharding.replicated(mesh)
  params = sharding.params(rules, abstract.params, mesh)
  opt = sharding.like(tree.flatten(params), abstract.opt, mesh)
  extra = jax.tree.map(lambda _: whole, abstract.extra)
  where = State(whole, params, opt, extra)

  def with_sharding(leaf: Any, at: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)

  return Placed(
    mesh=mesh,
    abstract=jax.tree.map(with_sharding, abstract, where),
    init=jax.jit(step.init, out_shardings=where),
    update=jax.jit(
      step.update,
      in_shardings=(where, sharding.batch(mesh)),
      out_shardings=(where, whole),
      donate_argnums=0,
    ),
  )
