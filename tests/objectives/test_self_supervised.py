"""SimCLR, MoCo, BYOL, SimSiam, SwAV and DINO against float64 formulas.

Step by step. They are written here from the papers, over dense matrices, with a
forward pass, an optimizer and an order of updates of their own.
"""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from big_contrastive import objectives
from big_contrastive.config import errors, registry, rules
from big_contrastive.models import build
from big_contrastive.objectives import _teacher
from big_contrastive.objectives import simclr as simclr_file
from big_contrastive.parallel import sharding
from big_contrastive.training import step

TOWER = str(pathlib.Path(__file__).parents[1] / "normed_tower.py")
BATCH, TOTAL, LR = 24, 10, 0.1
SIMCLR_HEAD = {
  "name": "mlp", "out_dim": 16, "norm": True, "hidden_bias": False,
  "bias": False, "last_norm": "scale",
}  # fmt: skip
SIMSIAM_HEAD = SIMCLR_HEAD | {"last_norm": "plain"}
PREDICTOR = {
  "name": "mlp", "on": "projector", "hidden": 24, "out_dim": 16,
  "norm": True, "hidden_bias": False,
}  # fmt: skip
# By case: the objective and its fields, the heads, the tower's group.
CASES = {
  "simclr": (
    {"name": "simclr", "temperature": 0.2}, {"projector": SIMCLR_HEAD}, None
  ),
  "simclr in groups": (
    {"name": "simclr", "temperature": 0.5},
    {"projector": SIMCLR_HEAD | {"depth": 3}}, 3,
  ),
  "moco v1": (
    {"name": "moco", "queue": 72, "temperature": 0.07, "momentum": 0.9},
    {"projector": {"name": "mlp", "depth": 1, "out_dim": 16}}, 3,
  ),
  "moco v2": (
    {"name": "moco", "queue": 48, "momentum": 0.8},
    {"projector": {"name": "mlp", "out_dim": 16}}, None,
  ),
  "moco, symmetric": (
    {"name": "moco", "queue": 96, "momentum": 0.8, "symmetric": True},
    {"projector": {"name": "mlp", "out_dim": 16}}, 3,
  ),
  "moco v3": (
    {"name": "moco_v3", "momentum": 0.8, "temperature": 0.2},
    {"projector": SIMSIAM_HEAD,
     "predictor": PREDICTOR | {"last_norm": "plain", "bias": False}}, None,
  ),
  "byol": (
    {"name": "byol", "momentum": 0.8},
    {"projector": {"name": "mlp", "out_dim": 16, "norm": True, "bias": False},
     "predictor": PREDICTOR | {"hidden_bias": True, "bias": False}}, None,
  ),
  "byol, copy": (
    {"name": "byol", "momentum": 0.8, "teacher": "copy",
     "schedule": "constant"},
    {"projector": {"name": "mlp", "out_dim": 16, "norm": True, "bias": False},
     "predictor": PREDICTOR | {"hidden_bias": True, "bias": False}}, None,
  ),
  "simsiam": (
    {"name": "simsiam"},
    {"projector": SIMSIAM_HEAD | {"depth": 3}, "predictor": PREDICTOR}, None,
  ),
  "swav": (
    {"name": "swav", "queue": 24, "queue_start": 0},
    {"projector": {"name": "mlp", "out_dim": 16, "norm": True},
     "prototypes": {"name": "prototypes", "on": "projector", "count": 12}}, 3,
  ),
  "dino": (
    {"name": "dino", "momentum": 0.8, "final_teacher_temperature": 0.07,
     "temperature_warmup": 4},
    {"projector": {"name": "dino", "out_dim": 24, "hidden": 16,
                   "bottleneck": 8, "norm": True, "gain": True}}, 3,
  ),
}  # fmt: skip
LOCAL = {
  "swav": 3,
  "dino": 3,
}  # Of these methods: local crops, of half the side.
METHODS = {case[0]["name"] for case in CASES.values()}


def make(
  case, devices=1, micro_batch=None, fsdp=1, freeze=("nothing",),
  skip_nonfinite=False, **fields,
):  # fmt: skip
  """The placed step of a case, with plain SGD."""
  objective, heads, group = CASES[case]
  objective = dict(objective) | fields
  mesh = sharding.make_mesh(devices=jax.devices()[:devices], fsdp=fsdp)
  image = {"tower": TOWER, "res": 16, "width": 16, "norm_group": group}
  model = build.build_model({"image": image, "heads": heads})
  name = objective.pop("name")
  views = {"first": 1, "second": 1}
  views |= {"local": LOCAL[name]} if name in LOCAL else {}
  setting = objectives.Setting(model, mesh, BATCH, micro_batch, TOTAL, views)
  method = registry.module("objectives", name, "").build(setting, **objective)
  names = frozenset(rules.flatten(model.shapes))
  frozen = frozenset(k for k in names if k.startswith(freeze))
  recipe = step.Step(
    method.freeze(frozen),
    optax.sgd(LR),
    lambda s: LR,
    names - frozen,
    0,
    skip_nonfinite,
  )
  return tiny.place(recipe, mesh)


def batches(steps, local=0):
  """Views, uint8 [B, 1, 16, 16, 3]: the second is the first with noise.

  Also local ones, of the corners of the first: [B, local, 8, 8, 3].
  """
  r = np.random.default_rng(0)
  made = []
  for _ in range(steps):
    first = r.integers(0, 256, (BATCH, 1, 16, 16, 3))
    second = np.clip(first + r.integers(-30, 31, first.shape), 0, 255)
    made.append({"first": first.astype("u1"), "second": second.astype("u1")})
    if local:
      corners = (
        first[:, 0, y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8)
      )
      made[-1]["local"] = np.stack([*corners][:local], axis=1).astype("u1")
  return made


def first_state(placed):
  """The initial state, in which nothing is 0 or 1 by rule."""
  state, r = placed.init(), np.random.default_rng(1)

  def shake(x):
    return x + (0.1 * r.standard_normal(x.shape)).astype(x.dtype)

  params = jax.tree.map(lambda x: shake(np.asarray(x)), state.params)
  params = jax.device_put(
    params, jax.tree.map(lambda x: x.sharding, state.params)
  )
  return state._replace(params=params, extra=placed.init_extra(params))


def trained(placed, steps=3, local=0):
  """The losses and the state after some steps, on the host."""
  state, losses = first_state(placed), []
  for rows in batches(steps, local):
    batch = sharding.to_global(rows, BATCH, placed.mesh)
    state, metrics = placed.update(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state)


@functools.cache
def alone(case):
  """Two steps on one device."""
  return trained(make(case), 2, LOCAL.get(case, 0))


# --- The formulas, float64. ---


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def normed(x, p, group=None):
  """Batch norm of groups of rows; also the mean of their means, variances."""
  parts = x.reshape(-1, group or len(x), x.shape[-1])
  mean, var = parts.mean(1, keepdims=True), parts.var(1, keepdims=True)
  y = ((parts - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
  if "scale" in p:
    y = y * p["scale"][None]
  if "bias" in p:
    y = y + p["bias"][None]
  count = parts.shape[1]
  return y, (mean.mean((0, 1)), var.mean((0, 1)) * count / (count - 1))


def tower(p, image, group):
  side = image.shape[1] // 2
  x = image.reshape(len(image), 2, side, 2, side, 3) / 127.5 - 1
  x = x.mean((2, 4)).reshape(len(image), -1)
  x, seen = normed(x @ p["fc1"]["kernel"], p["norm"], group)
  x = jnp.maximum(x, 0) @ p["fc2"]["kernel"] + p["fc2"]["bias"][None]
  return x, seen


def head(p, x):
  layers = sorted(k for k in p if k.startswith("fc"))
  for i, layer in enumerate(layers, 1):
    x = x @ p[layer]["kernel"]
    if "bias" in p[layer]:
      x = x + p[layer]["bias"][None]
    if i < len(layers):
      x = normed(x, p[f"norm{i}"])[0] if f"norm{i}" in p else x
      x = jnp.maximum(x, 0)
  # Flax leaves out a norm without parameters.
  return x


def projector(case, p, x):
  """The heads end in the norm that the case says."""
  return _ended(CASES[case][1]["projector"], p["projector"], x)


def predictor(case, p, x):
  return _ended(CASES[case][1]["predictor"], p["predictor"], x)


def _ended(section, p, x):
  y = head(p, x)
  if section.get("last_norm"):
    y = normed(y, p.get("last_norm", {}))[0]
  return y


def cross_entropy(logits, target):
  picked = jnp.take_along_axis(logits, target[:, None], 1)[:, 0]
  return (jax.nn.logsumexp(logits, axis=1) - picked).mean()


def running(statistics, seen):
  mean, var = seen
  old = statistics["img"]["norm"]
  new = {
    "mean": 0.9 * old["mean"] + 0.1 * mean,
    "var": 0.9 * old["var"] + 0.1 * var,
  }
  return {"img": {"norm": new}}


def simclr(case, p, extra, x1, x2, rng):
  group, scale = CASES[case][2], 1 / CASES[case][0]["temperature"]
  both = jnp.stack([x1, x2], 1).reshape(-1, *x1.shape[1:])
  h, seen = tower(p["img"], both, group)
  z = unit(projector(case, p, h))
  i = jnp.arange(2 * BATCH)
  logits = jnp.where(jnp.eye(2 * BATCH, dtype=bool), -jnp.inf, scale * z @ z.T)
  loss = 2 * cross_entropy(logits, i ^ 1)
  return loss, extra | {"statistics": running(extra["statistics"], seen)}


def moco(case, p, extra, x1, x2, rng):
  objective, _, group = CASES[case]
  scale = 1 / objective.get("temperature", 0.2)
  teacher = extra["teacher"]
  queue = extra["queue"].reshape(-1, 16)
  loss, keys, statistics = 0, [], extra["statistics"]
  pairs = [(x1, x2), (x2, x1)] if objective.get("symmetric") else [(x1, x2)]
  for i, (a, b) in enumerate(pairs):
    h, seen = tower(p["img"], a, group)
    statistics = running(statistics, seen)
    q = unit(projector(case, p, h))
    places = jnp.arange(BATCH)
    if group:
      shuffle = jax.random.fold_in(jax.random.fold_in(rng, i), 2**31 - 1)
      with jax.enable_x64(False):  # It would draw others.
        places = jax.random.permutation(shuffle, BATCH)
    h, _ = tower(teacher["img"], b[places], group)
    k = unit(projector(case, teacher, h))[jnp.argsort(places)]
    logits = scale * jnp.concatenate([(q * k).sum(1)[:, None], q @ queue.T], 1)
    loss += cross_entropy(logits, jnp.zeros(BATCH, int))
    keys.append(k)
  # The oldest keys make place: the queue as the papers' pointer leaves it.
  at = int(extra["at"]) * BATCH
  keys = jnp.concatenate(keys)
  queue = queue.at[at : at + len(keys)].set(keys)
  new = {"queue": queue.reshape(extra["queue"].shape)}
  new["at"] = (at + len(keys)) % len(queue) // BATCH
  return loss, extra | new | {"statistics": statistics}


def moco_v3(case, p, extra, x1, x2, rng):
  temperature = CASES[case][0]["temperature"]
  statistics, q, k = extra["statistics"], [], []
  for x in (x1, x2):
    h, seen = tower(p["img"], x, None)
    statistics = running(statistics, seen)
    q.append(unit(predictor(case, p, projector(case, p, h))))
    h, _ = tower(extra["teacher"]["img"], x, None)
    k.append(unit(projector(case, extra["teacher"], h)))
  diagonal = jnp.arange(BATCH)
  loss = cross_entropy(q[0] @ k[1].T / temperature, diagonal)
  loss += cross_entropy(q[1] @ k[0].T / temperature, diagonal)
  return 2 * temperature * loss, extra | {"statistics": statistics}


def byol(case, p, extra, x1, x2, rng):
  statistics, q, k = extra["statistics"], [], []
  for x in (x1, x2):
    h, seen = tower(p["img"], x, None)
    statistics = running(statistics, seen)
    q.append(unit(predictor(case, p, projector(case, p, h))))
    h, _ = tower(extra["teacher"]["img"], x, None)
    k.append(unit(projector(case, extra["teacher"], h)))
  loss = jnp.square(q[0] - k[1]).sum(1) + jnp.square(q[1] - k[0]).sum(1)
  return loss.mean(), extra | {"statistics": statistics}


def simsiam(case, p, extra, x1, x2, rng):
  statistics, z, q = extra["statistics"], [], []
  for x in (x1, x2):
    h, seen = tower(p["img"], x, None)
    statistics = running(statistics, seen)
    z.append(projector(case, p, h))
    q.append(predictor(case, p, z[-1]))
  z = jax.lax.stop_gradient(z)
  cosines = (unit(q[0]) * unit(z[1])).sum(1), (unit(q[1]) * unit(z[0])).sum(1)
  return -(cosines[0] + cosines[1]).mean() / 2, extra | {
    "statistics": statistics
  }


def swav(case, p, extra, *views_and_rng):
  *views, rng = views_and_rng
  objective, _, group = CASES[case]
  statistics, features = extra["statistics"], []
  for crops in (views[:2], views[2:]):
    rows = jnp.stack(crops, 1).reshape(-1, *crops[0].shape[1:])
    h, seen = tower(p["img"], rows, group)
    statistics = running(statistics, seen)
    features.append(h.reshape(BATCH, len(crops), -1))
  h = jnp.concatenate(features, 1)
  z = unit(projector(case, p, h.reshape(-1, h.shape[-1])))
  kernel = p["prototypes"]["kernel"]
  z = z.reshape(BATCH, len(views), -1)
  loss = 0
  for i in range(2):
    rows, queue = jax.lax.stop_gradient(z[:, i]), extra["queue"][i]
    if jnp.any(queue[-1] != 0):
      rows = jnp.concatenate([queue.reshape(-1, rows.shape[-1]), rows])
    code = jnp.exp(rows @ jax.lax.stop_gradient(kernel) / 0.05)
    for _ in range(3):
      code = code / code.sum(0, keepdims=True)
      code = code / code.sum(1, keepdims=True)
    for v in range(len(views)):
      if v != i:
        q = jax.nn.softmax(z[:, v] @ kernel / 0.1)
        entropy = -(code[-BATCH:] * jnp.log(q)).sum(1).mean()
        loss += entropy / 2 / (len(views) - 1)
  new = jnp.swapaxes(z[:, :2], 0, 1)[:, None]
  queue = jnp.concatenate([new, extra["queue"][:, :-1]], 1)
  return loss, extra | {"queue": queue, "statistics": statistics}


def dino(case, p, extra, *views_and_rng, t):
  *views, rng = views_and_rng
  group, teacher = CASES[case][2], extra["teacher"]
  logits = []
  for of, rows in ((p, (views[:2], views[2:])), (teacher, (views[:2],))):
    features = []
    for crops in rows:
      rows = jnp.stack(crops, 1).reshape(-1, *crops[0].shape[1:])
      h, seen = tower(of["img"], rows, group)
      features.append(h.reshape(BATCH, len(crops), -1))
    x = jnp.concatenate(features, 1)
    mlp, count = of["projector"]["mlp"], x.shape[1]
    x = x.reshape(-1, x.shape[-1])
    for i in (1, 2):
      x = x @ mlp[f"fc{i}"]["kernel"] + mlp[f"fc{i}"]["bias"][None]
      x, _ = normed(x, mlp[f"norm{i}"])
      x = x * (1 + jax.scipy.special.erf(x / np.sqrt(2))) / 2
    x = unit(x @ mlp["fc3"]["kernel"] + mlp["fc3"]["bias"][None])
    last = unit(of["projector"]["last"]["kernel"].T).T
    last = of["projector"]["gain"][None] * last
    logits.append((x @ last).reshape(BATCH, count, -1))
  student, of_teacher = logits
  temperature = np.linspace(0.04, 0.07, 4)[t]
  loss = 0
  for i in range(2):
    q = (of_teacher[:, i] - extra["center"][None]) / temperature
    q = jax.lax.stop_gradient(jax.nn.softmax(q))
    for v in range(len(views)):
      if v != i:
        log_p = jax.nn.log_softmax(student[:, v] / 0.1)
        loss -= (q * log_p).sum(1).mean() / 2 / (len(views) - 1)
  center = 0.9 * extra["center"] + 0.1 * of_teacher.mean((0, 1))
  # The teacher's, of its two views.
  statistics = running(extra["statistics"], seen)
  new = {"center": center, "statistics": statistics}
  return loss, extra | new


def momentum(case, t):
  """m(t) of the papers, float64."""
  objective = CASES[case][0]
  m = objective["momentum"]
  if objective["name"] == "moco" or objective.get("schedule") == "constant":
    return m
  return 1 - (1 - m) * (1 + np.cos(np.pi * t / TOTAL)) / 2


def follow(case, teacher, params, t):
  m = momentum(case, t)
  part = {k: params[k] for k in teacher}
  return jax.tree.map(lambda a, b: m * a + (1 - m) * b, teacher, part)


def formula(case, placed, steps=3):
  """Losses, parameters and extra after some steps, in the papers' order."""
  name = CASES[case][0]["name"]
  state = jax.device_get(first_state(placed))
  with jax.enable_x64(True):
    p, extra = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64 if x.dtype == np.float32 else None),
      (state.params, state.extra),
    )
    losses = []
    for t, batch in enumerate(batches(steps, LOCAL.get(name, 0))):
      views = [
        view[:, i].astype(np.float64)
        for view in batch.values()
        for i in range(view.shape[1])
      ]
      # MoCo averages its teacher before the keys, BYOL after the update.
      if name in ("moco", "moco_v3"):
        before = follow(case, extra["teacher"], p, t)
        extra = extra | {"teacher": before}
      rng = jax.random.fold_in(jax.random.key(0), t)
      more = {"t": t} if name == "dino" else {}
      loss_of = functools.partial(globals()[name], case, **more)
      (loss, extra), grads = jax.value_and_grad(loss_of, has_aux=True)(
        p, extra, *views, rng
      )
      p = jax.tree.map(lambda x, g: x - LR * g, p, grads)
      if name == "swav":
        kernel = unit(p["prototypes"]["kernel"].T).T
        p = p | {"prototypes": {"kernel": kernel}}
      if name in ("byol", "dino"):
        extra = extra | {"teacher": follow(case, extra["teacher"], p, t)}
      losses.append(float(loss))
    if name in ("moco", "moco_v3"):  # As before the next step's keys.
      extra = extra | {"teacher": follow(case, extra["teacher"], p, steps)}
    return losses, jax.device_get((p, extra))


def test_every_method_over_views_has_a_formula():
  of_text = {"pairs", "catlip", "superclass", "captions", "coca", "blip"}
  # test_mae.py, test_cpc.py, test_bank.py, test_mixture.py.
  elsewhere = {"mae", "cpc", "instdisc", "cmc", "mixture"}
  others = of_text | elsewhere
  assert METHODS | others == set(registry.names("objectives"))


@pytest.mark.parametrize("case", CASES)
def test_three_steps_are_those_of_the_formula(case):
  placed = make(case)
  losses, state = trained(placed, local=LOCAL.get(case, 0))
  expected, (params, extra) = formula(case, placed)
  np.testing.assert_allclose(losses, expected, rtol=2e-5, atol=2e-5)
  chex.assert_trees_all_close(state.params, params, rtol=2e-4, atol=2e-5)
  chex.assert_trees_all_close(state.extra, extra, rtol=2e-4, atol=2e-5)
  # And the loss has something to say.
  assert np.ptp(losses) > 1e-3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
  "devices, fsdp",
  [pytest.param(2, 1, marks=pytest.mark.slow), (3, 1), (8, 4)],
)
def test_devices_change_nothing(case, devices, fsdp):
  expected, one = alone(case)
  placed = make(case, devices, fsdp=fsdp)
  losses, state = trained(placed, 2, LOCAL.get(case, 0))
  np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(state.params, one.params, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(state.extra, one.extra, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "case", ["simclr in groups", "moco v1", "swav", "dino"]
)
def test_micro_batches_of_whole_groups_change_nothing(case):
  placed = make(case, 2, micro_batch=12)
  losses, state = trained(placed, 2, LOCAL.get(case, 0))
  expected, one = alone(case)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  chex.assert_trees_all_close(state.extra, one.extra, rtol=1e-4, atol=1e-5)


def test_micro_batches_that_cut_a_group_are_refused():
  for case, micro_batch in (("simsiam", 12), ("moco v1", 4)):
    with pytest.raises(errors.UserError, match="norm_group"):
      make(case, 1, micro_batch)


@pytest.mark.parametrize("case", ["moco v1", "byol"])
def test_a_skipped_step_moves_nothing_of_extra(case):
  placed = make(case, skip_nonfinite=True)
  state = first_state(placed)
  # A weight whose product with anything is infinite.
  state.params["projector"]["fc1"]["kernel"] *= np.inf
  before = jax.device_get(state.extra)
  batch = sharding.to_global(batches(1)[0], BATCH, placed.mesh)
  state, metrics = placed.update(state, batch)
  assert not np.isfinite(metrics["loss"]) and int(state.step) == 1
  chex.assert_trees_all_equal(jax.device_get(state.extra), before)


def test_a_teacher_has_no_copy_of_what_is_frozen():
  placed = make("moco v3", freeze=("img/fc1",))
  state = first_state(placed)
  assert "fc1" not in state.extra["teacher"]["img"]
  kernel = np.array(state.params["img"]["fc1"]["kernel"])
  batch = sharding.to_global(batches(1)[0], BATCH, placed.mesh)
  state, _ = placed.update(state, batch)
  np.testing.assert_array_equal(state.params["img"]["fc1"]["kernel"], kernel)


@pytest.mark.parametrize(
  ("case", "fields", "said"),
  [
    ("moco v2", {"queue": 50}, "queue = 50; expected a multiple of .* 24"),
    ("moco, symmetric", {"queue": 72}, "two batches = 48.* nearest is 96"),
    ("simclr", {"temperature": 0.0}, "temperature = 0.0"),
    ("byol", {"momentum": 1.0}, "momentum = 1.0"),
    ("moco v3", {"tile": 0}, "tile = 0"),
  ],
)
def test_a_wrong_field_is_one_line(case, fields, said):
  with pytest.raises(errors.UserError, match=said):
    make(case, **fields)


def test_two_views_are_needed_and_no_text():
  model = build.build_model({
    "image": {"tower": TOWER, "res": 16},
    "heads": {"projector": {"name": "mlp", "out_dim": 4}},
  })  # fmt: skip
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  for views in ({}, {"a": 1}, {"a": 2, "b": 1}):
    setting = objectives.Setting(model, mesh, BATCH, None, 1, views)
    with pytest.raises(errors.UserError, match="config.views.*two views"):
      simclr_file.build(setting)
  setting = objectives.Setting(model, mesh, BATCH, None, 1, {"a": 2})
  with pytest.raises(errors.UserError, match="heads.predictor is missing"):
    registry.module("objectives", "byol", "").build(setting)


def test_the_momentum_rises_as_published():
  """m(t) = 1 - (1 - m) (1 + cos(pi t / N)) / 2 at official points."""
  total = 1000
  for first in (0, 1):
    rate = _teacher.rate(0.99, total, "cosine", first)
    for at in (0, 1, 99, 100, 500, total - 1):
      t = at + first
      m = 1 - (1 - 0.99) * (1 + np.cos(np.pi * t / total)) / 2
      np.testing.assert_allclose(1 - rate(at), m, atol=1e-7)
      np.testing.assert_allclose(rate(at), 1 - m, rtol=1e-4, atol=1e-12)
