"""CPC against a float64 loop over positions, written here from the papers."""

import functools
import pathlib

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import peers
import tiny
from big_contrastive import objectives
from big_contrastive.config import errors, rules
from big_contrastive.models import build
from big_contrastive.models.heads.context import Context
from big_contrastive.models.image.patches import Patches
from big_contrastive.objectives import _base, cpc
from big_contrastive.parallel import sharding
from big_contrastive.training import step

PLAIN = str(pathlib.Path(__file__).parents[1] / "plain_tower.py")
BATCH, RES, GRID, WIDTH, LR = 16, 20, 4, 8, 0.1
STEPS, DEPTH, HIDDEN, TEMPERATURE = 2, 1, 6, 0.5


def setting(devices=1, micro_batch=None, views=None, fsdp=1, **changes):
  """What the objective gets, of the tiniest model that it can be of."""
  patch = changes.pop("patch", {"tower": PLAIN, "width": WIDTH})
  image = {"tower": "patches", "res": RES, "grid": GRID, "patch": patch}
  context = {"steps": STEPS, "depth": DEPTH, "hidden": HIDDEN}
  context |= {"name": "context", "directions": 4}
  heads = {"context": context | changes}
  model = build.build_model({"image": image, "heads": heads})
  mesh = sharding.make_mesh(devices=jax.devices()[:devices], fsdp=fsdp)
  views = {"view": 1} if views is None else views
  return objectives.Setting(model, mesh, BATCH, micro_batch, 10, views)


def make(*args, **kwargs):
  """The placed step, with plain SGD."""
  given = setting(*args, **kwargs)
  method = cpc.build(given, temperature=TEMPERATURE).freeze(frozenset())
  names = frozenset(rules.flatten(given.model.shapes))
  recipe = step.Step(method, optax.sgd(LR), lambda s: LR, names, 0)
  return tiny.place(recipe, given.mesh)


def batch(placed):
  r = np.random.default_rng(0)
  image = r.integers(0, 256, (BATCH, 1, RES, RES, 3)).astype(np.uint8)
  return sharding.to_global({"view": image}, BATCH, placed.mesh)


def first_state(placed):
  """The initial state, with predictions that are not all near zero."""
  state = placed.init()
  kernel = state.params["context"]["kernel"]
  state.params["context"]["kernel"] = 5 * kernel
  return state


def trained(placed):
  """The loss of the first step, and the parameters after it."""
  state, metrics = placed.update(first_state(placed), batch(placed))
  return float(metrics["loss"]), jax.device_get(state.params)


@functools.cache
def alone():
  placed = make()
  return placed, *trained(placed)


# --- The formula, float64. ---


def vector(p, patch):
  """The plain tower."""
  x = patch.reshape(len(patch), -1) / 127.5 - 1
  x = jnp.tanh(x @ p["fc1"]["kernel"] + p["fc1"]["bias"][None])
  return x @ p["fc2"]["kernel"] + p["fc2"]["bias"][None]


def convolution(p, x, h, w, padding):
  """With a layer's kernel, of h x w places; x [B, g, g, d]."""
  kernel = p["kernel"].reshape(h, w, x.shape[-1], -1)
  names = ("NHWC", "HWIO", "NHWC")
  y = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=names
  )
  return y + p["bias"][None, None, None]


def contexts(p, z):
  """c of all places, by the convolutions of CPC v2."""
  for i in range(DEPTH):
    block = p[f"block{i}"]
    x = jax.nn.relu(convolution(block["narrow"], z, 1, 1, "VALID"))
    x = convolution(block["across"], x, 1, 3, ((0, 0), (1, 1)))
    x = jax.nn.relu(convolution(block["down"], x, 2, 1, ((1, 0), (0, 0))))
    z = z + convolution(block["widen"], x, 1, 1, "VALID")
  return jax.nn.relu(z)


def formula(p, image):
  """The loss, a loop over directions, steps and positions."""
  g, half, skip = GRID, RES // (GRID + 1), 1
  patches = [
    image[:, half * y : half * (y + 2), half * x : half * (x + 2)]
    for y in range(g)
    for x in range(g)
  ]
  z = [vector(p["img"]["patch"], patch) for patch in patches]
  z = jnp.stack(z, axis=1).reshape(BATCH, g, g, -1)
  terms = []
  for direction in range(4):
    c = contexts(p["context"], z)
    for k in range(1, STEPS + 1):
      matrix = p["context"]["kernel"][direction, k - 1]
      below = [(y, x) for y in range(k + skip, g) for x in range(g)]
      targets = jnp.concatenate([z[:, y, x] for y, x in below])
      of_step = []
      for place, (y, x) in enumerate(below):
        ahead = c[:, y - k - skip, x] @ matrix
        logits = ahead @ targets.T / TEMPERATURE
        own = place * BATCH + np.arange(BATCH)
        of_step.append(
          jax.nn.logsumexp(logits, 1) - logits[np.arange(BATCH), own]
        )
      terms.append(jnp.concatenate(of_step).mean())
    # Turned: what was at the right is above: z[y, x] is z[x, g - 1 - y].
    z = z.swapaxes(1, 2)[:, ::-1]
  return sum(terms) / len(terms)


def test_a_step_is_that_of_the_loop_over_positions():
  """The loss, and all gradients: those of contexts and of targets."""
  placed, loss, params = alone()
  before = jax.device_get(first_state(placed).params)
  image = jax.device_get(batch(placed)["view"])[:, 0]
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), before)
    of = jax.jit(jax.value_and_grad(formula))
    expected, grads = of(exact, jnp.asarray(image, jnp.float64))
    after = jax.tree.map(lambda x, g: x - LR * g, exact, grads)
    expected, after, grads = jax.device_get((float(expected), after, grads))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  chex.assert_trees_all_close(params, after, rtol=1e-4, atol=1e-6)
  assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
  ("devices", "micro_batch", "fsdp"),
  [(8, 8, 4), pytest.param(2, None, 1, marks=pytest.mark.slow)],
)
def test_devices_and_micro_batches_change_nothing(devices, micro_batch, fsdp):
  _, expected, one = alone()
  loss, params = trained(make(devices, micro_batch, fsdp=fsdp))
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  chex.assert_trees_all_close(params, one, rtol=1e-5, atol=1e-6)


def test_equal_predictions_are_chance():
  """log of the targets: 16 images by 4 columns by 2 rows, then 1."""
  placed, *_ = alone()
  state = first_state(placed)
  state.params["context"]["kernel"] *= 0
  _, metrics = placed.update(state, batch(placed))
  chance = cpc.build(setting()).chance
  assert chance == pytest.approx((np.log(128) + np.log(64)) / 2)
  np.testing.assert_allclose(metrics["loss"], chance, rtol=1e-6)


def test_a_context_does_not_see_the_patches_below():
  """Patches, as pixels of those below are in those above, too."""
  patch = {"tower": PLAIN, "width": WIDTH}
  tower = Patches(RES, grid=GRID, patch=patch, rngs=nnx.Rngs(0))
  context = Context(WIDTH, depth=2, hidden=6, rngs=nnx.Rngs(1))
  r = np.random.default_rng(0)
  x = r.integers(0, 256, (1, GRID, GRID, 8, 8, 3)).astype(np.float32)

  def sums(x):
    return (context(tower.of_patches(x)) ** 2).sum((0, 2, 3))

  by = jnp.abs(jax.jit(jax.jacrev(sums))(x)).sum(
    (1, 4, 5, 6)
  )  # [row, row, column]
  for y in range(GRID):
    assert not by[y, y + 1 :].any()
    assert (by[y, max(0, y - 2) : y + 1] > 0).all()


def test_no_memory_is_of_the_batch_by_the_batch(mesh):
  """1 MiB a device of vectors; its rows of one step's matrix take 8 GiB."""
  model, over = setting(steps=1, directions=1).model, mesh(8)
  method = cpc.CPC(objectives.Setting(model, over, 2048, None, 1, {"view": 1}))

  def loss(params, z):
    applied = _base.Applied(method.setting, params, {})
    (pair,), _ = applied.rows_and_sums(method._ahead, z)
    return _base.on_ring(method._of_pair, over)(*pair)

  shape = (16384, GRID, GRID, WIDTH)
  where = sharding.batch(over)
  z = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
  plan = jax.jit(jax.grad(loss, 1)).lower(model.shapes, z).compile()
  vectors = 4 * np.prod(shape) / 8
  matrix = 4 * (16384 * GRID * 2) ** 2 / 8
  used = plan.memory_analysis().temp_size_in_bytes
  assert used < 20 * vectors < matrix / 400


@pytest.mark.parametrize(
  ("fields", "changes", "said"),
  [
    ({"temperature": 0.0}, {}, "temperature = 0.0"),
    ({"skip": -1}, {}, "skip = -1"),
    ({"tile": 0}, {}, "tile = 0"),
    ({}, {"steps": 3}, "context.steps = 3; .* at most grid - 1 - skip = 2"),
    ({"skip": 2}, {}, "context.steps = 2; .* = 1"),
    ({}, {"steps": 0}, "context.steps = 0"),
    ({}, {"hidden": 0}, "context.hidden = 0"),
    ({}, {"depth": -1}, "context.depth = -1"),
    ({}, {"directions": 2}, "context.directions = 2; expected one of 1, 4"),
    ({}, {"views": {}}, "config.views is missing; expected one view"),
    ({}, {"views": {"a": 2}}, "config.views = .*'a': 2.*; expected one view"),
    ({}, {"micro_batch": 3}, "config.micro_batch = 3"),
  ],
)
def test_a_wrong_field_is_one_line(fields, changes, said):
  with pytest.raises(errors.UserError, match=said):
    cpc.build(setting(**changes), **fields)


@pytest.mark.parametrize(
  ("image", "context", "said"),
  [
    ({"tower": PLAIN, "res": 16}, {"name": "context"},
     "config.model.image.tower = 'plain'; expected 'patches'"),
    (None, {"name": "mlp", "out_dim": 4},
     "heads.context.name = 'mlp'; expected 'context'"),
    (None, None, "heads.context is missing"),
  ],
)  # fmt: skip
def test_other_parts_are_refused(image, context, said):
  patches = {"tower": "patches", "res": 20, "patch": {"tower": PLAIN}}
  heads = {} if context is None else {"context": context}
  sections = {"image": image or patches | {"grid": 4}, "heads": heads}
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  given = objectives.Setting(
    build.build_model(sections), mesh, BATCH, None, 1, {"view": 1}
  )
  with pytest.raises(errors.UserError, match=said):
    cpc.build(given)


def test_micro_batches_that_cut_a_batch_norm_are_refused():
  patch = {"tower": "convnet", "widths": [4], "depths": [0]}
  method = cpc.build(setting(micro_batch=4, patch=patch))
  with pytest.raises(errors.UserError, match="norm_group = None"):
    method.freeze(frozenset())
  patch |= {"norm": "layer"}
  cpc.build(setting(micro_batch=4, patch=patch)).freeze(frozenset())


@pytest.mark.peers
def test_contexts_and_loss_are_torchs_convolutions_and_cross_entropy():
  """CPC v2's blocks, 1 x 1, 1 x 3 and 2 x 1, and one step down."""
  torch = peers.torch()
  model = Context(WIDTH, steps=1, depth=2, hidden=6, rngs=nnx.Rngs(0))
  z = np.random.default_rng(0).normal(size=(3, GRID, GRID, WIDTH))
  leaf = torch.tensor(z, requires_grad=True)
  x = leaf.permute(0, 3, 1, 2)

  def conv(linear, h, w):
    kernel = np.asarray(linear.kernel[...], np.float64)
    kernel = kernel.reshape(h, w, -1, kernel.shape[-1])
    layer = torch.nn.Conv2d(*kernel.shape[2:], (h, w), dtype=torch.float64)
    layer.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
    layer.bias.data = torch.tensor(np.asarray(linear.bias[...], np.float64))
    return layer

  pad = torch.nn.functional.pad
  for i in range(2):
    block = getattr(model, f"block{i}")
    y = conv(block.narrow, 1, 1)(x).relu()
    y = conv(block.across, 1, 3)(pad(y, (1, 1, 0, 0)))
    y = conv(block.down, 2, 1)(pad(y, (0, 0, 1, 0))).relu()
    x = x + conv(block.widen, 1, 1)(y)
  context = x.relu().permute(0, 2, 3, 1)
  kernel = torch.tensor(np.asarray(model.kernel[...][0, 0], np.float64))
  q = (context[:, :-2] @ kernel).reshape(-1, WIDTH)
  k = leaf[:, 2:].reshape(-1, WIDTH)
  loss = torch.nn.functional.cross_entropy(q @ k.T, torch.arange(len(q)))
  loss.backward()
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  method = cpc.CPC(objectives.Setting(None, mesh, 3))

  def ours(z):
    (pair,) = method.pairs(model, z)
    return _base.on_ring(method._of_pair, mesh)(*pair)

  found, grad = jax.jit(jax.value_and_grad(ours))(jnp.float32(z))
  np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
  np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-3, atol=1e-5)
