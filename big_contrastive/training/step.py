"""The training step: (state, batch) -> (state, metrics), and its placement."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from big_contrastive.config import rules
from big_contrastive.objectives import Objective
from big_contrastive.parallel import placement, sharding
from big_contrastive.training import per_parameter, schedules
from big_contrastive.training.state import State

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Step:
  """The initial state, and the update of one step.

  Args:
    objective: see objectives/.
    tx: optimizer over a flat dict of the trained parameters.
    rate: step -> learning rate, for the metrics.
    trained: flat names of the trained parameters, or of pieces of stacked ones
      (rules.piece); all else stays as it is, and has no optimizer state.
    seed: of the initialization and of every step.
    skip_nonfinite: whether a step whose loss, gradients or updates are not
      finite changes nothing but the step number.
  """

  objective: Objective
  tx: optax.GradientTransformation
  rate: schedules.Schedule
  trained: frozenset[str]
  seed: int
  skip_nonfinite: bool = False

  def checked(self) -> list[str]:
    """Returns what each entry of metrics["finite"] checks."""
    grads = [f"the gradient of {name}" for name in sorted(self.trained)]
    totals = ["the loss", "the update", "the gradients' norm"]
    return [*totals, *grads]

  def init(self) -> State:
    """Returns the first state."""
    params = self.objective.init(jax.random.key(self.seed))
    opt = self.tx.init(self._split(params)[0])
    extra = self.init_extra(params)
    return State(jnp.zeros((), jnp.int32), params, opt, extra)

  def init_extra(self, params: dict[str, Any]) -> dict[str, Any]:
    """Returns the state's `extra` for these initial parameters."""
    # Never the key of a step: those fold in small numbers.
    key = jax.random.fold_in(jax.random.key(self.seed), 2**32 - 1)
    return self.objective.init_extra(params, key)

  def update(
    self, state: State, batch: dict[str, jax.Array]
  ) -> tuple[State, Metrics]:
    """Returns the state after one step, and metrics of the state before it.

    metrics["finite"] is bool [n]: see `checked`.
    """
    rng = jax.random.fold_in(jax.random.key(self.seed), state.step)
    trained, frozen = self._split(state.params)

    def loss_fn(trained):
      params = _joined(frozen, trained)
      return self.objective(params, state.extra, batch, rng, state.step)

    grads, (metrics, extra) = jax.grad(loss_fn, has_aux=True)(trained)
    updates, opt = self.tx.update(grads, state.opt, trained)
    trained = optax.apply_updates(trained, updates)
    params, extra = self.objective.after_update(
      _joined(frozen, trained), extra, state.step
    )
    squares = [
      optax.tree.norm(grads[name], squared=True) for name in sorted(grads)
    ]
    update_norm = optax.tree.norm(updates)
    # A sum of squares overflows long before its terms do. The host checks the
    # norm of the parameters: checked here, it takes 0.6 GiB of a v5e.
    total = sum(squares)
    checks = [metrics["loss"], update_norm, total, *squares]
    finite = jnp.isfinite(jnp.stack(checks))
    metrics |= {
      "learning_rate": self.rate(state.step),
      "grad_norm": jnp.sqrt(total),
      "param_norm": optax.tree.norm(state.params),
      "update_norm": update_norm,
      "finite": finite,
    }
    new = State(state.step + 1, params, opt, extra)
    if self.skip_nonfinite:
      old_opt = per_parameter.skipped(state.opt, opt)
      old = state._replace(step=new.step, opt=old_opt)
      all_finite = finite.all()
      new = jax.tree.map(lambda a, b: jnp.where(all_finite, a, b), new, old)
    return new, metrics

  def _split(self, params: dict[str, Any]) -> tuple[dict, dict]:
    """Returns flat dicts of what is trained, and of the other parameters.

    A parameter of which layers are trained is in the second one as a whole.
    """
    flat, cut = rules.flatten(params), {}
    for name in sorted(self.trained):
      of, layers = rules.whole(name)
      cut.setdefault(of, []).append((name, layers))
    trained = {}
    for of, p in flat.items():
      # A whole one as it is: XLA keeps the order of the program.
      trained |= {k: p if k == of else p[at] for k, at in cut.get(of, [])}
    return trained, {k: p for k, p in flat.items() if k not in self.trained}


def _joined(frozen: dict, trained: dict) -> dict[str, Any]:
  """Returns nested parameters: undoes Step._split."""
  flat = dict(frozen)
  for name, p in trained.items():
    of, layers = rules.whole(name)
    flat[of] = p if of == name else flat[of].at[layers].set(p)
  return rules.unflatten(flat)


@dataclasses.dataclass(frozen=True)
class Placed:
  """A Step compiled for a mesh, with its state sharded by rules.

  No array is ever created unsharded: `init` has the same shardings.
  """

  mesh: Mesh
  abstract: State  # Shapes, dtypes and shardings.
  checked: list[str]  # What each entry of metrics["finite"] checks.
  init: Callable[[], State]
  init_extra: Callable[[dict[str, Any]], dict[str, Any]]
  update: jax.stages.Wrapped  # (state, batch) -> (state, metrics).
  # The same by Objective.switches, from these steps on.
  later: Mapping[int, jax.stages.Wrapped] = dataclasses.field(
    default_factory=dict
  )

  def at(self, step: int) -> jax.stages.Wrapped:
    """Returns the update of a step, from 0 on."""
    begun = [first for first in self.later if first <= step]
    return self.later[max(begun)] if begun else self.update


def place(step: Step, mesh: Mesh, shard: rules.Rules) -> Placed:
  """Returns the step jitted, with shardings and donation.

  Args:
    step: the step to compile.
    mesh: from sharding.make_mesh.
    shard: config.shard, see placement.params.
  """
  abstract = jax.eval_shape(step.init)
  replicated = sharding.replicated(mesh)
  params = placement.params(shard, abstract.params, mesh)
  opt = placement.like(rules.flatten(params), abstract.opt, mesh)
  extra = placement.extra(
    step.objective.extra_rules, rules.flatten(params), abstract.extra, mesh
  )
  shardings = State(replicated, params, opt, extra)

  def with_sharding(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  def compiled(first: int) -> jax.stages.Wrapped:
    # Its own copy of the step: what is off in it costs nothing.
    own = dataclasses.replace(step, objective=step.objective.at(first))
    return jax.jit(
      own.update,
      in_shardings=(shardings, sharding.batch(mesh)),
      out_shardings=(shardings, replicated),
      donate_argnums=0,
    )

  return Placed(
    mesh=mesh,
    abstract=jax.tree.map(with_sharding, abstract, shardings),
    checked=step.checked(),
    init=jax.jit(step.init, out_shardings=shardings),
    init_extra=jax.jit(step.init_extra, out_shardings=extra),
    update=compiled(0),
    later={first: compiled(first) for first in step.objective.switches},
  )
