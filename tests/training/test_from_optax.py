"""Optimizers of optax by name: composed as ours are, tried out, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_contrastive.config import errors, rules
from big_contrastive.factory import parts
from big_contrastive.parallel import placement
from big_contrastive.training import from_optax

UNIT = {"batch_size": 4, "epoch": 20, "total": 8}
STACK = "img/encoder/blocks"
SHAPES = {
  f"{STACK}/attention/query/kernel": (2, 6, 2, 3),
  f"{STACK}/attention/out/kernel": (2, 2, 3, 6),
  f"{STACK}/mlp/fc1/kernel": (2, 6, 8),
  f"{STACK}/mlp/fc1/bias": (2, 8),
  "txt/embed/embedding": (12, 6),
  "t": (),
}


def draw(seed):
  r = np.random.default_rng(seed)
  return {
    k: jnp.asarray(r.normal(size=shape), jnp.float32)
    for k, shape in SHAPES.items()
  }


def optimizer(config, decay=0.0, **factors):
  given = {"decay": [(".*", decay)], "lr_mult": [(".*", 1.0)]} | factors
  return parts.optimizer(
    {"lr": 0.5} | config, {"decay": "linear"}, given, list(SHAPES), UNIT,
    depths={k: 2 for k in SHAPES if "blocks" in k},
  )  # fmt: skip


def run(tx, steps=3):
  params = draw(0)
  state, found, update = tx.init(params), [], jax.jit(tx.update)
  for i in range(steps):
    updates, state = update(draw(i + 1), state, params)
    params = {k: p + updates[k] for k, p in params.items()}
    found.append(params)
  return found, state


def test_lion_with_decay_schedule_clipping_and_factors_is_optax_s():
  """Against a chain of optax's own parts."""
  rate, tx = optimizer(
    {"name": "optax.lion", "b1": 0.8, "weight_decay": 0.1, "clip": 0.5},
    decay=1.0, lr_mult=[("t", 0.5), (f"{STACK}[1]/.*", 2.0), (".*", 1.0)],
  )  # fmt: skip
  theirs = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.lion(rate, b1=0.8, b2=0.99, weight_decay=0.1),
  )
  params = draw(0)
  state, found = theirs.init(params), tx.init(params)
  both = jax.jit(theirs.update), jax.jit(tx.update)
  for i in range(3):
    updates, state = both[0](draw(i + 1), state, params)
    ours, found = both[1](draw(i + 1), found, params)
    for name, u in updates.items():
      factor = 0.5 if name == "t" else 1.0
      if "blocks" in name:
        factor = np.asarray([1.0, 2.0]).reshape(2, *[1] * (u.ndim - 1))
      np.testing.assert_allclose(ours[name], factor * u, rtol=1e-6)
    params = {k: p + updates[k] for k, p in params.items()}


def test_muon_orthogonalizes_each_layer_as_a_matrix_of_its_own():
  _, tx = optimizer({"name": "optax.contrib.muon", "beta": 0.9})
  found, state = run(tx)
  views = {"query": (6, 6), "out": (6, 6), "fc1": (6, 8)}

  def layer(tree, name, i):
    return tree[name][i].reshape(views[name.split("/")[-2]])

  kernels = [k for k in SHAPES if k.endswith("/kernel")]
  alone = {
    (k, i): layer(draw(0), k, i) for k in kernels for i in range(2)
  }  # fmt: skip
  theirs = optax.contrib.muon(lambda s: 0.5 * (1 - s / 8), beta=0.9)
  other, names, update = theirs.init(alone), list(alone), jax.jit(theirs.update)
  for step in range(3):
    grads = {(k, i): layer(draw(step + 1), k, i) for k, i in names}
    updates, other = update(grads, other, alone)
    alone = {k: p + updates[k] for k, p in alone.items()}
    for k, i in names:
      np.testing.assert_allclose(
        layer(found[step], k, i), alone[k, i], rtol=2e-4, atol=2e-4
      )
  # What is no kernel, an embedding too, has Adam's moments.
  adam = state[0][0].inner_states["adam"].inner_state
  moments = {
    path[-1].key for path, leaf in jax.tree_util.tree_leaves_with_path(adam)
    if isinstance(path[-1], jax.tree_util.DictKey)
  }  # fmt: skip
  assert moments == SHAPES.keys() - {*kernels}


@pytest.mark.parametrize("name", ["optax.lion", "optax.contrib.muon"])
def test_its_state_lies_where_the_parameters_do(name, mesh):
  over = mesh(1, 2)
  _, tx = optimizer({"name": name})
  params = rules.unflatten(draw(0))
  where = rules.flatten(placement.params([(".*", "fsdp")], params, over))
  state = jax.eval_shape(tx.init, draw(0))
  placed = placement.like(where, state, over)
  leaves = jax.tree_util.tree_leaves_with_path(placed)
  of = [s for path, s in leaves if "fc1/kernel" in str(path[-1])]
  assert of and all(s == where[f"{STACK}/mlp/fc1/kernel"] for s in of)
  assert not where[f"{STACK}/mlp/fc1/kernel"].is_fully_replicated


@pytest.mark.parametrize("name", [
  "optax.adam", "optax.adamw", "optax.sgd", "optax.contrib.ademamix",
])  # fmt: skip
def test_it_takes_those_that_are_a_rate_times_a_direction(name):
  from_optax.direction(name, {}, "config.optimizer")


@pytest.mark.parametrize(
  ("config", "said"),
  [
    ({"name": "optax.lionn"}, "config.optimizer.name = 'optax.lionn'; .*lion'"),
    ({"name": "optax.contrib.muom"}, "Did you mean 'optax.contrib.muon'"),
    ({"name": "optax.scale_by_adam"}, "config.optimizer.name = 'optax.scale"),
    ({"name": "optax.losses.l2"}, "config.optimizer.name = 'optax.losses.l2'"),
    ({"name": "optax.lion", "b3": 1}, "config.optimizer.b3 = 1; .*one of b1"),
    ({"name": "optax.lion", "mask": {}}, "config.optimizer.mask = {}"),
    ({"name": "optax.lion", "learning_rate": 1.0}, "optimizer.learning_rate"),
    ({"name": "optax.lion", "b1": "x"}, "config.optimizer = .*It fails"),
    ({"name": "optax.lbfgs"}, "config.optimizer = 'optax.lbfgs'.*It fails"),
    ({"name": "optax.fromage"}, "rate times a direction"),
    ({"name": "optax.contrib.prodigy"}, "rate times a direction|It fails"),
    ({"name": "optax.lars"}, "rate times a direction"),
    ({"name": "optax.lamb"}, "treats each of the stacked layers alone"),
    ({"name": "optax.novograd"}, "treats each of the stacked layers alone"),
    ({"name": "optax.lion", "lr": -1}, "config.optimizer.lr = -1"),
  ],
)
def test_a_wrong_optimizer_is_one_line(config, said):
  with pytest.raises(errors.UserError, match=said) as e:
    optimizer(config)
  assert "\n" not in str(e.value)
