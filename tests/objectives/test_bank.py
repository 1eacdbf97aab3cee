"""InstDisc and CMC against float64 formulas: losses, banks, whole steps."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_self_supervised as dense
from jax.sharding import NamedSharding, PartitionSpec

import color_formulas
import peers
import tiny
from big_contrastive import objectives
from big_contrastive.config import errors, registry, rules
from big_contrastive.models import build
from big_contrastive.objectives import _bank
from big_contrastive.parallel import sharding
from big_contrastive.training import step

# The bank has rows for 53 records in 72: some devices have none but padding.
BATCH, RECORDS, WIDTH, DRAWS, T = 24, 53, 16, 7, 0.1
KINDS = {
  "all": {"negatives": None, "loss": "softmax"},
  "drawn": {"negatives": DRAWS, "loss": "softmax"},
  "nce": {"negatives": DRAWS, "loss": "nce"},
}
EPS = 1e-7


def records(seed):
  """Of a batch: one of them three times, on far places, two twice."""
  r = np.random.default_rng(seed)
  found = r.permutation(RECORDS)[:BATCH]
  found[[3, 11, 20]] = found[3]
  found[[7, 8]], found[23] = found[7], found[0]
  return found.astype(np.int32)


def bank(mesh, kind, **fields):
  setting = objectives.Setting(None, mesh, BATCH, records=RECORDS)
  fields = {"temperature": T, "momentum": 0.5, "tile": None} | KINDS[kind]
  return _bank.build(setting, **fields)


@functools.cache
def compiled(mesh, kind):
  """(z, record, state, rng) -> loss, its gradient, the new state, the draws."""
  made = bank(mesh, kind)

  def run(z, record, state, rng):
    draws = made.draws(rng, BATCH)

    def loss(z):
      return made.compared(z, record, state, draws)

    (value, new), dz = jax.value_and_grad(loss, has_aux=True)(z)
    return value, dz, made.updated(z, record, new), draws

  return jax.jit(run)


def inputs(mesh, kind, seed=0):
  z = jax.random.normal(jax.random.key(seed), (BATCH, WIDTH))
  z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
  state = bank(mesh, kind).init(WIDTH, jax.random.key(7))
  return z, records(seed), state, jax.random.key(seed)


def by_hand(kind, z, record, rows, log_z, draws):
  """The loss, its gradient and log Z, image by image, in float64."""
  loss, dz, seen = 0.0, np.zeros_like(z), []
  for i, own in enumerate(record):
    others = [j for j in range(RECORDS) if j != own]
    others = others if draws is None else draws[i]
    seen.append(rows[[own, *others]])
  e = [np.exp(seen[i] @ z[i] / T) for i in range(BATCH)]
  if kind == "nce" and log_z == 0:
    log_z = np.log(np.mean(e) * RECORDS)
  for i in range(BATCH):
    if kind == "nce":
      rate, p = DRAWS / RECORDS, e[i] / np.exp(log_z)
      c = rate + EPS
      loss -= np.log(p[0] / (p[0] + c)) + np.log(rate / (p[1:] + c)).sum()
      d = p / (p + c)
      d[0] = -c / (p[0] + c)
    else:
      d = e[i] / e[i].sum()
      loss -= np.log(d[0])
      d[0] -= 1
    dz[i] = d @ seen[i] / T
  return loss / BATCH, dz / BATCH, log_z


def moved(rows, z, record):
  """The bank after the batch, one image after the other: the last one stays."""
  new = rows.copy()
  for i, own in enumerate(record):
    row = 0.5 * rows[own] + 0.5 * z[i]
    new[own] = row / np.linalg.norm(row)
  return new


@pytest.mark.parametrize(
  ("kind", "devices"),
  [("all", 1), ("all", 2), ("all", 8), ("drawn", 8), ("nce", 1), ("nce", 8)],
)
def test_two_steps_against_the_bank_are_those_by_hand(kind, devices, mesh):
  mesh = mesh(devices // 2, 2) if devices > 1 else mesh(1)
  z, record, state, rng = inputs(mesh, kind)
  assert state["rows"].shape == (72, WIDTH)
  log_z = 0.0
  for seed in range(2):
    z, record, _, rng = inputs(mesh, kind, seed)
    value, dz, new, draws = compiled(mesh, kind)(z, record, state, rng)
    exact = [np.asarray(x, np.float64) for x in (z, state["rows"])]
    drawn = None if draws is None else np.asarray(draws)
    loss, d, log_z = by_hand(kind, exact[0], record, exact[1], log_z, drawn)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    np.testing.assert_allclose(dz, d, rtol=1e-4, atol=1e-6)
    # Rows of no image of the batch keep their bits, padding too.
    want, rows = moved(exact[1], exact[0], record), np.asarray(new["rows"])
    np.testing.assert_allclose(rows, want, rtol=1e-6, atol=1e-7)
    still = np.setdiff1d(np.arange(72), record)
    np.testing.assert_array_equal(rows[still], state["rows"][still])
    if kind == "nce":  # Z is that of the first step in the second, too.
      np.testing.assert_allclose(new["log_z"], log_z, rtol=1e-6)
    state = new


def test_draws_are_the_same_on_any_devices_and_uniform(mesh):
  made = {n: bank(mesh(n), "nce") for n in (1, 8)}
  one, eight = (b.draws(jax.random.key(3), BATCH) for b in made.values())
  np.testing.assert_array_equal(one, eight)
  assert one.shape == (BATCH, DRAWS) and one.dtype == jnp.int32
  many = bank(mesh(1), "nce")
  many = dataclasses.replace(many, negatives=2000)
  counts = np.bincount(many.draws(jax.random.key(0), BATCH).ravel())
  expected = BATCH * 2000 / RECORDS
  assert len(counts) == RECORDS
  # Chi squared of 52 degrees of freedom: mean 52, deviation 10.
  assert np.square(counts - expected).sum() / expected < 52 + 5 * 10


def test_a_bank_begins_uniform_with_norm_one_on_average(mesh):
  rows = np.asarray(bank(mesh(1), "all").init(128, jax.random.key(0))["rows"])
  bound = np.sqrt(3 / 128)
  assert np.abs(rows).max() <= bound and np.abs(rows).max() > 0.99 * bound
  np.testing.assert_allclose(np.square(rows).sum(1).mean(), 1, rtol=0.02)


def test_guessing_costs_what_chance_says(mesh):
  """Of an embedding at a right angle to all rows."""
  for kind in KINDS:
    made = bank(mesh(1), kind)
    _, record, state, rng = inputs(mesh(1), kind)
    z = jnp.zeros((BATCH, WIDTH))
    value = compiled(mesh(1), kind)(z, record, state, rng)[0]
    np.testing.assert_allclose(value, made.chance, rtol=1e-5)


@pytest.mark.parametrize(
  ("kind", "draws", "most"), [("all", None, 8), ("nce", 512, 96)]
)
def test_a_large_bank_is_neither_gathered_nor_multiplied_at_once(
  kind, draws, most, mesh
):
  """2^20 rows: a device's part is 64 MiB, its logits would be 512 MiB.

  With draws, XLA copies that part: the backward pass reads it again.
  """
  size, mesh = 1024, mesh(8)
  made = bank(mesh, kind)
  setting = objectives.Setting(None, mesh, size, records=2**20 - 3)
  made = dataclasses.replace(made, setting=setting, negatives=draws)

  def run(z, record, state, rng):
    drawn = made.draws(rng, size)
    loss = functools.partial(
      made.compared, record=record, state=state, draws=drawn
    )
    (value, new), dz = jax.value_and_grad(loss, has_aux=True)(z)
    return value, dz, made.updated(z, record, new)

  state = jax.eval_shape(lambda key: made.init(128, key), jax.random.key(0))
  on_ring = sharding.batch(mesh)
  parts = NamedSharding(mesh, PartitionSpec(sharding.BATCH, None))
  same = sharding.replicated(mesh)
  shardings = {k: parts if k == "rows" else same for k in state}
  arguments = (
    jax.ShapeDtypeStruct((size, 128), jnp.float32, sharding=on_ring),
    jax.ShapeDtypeStruct((size,), jnp.int32, sharding=on_ring),
    jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state, shardings,
    ),
    jax.eval_shape(jax.random.key, 0),
  )  # fmt: skip
  out = (same, on_ring, shardings)
  jitted = jax.jit(run, donate_argnums=2, out_shardings=out)
  plan = jitted.lower(*arguments).compile().memory_analysis()
  assert plan.temp_size_in_bytes <= most * 2**20
  assert plan.alias_size_in_bytes >= 64 * 2**20


# --- Whole steps. ---

HEADS = {"projector": {"name": "mlp", "depth": 1, "out_dim": WIDTH}}
TOWER = {"tower": dense.TOWER, "res": 16, "width": 16}
COLORS = {
  "tower": "two_colors", "res": 16,
  "each": {"tower": dense.TOWER, "width": WIDTH},
}  # fmt: skip
# By case: the objective, the tower, the heads.
CASES = {
  "instdisc": ({"name": "instdisc", "temperature": T}, TOWER, HEADS),
  "cmc": ({"name": "cmc", "temperature": T}, COLORS, {}),
  "cmc, banks": (
    {"name": "cmc", "temperature": T, "bank": True} | KINDS["nce"], COLORS, {},
  ),
}  # fmt: skip


def make(case, devices, micro_batch=None, **fields):
  objective, image, heads = CASES[case]
  objective = dict(objective) | fields
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  model = build.build_model({"image": image, "heads": heads})
  setting = objectives.Setting(
    model, mesh, BATCH, micro_batch, 10, {"view": 1}, records=RECORDS
  )
  name = objective.pop("name")
  method = registry.module("objectives", name, "").build(setting, **objective)
  names = frozenset(rules.flatten(model.shapes))
  recipe = step.Step(
    method.freeze(frozenset()), optax.sgd(0.1), lambda s: 0.1, names, 0
  )
  return tiny.place(recipe, mesh)


def batches(steps):
  r = np.random.default_rng(0)
  for i in range(steps):
    image = r.integers(0, 256, (BATCH, 1, 16, 16, 3)).astype("u1")
    yield {"view": image, "record": records(i)}


@functools.cache
def trained(case, devices):
  placed = make(case, devices)
  state, losses = dense.first_state(placed), []
  for local in batches(3):
    batch = sharding.to_global(local, BATCH, placed.mesh)
    state, metrics = placed.update(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state)


def tower(p, x):
  """That of normed_tower.py, for any channels."""
  x = x / 127.5 - 1 if x.dtype == np.uint8 else x
  x = x.reshape(len(x), 2, 8, 2, 8, -1).mean((2, 4)).reshape(len(x), -1)
  x, seen = dense.normed(x @ p["fc1"]["kernel"], p["norm"])
  return jnp.maximum(x, 0) @ p["fc2"]["kernel"] + p["fc2"]["bias"][None], seen


def against(kind, z, record, state, draws):
  """The loss of JAX arrays in float64, and log Z."""
  rows = state["rows"]
  own = (z * rows[record]).sum(1)[:, None]
  if kind == "all":
    others = z @ rows[:RECORDS].T
    others = jnp.where(
      record[:, None] == jnp.arange(RECORDS)[None], -jnp.inf, others
    )
  else:
    others = jnp.einsum("id,ikd->ik", z, rows[draws])
  logits = jnp.concatenate([own, others], 1) / T
  if kind == "all":
    return dense.cross_entropy(logits, jnp.zeros(len(z), int)), state
  log_z = state["log_z"]
  first = jnp.log(jnp.exp(logits).mean() * RECORDS)
  log_z = jnp.where(log_z == 0, jax.lax.stop_gradient(first), log_z)
  p, rate = jnp.exp(logits - log_z), DRAWS / RECORDS
  c = rate + EPS
  terms = jnp.log(p[:, 0] / (p[:, 0] + c)) + jnp.log(rate / (p[:, 1:] + c)).sum(
    1
  )
  return -terms.mean(), state | {"log_z": log_z}


def formula(case, placed, draws_of):
  """Losses, parameters and extra after three steps, in float64."""
  state = jax.device_get(dense.first_state(placed))
  with jax.enable_x64(True):
    p, extra = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), (state.params, state.extra)
    )
    losses = []
    for t, batch in enumerate(batches(3)):
      image, record = batch["view"][:, 0], batch["record"]
      draws, old = draws_of(t), extra

      def loss_of(p, image=image, record=record, draws=draws, old=old):
        if case == "instdisc":
          h, seen = tower(p["img"], image)
          z = dense.unit(dense.head(p["projector"], h))
          loss, new = against("all", z, record, old["bank"], None)
          norm = {"img": {"norm": seen}}
          return loss, ({"z": z}, {"": new}, norm)
        space = color_formulas.normalized(image, "lab")
        norm, sides = {"img": {}}, {}
        for side, x in (("light", space[..., :1]), ("color", space[..., 1:])):
          h, seen = tower(p["img"][side], x)
          norm["img"][side], sides[side] = {"norm": seen}, dense.unit(h)
        z, w = sides["light"], sides["color"]
        if case == "cmc":
          i = jnp.arange(BATCH)
          loss = dense.cross_entropy(z @ w.T / T, i)
          return loss + dense.cross_entropy(w @ z.T / T, i), (sides, {}, norm)
        one, color = against("nce", z, record, old["bank"]["color"], draws)
        two, light = against("nce", w, record, old["bank"]["light"], draws)
        return one + two, (sides, {"color": color, "light": light}, norm)

      (loss, (z, banks, seen)), grads = jax.value_and_grad(
        loss_of, has_aux=True
      )(p)
      p = jax.tree.map(lambda x, g: x - 0.1 * g, p, grads)
      extra = {"statistics": running(old["statistics"], seen)}
      for side, new in banks.items():
        rows = moved(np.array(new["rows"]), np.array(z[side or "z"]), record)
        new = new | {"rows": rows}
        if side:
          extra.setdefault("bank", {})[side] = new
        else:
          extra["bank"] = new
      losses.append(float(loss))
    return losses, jax.device_get((p, extra))


def running(old, seen):
  if "norm" in seen:
    made = dense.running({"img": old}, seen["norm"])
    return {"norm": made["img"]["norm"]}
  return {k: running(old[k], seen[k]) for k in seen}


@pytest.mark.parametrize("case", CASES)
def test_three_steps_are_those_of_the_formula(case):
  placed = make(case, 1)
  made = bank(placed.mesh, "nce")
  step_key = functools.partial(jax.random.fold_in, jax.random.key(0))

  def draws_of(t):
    with jax.enable_x64(False):
      return np.asarray(made.draws(step_key(t), BATCH))

  expected, (params, extra) = formula(case, placed, draws_of)
  for devices in (1, 8) if case == "instdisc" else (8,):
    losses, state = trained(case, devices)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    chex.assert_trees_all_close(state.params, params, rtol=2e-4, atol=2e-5)
    chex.assert_trees_all_close(state.extra, extra, rtol=2e-4, atol=2e-5)


@pytest.mark.peers
def test_the_loss_and_the_bank_are_torchs(mesh):
  torch = peers.torch()
  z, record, state, rng = inputs(mesh(1), "all")
  record = np.arange(BATCH, dtype=np.int32)  # index_copy_ defines no more.
  value, dz, new, _ = compiled(mesh(2), "all")(z, record, state, rng)
  rows = torch.tensor(np.array(state["rows"])[:RECORDS], dtype=torch.float64)
  leaf = torch.tensor(np.array(z), dtype=torch.float64, requires_grad=True)
  target = torch.tensor(record, dtype=torch.int64)
  loss = torch.nn.functional.cross_entropy(leaf @ rows.T / T, target)
  loss.backward()
  np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
  np.testing.assert_allclose(dz, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)
  with torch.no_grad():
    row = torch.nn.functional.normalize(0.5 * rows[target] + 0.5 * leaf)
    rows.index_copy_(0, target, row)
  np.testing.assert_allclose(new["rows"][:RECORDS], rows.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
  ("case", "fields", "said"),
  [
    ("instdisc", {"loss": "nce"}, "negatives is missing.*nce"),
    ("instdisc", {"negatives": 0}, "negatives = 0"),
    ("instdisc", {"momentum": 1.0}, "momentum = 1.0"),
    ("instdisc", {"temperature": 0.0}, "temperature = 0.0"),
    ("instdisc", {"tile": 0}, "tile = 0"),
    ("cmc", {"negatives": 4}, "bank = False; expected True"),
    ("cmc, banks", {"negatives": None}, "negatives is missing"),
  ],
)
def test_a_wrong_field_is_one_line(case, fields, said):
  with pytest.raises(errors.UserError, match=said):
    make(case, 1, **fields)


def test_one_view_records_and_a_tower_of_two_are_needed(mesh):
  model = build.build_model({"image": TOWER, "heads": HEADS})
  cases = (
    ("instdisc", {"a": 2}, RECORDS, "config.views.*one view"),
    ("instdisc", {}, RECORDS, "config.views is missing"),
    ("instdisc", {"a": 1}, 0, "records of config.source = 0"),
    ("instdisc", {"a": 1}, 2**31, "records of config.source"),
    ("cmc", {"a": 1}, RECORDS, "image.tower = 'Normed'.*two_colors"),
  )
  for name, views, count, said in cases:
    setting = objectives.Setting(
      model, mesh(1), BATCH, None, 1, views, records=count
    )
    with pytest.raises(errors.UserError, match=said):
      registry.module("objectives", name, "").build(setting)
