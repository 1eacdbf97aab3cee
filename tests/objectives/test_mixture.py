"""A mixture is a weighted sum of objectives; what is off is not there."""

import dataclasses
import functools
import pathlib
import shutil
import types

import chex
import jax
import numpy as np
import optax
import pytest
import test_self_supervised as formulas

import tiny
from big_contrastive import objectives, plan
from big_contrastive.checkpoints import checkpointer
from big_contrastive.config import errors, registry, rules, schema
from big_contrastive.factory import experiment, reading
from big_contrastive.models import build
from big_contrastive.models.model import merge
from big_contrastive.objectives import _parts, _passes, _teacher, mixture
from big_contrastive.objectives._ema import averaged
from big_contrastive.parallel import sharding
from big_contrastive.training import loop, profile_input, step

TESTS = pathlib.Path(__file__).parents[1]
TOWER, BAG = (str(TESTS / f"{name}_tower.py") for name in ("normed", "bag"))
BATCH, TOTAL, START, LR = 24, 10, 2, 0.05
HEAD = {"name": "mlp", "out_dim": 8, "bias": False, "norm": True}
SECTIONS = {
  "image": {"tower": TOWER, "res": 16, "width": 16, "norm_group": 3},
  "text": {"tower": BAG, "out_dim": 16},
  "heads": {"projector": HEAD, "predictor": HEAD | {"on": "projector"}},
  "scale": 10.0,
}  # fmt: skip
CLIP = {"name": "pairs", "loss": "softmax", "weight": 2.0}
SIMCLR = {"name": "simclr", "weight": 0.5}
MOCO = {
  "name": "moco", "queue": 2 * BATCH, "momentum": 0.8, "weight": 0.5,
  "start": START,
}  # fmt: skip


def setting(devices=1, micro_batch=None, views=("first", "second"), fsdp=1):
  mesh = sharding.make_mesh(devices=jax.devices()[:devices], fsdp=fsdp)
  tokenizer = types.SimpleNamespace(
    length=6, vocab_size=32, pad_id=None, bos_id=None, eos_id=None
  )
  model = build.build_model(SECTIONS, tokenizer, sharding.pin(mesh))
  return objectives.Setting(
    model, mesh, BATCH, micro_batch, TOTAL, dict.fromkeys(views, 1),
    sizes=dict.fromkeys(views, (16, 16)), records=4 * BATCH,
  )  # fmt: skip


def make(parts, ema=None, **kwargs):
  """The placed step of a mixture, with plain SGD."""
  where = setting(**kwargs)
  method = mixture.build(where, parts=parts)
  method = method if ema is None else averaged(method, ema)
  names = frozenset(rules.flatten(where.model.shapes))
  recipe = step.Step(
    method.freeze(frozenset()), optax.sgd(LR), lambda s: LR, names, 0
  )
  return tiny.place(recipe, where.mesh)


def batch(number=0):
  r = np.random.default_rng(number)
  image = r.integers(0, 256, (BATCH, 16, 16, 3))
  noise = r.integers(-30, 31, (2, BATCH, 1, 16, 16, 3))
  first, second = np.clip(image[:, None] + noise, 0, 255).astype("u1")
  return {
    "image": image.astype("u1"), "first": first, "second": second,
    "text": r.integers(0, 32, (BATCH, 6)).astype("i4"),
    "id": np.arange(BATCH, dtype="i4"),
  }  # fmt: skip


def trained(placed, steps):
  """The losses, and the state after each step, on the host."""
  state, losses, states = placed.init(), [], []
  for i in range(steps):
    here = sharding.to_global(batch(i), BATCH, placed.mesh)
    state, metrics = placed.at(i)(state, here)
    losses.append(float(metrics["loss"]))
    states.append(jax.device_get(state))
  return losses, states


@functools.cache
def placed_alone():
  """CLIP, and MoCo from step 2 on, on one device."""
  return make({"clip": CLIP, "moco": MOCO})


@functools.cache
def alone():
  """Its losses, and its state after each of four steps."""
  return trained(placed_alone(), 4)


def test_it_is_the_weighted_sum_and_statistics_go_from_part_to_part():
  method = mixture.build(setting(), parts={"clip": CLIP, "ssl": SIMCLR})
  params = method.init(jax.random.key(1))
  extra = method.init_extra(params, jax.random.key(2))
  rng, data = jax.random.key(3), jax.tree.map(jax.numpy.asarray, batch())

  @jax.jit
  def whole_and_parts(params):
    parts, statistics = {}, extra["statistics"]
    for name, part in method.parts.items():
      loss, (_, own) = part.method(
        params, {"statistics": statistics}, part.given(data),
        mixture._folded(rng, name), 0,
      )  # fmt: skip
      parts[name], statistics = loss, own["statistics"]
    return method(params, extra, data, rng, 0), parts, statistics

  (loss, (metrics, new)), parts, statistics = whole_and_parts(params)
  expected = 2 * np.float64(parts["clip"]) + 0.5 * np.float64(parts["ssl"])
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  for name, value in parts.items():
    np.testing.assert_allclose(metrics[f"{name}/loss"], value, rtol=1e-6)
  chex.assert_trees_all_close(new["statistics"], statistics, rtol=1e-6)
  assert method.chance == pytest.approx(
    2 * np.log(BATCH) + 0.5 * 2 * np.log(2 * BATCH - 1)
  )


def test_slips_loss_is_that_of_its_authors_and_so_is_its_slope():
  """In float64, over dense matrices; each view is normalized alone."""
  parts = {"clip": CLIP | {"weight": 1.0}, "ssl": SIMCLR | {"joint": False}}
  method = mixture.build(setting(), parts=parts)
  params = method.init(jax.random.key(1))
  extra = method.init_extra(params, jax.random.key(2))
  data, r = jax.tree.map(jax.numpy.asarray, batch()), np.random.default_rng(0)
  moved = {k: params[k] for k in ("img", "projector", "t")}
  along = jax.tree.map(lambda x: r.normal(size=x.shape).astype("f4"), moved)

  @jax.jit
  def ours(moved):
    model = merge(method.setting.model.graph, params, extra["statistics"])
    found, grads = jax.value_and_grad(
      lambda moved: method(params | moved, extra, data, jax.random.key(3), 0)[0]
    )(moved)
    slope = optax.tree.vdot(grads, along)
    return (found, slope), model.embed_text(data["text"])

  (found, slope), ztxt = ours(moved)

  def theirs(p):
    unit, entropy = formulas.unit, formulas.cross_entropy
    tower = functools.partial(formulas.tower, p["img"], group=3)
    here = np.arange(BATCH)
    logits = np.exp(p["t"]) * unit(tower(data["image"])[0]) @ np.float64(ztxt).T
    clip = (entropy(logits, here) + entropy(logits.T, here)) / 2
    q = [
      unit(formulas.head(p["projector"], tower(data[name][:, 0])[0]))
      for name in ("first", "second")
    ]
    ssl, mask = 0.0, np.where(np.eye(BATCH, dtype=bool), np.inf, 0.0)
    for a, b in (q, q[::-1]):
      both = np.concatenate([a @ b.T / 0.1, a @ a.T / 0.1 - mask], axis=1)
      ssl += entropy(both, here) / 2
    return clip + 1.0 * ssl

  with jax.enable_x64(True):
    step = 1e-6
    low, middle, high = (
      float(theirs(
        jax.tree.map(
          lambda x, v, d=d: np.asarray(x, np.float64) + d * v, moved, along
        )
      ))
      for d in (-step, 0.0, step)
    )  # fmt: skip
  np.testing.assert_allclose(found, middle, rtol=1e-5)
  np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-3)


def test_before_its_start_a_part_changes_no_bit():
  losses, states = alone()
  expected, without = trained(make({"clip": CLIP}), 3)
  assert losses[:START] == expected[:START] and losses[START] != expected[START]
  for a, b in zip(states[:START], without[:START], strict=True):
    chex.assert_trees_all_equal(a.params, b.params)
    chex.assert_trees_all_equal(a.extra["statistics"], b.extra["statistics"])
  # And nothing changes its state.
  chex.assert_trees_all_equal(
    states[0].extra["moco"], states[START - 1].extra["moco"]
  )


def test_from_its_start_on_it_is_the_method_begun_with_these_weights():
  """A teacher that copies them, an empty counter, a clock from 0 on."""
  losses, states = alone()
  fresh = {"clip": CLIP, "moco": MOCO | {"start": 0}}
  placed, before = make(fresh), states[START - 1]
  part = mixture.build(setting(), parts=fresh).parts["moco"]
  rng = jax.random.fold_in(jax.random.key(0), START)
  key = jax.random.fold_in(mixture._folded(rng, "moco"), 2**32 - 1)
  begun = part.method.init_extra(before.params, key)
  begun.pop("statistics")
  chex.assert_trees_all_equal(
    jax.device_get(begun["teacher"]),
    {k: before.params[k] for k in ("img", "projector")},
  )
  extra = before.extra | {"moco": begun}
  del extra["begun"]  # It begins at once.
  state = before._replace(extra=extra)
  where = jax.tree.map(lambda x: x.sharding, placed.abstract)
  state = jax.device_put(state, where)
  for i in (START, START + 1):
    here = sharding.to_global(batch(i), BATCH, placed.mesh)
    state, metrics = placed.update(state, here)
    np.testing.assert_allclose(losses[i], metrics["loss"], rtol=1e-6)
    chex.assert_trees_all_close(
      states[i].extra["moco"], jax.device_get(state.extra["moco"]),
      rtol=1e-5, atol=1e-6,
    )  # fmt: skip
  assert states[-1].extra["moco"]["at"] == 0  # Two steps of a queue of two.


def test_a_first_step_that_is_skipped_leaves_the_beginning_to_the_next():
  """A step that is not finite changes nothing but the step number."""
  placed, (_, states) = placed_alone(), alone()
  before = states[START - 1]
  skipped = before._replace(step=before.step + 1)
  where = jax.tree.map(lambda x: x.sharding, placed.abstract)
  here = sharding.to_global(batch(START + 1), BATCH, placed.mesh)
  state, _ = placed.at(START + 1)(jax.device_put(skipped, where), here)
  after = jax.device_get(state)
  teacher = rules.flatten(after.extra["moco"]["teacher"])
  old, new = (rules.flatten(x.params) for x in (before, after))
  for name, value in teacher.items():
    expected = 0.8 * old[name] + 0.2 * new[name]
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
  assert after.extra["begun"]["moco"] and not before.extra["begun"]["moco"]


@pytest.mark.parametrize(
  "kwargs",
  [
    pytest.param(
      {"devices": 2, "micro_batch": 12},
      id="2 devices, in halves",
      marks=pytest.mark.slow,
    ),
    pytest.param({"devices": 8, "fsdp": 4}, id="8 devices"),
  ],
)
def test_devices_and_micro_batches_change_nothing(kwargs):
  """From the start of a part on: its teacher and its queue begin there."""
  losses, states = alone()
  placed = make({"clip": CLIP, "moco": MOCO}, **kwargs)
  where = jax.tree.map(lambda x: x.sharding, placed.abstract)
  state = jax.device_put(states[START - 1], where)
  for i in (START, START + 1):
    here = sharding.to_global(batch(i), BATCH, placed.mesh)
    state, metrics = placed.at(i)(state, here)
    np.testing.assert_allclose(metrics["loss"], losses[i], rtol=1e-5)
  chex.assert_trees_all_close(
    jax.device_get(state)._asdict(), states[-1]._asdict(), rtol=1e-4, atol=1e-5
  )


def test_a_part_that_is_off_is_no_part_of_the_program():
  """With a weight of 0, and before its start."""

  def program(at=0, **changes):
    method = mixture.build(
      setting(), parts={"clip": CLIP, "ssl": SIMCLR | changes}
    )
    params = jax.eval_shape(method.init, jax.random.key(0))
    extra = jax.eval_shape(method.init_extra, params, jax.random.key(0))
    return str(
      jax.make_jaxpr(method.at(at))(
        params, extra, batch(), jax.random.key(0), 0
      )
    )

  off = program(weight=0.0)
  assert off == program(start="50%") != program(at=5, start="50%")


def config(**changes):
  """SLIP, whose second part is a teacher's from step 2 of 4 on."""
  made = tiny.load("slip", "smoke")
  image = {"tower": TOWER, "res": 32, "norm_group": 2}
  made["model"] |= {"image": image, "text": {"tower": BAG, "out_dim": 32}}
  made["model"]["heads"] = {
    "projector": HEAD, "predictor": HEAD | {"on": "projector"}
  }  # fmt: skip
  made["objective"]["parts"]["simclr"] = {
    "name": "moco_v3", "start": "50%", "momentum": 0.9
  }  # fmt: skip
  made["optimizer"] |= {"eps": 1e-4}
  del made["evals"]
  return made | {
    "total": 4, "save_every": 1, "log_every": 1, "keep": 9, "ema": 0.5
  } | changes  # fmt: skip


def test_batches_have_the_views_that_their_steps_read():
  """With the bits that they have where all views are always made."""
  made = experiment.build(config(), jax.devices()[:1])
  every = set(made.objective.fields)
  assert every == {"image", "text", "id", "view"}
  examples = dataclasses.replace(made.training.examples, fields=None, later={})
  always = dataclasses.replace(made.training, examples=examples)
  for start in (0, 1):
    streams = (t.batches(start, 4) for t in (made.training, always))
    for at, (found, whole) in enumerate(zip(*streams, strict=True), start):
      assert found.keys() == (every if at >= 2 else every - {"view"})
      for name, x in found.items():
        np.testing.assert_array_equal(x, whole[name])
  # What is measured, and planned, is the input of the program that reads it.
  seen = []

  def program(first):
    return lambda state, batch: (None, seen.append((first, "view" in batch)))

  placed = types.SimpleNamespace(
    mesh=made.placed.mesh, init=lambda: None, at=program
  )
  for first in (0, 2):
    stub = dataclasses.replace(made, placed=placed)
    profile_input.measure(stub, steps=3, first=first)
    assert ("view" in plan._example(made, first)) == (first == 2)
  assert set(seen) == {(0, False), (2, True)}


def test_views_of_a_part_without_weight_are_never_made():
  made = config()
  made["objective"]["parts"]["simclr"] = {"name": "simclr", "weight": 0.0}
  built = experiment.build(made, jax.devices()[:1])
  (batch,) = built.training.batches(0, 1)
  assert batch.keys() == {"image", "text", "id"}


@pytest.mark.slow
def test_a_run_resumes_across_the_switch_with_the_same_bits(tmp_path):
  def fit(workdir):
    made = experiment.build(config(), jax.devices()[:2])
    return loop.fit(made, workdir)

  def saved(workdir):
    folder = workdir / "checkpoints/4"
    items = ("params", "training", "extra")
    return {item: checkpointer._read_host(folder, item) for item in items}

  whole = fit(tmp_path / "whole")
  for last in (1, 2):
    at = tmp_path / str(last)
    shutil.copytree(tmp_path / "whole", at)
    for later in range(last + 1, 5):
      shutil.rmtree(at / f"checkpoints/{later}")
    assert fit(at)["train/loss"] == whole["train/loss"]
    chex.assert_trees_all_equal(saved(at), saved(tmp_path / "whole"))
  extra = rules.flatten(saved(tmp_path / "whole")["extra"])
  assert {"simclr/teacher/img/fc1/kernel", "ema/img/fc1/kernel"} <= extra.keys()
  rows = (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
  # No speed of the steps in which a program was compiled.
  assert ["images_per_s" in row for row in rows] == [False] * 3 + [True]
  assert ["train/simclr/loss" in row for row in rows] == [False] * 2 + [
    True
  ] * 2


# --- What a part reads.


def test_a_view_is_a_part_s_image_and_the_image_is_a_view():
  parts = {
    "clip": CLIP | {"views": ["second"]},
    "ssl": SIMCLR | {"views": ["second", "image"]},
  }
  made = mixture.build(setting(), parts=parts)
  assert set(made.fields) == {"second", "image", "text", "id"}
  data = batch()
  seen = made.parts["clip"].given(data)
  assert seen.keys() == {"image", "text", "id"}
  np.testing.assert_array_equal(seen["image"], data["second"][:, 0])
  ssl = made.parts["ssl"]
  first, second = ssl.method.images(ssl.given(data))
  np.testing.assert_array_equal(first, data["second"][:, 0])
  np.testing.assert_array_equal(second, data["image"])


@pytest.fixture(scope="module")
def slip():
  return experiment.build(tiny.load("slip", "smoke"), jax.devices()[:1])


def test_a_record_gives_its_image_its_caption_and_its_views_at_once(slip):
  (data,) = slip.training.batches(0, 1)
  shapes = {k: x.shape[1:] for k, x in data.items()}
  picture = 32, 32, 3
  assert shapes == {
    "image": picture, "view": (2, *picture), "text": (32,), "id": ()
  }  # fmt: skip


def test_a_head_takes_what_the_tower_pooled(slip):
  ssl = slip.objective.parts["simclr"].method
  assert ssl.setting.model.abstract.pooled == ("projector",)
  shape = ssl.setting.model.shapes["projector"]["fc1"]["kernel"].shape
  assert shape == (ssl.setting.model.abstract.img.width, 32)


# --- One forward pass a view.

VIT = {"variant": "mu/8", "res": 16, "width": 16, "depth": 1, "heads": 2}
SIMSIAM = {"name": "simsiam"}


def of_vit(parts, **image):
  """A mixture over a tower without batch norms."""
  where = setting()
  tokenizer = types.SimpleNamespace(
    length=6, vocab_size=32, pad_id=None, bos_id=None, eos_id=None
  )
  sections = SECTIONS | {"image": VIT | {"out_dim": 16} | image}
  model = build.build_model(sections, tokenizer, sharding.pin(where.mesh))
  where = dataclasses.replace(where, model=model)
  return mixture.build(where, parts=parts)


def test_parts_that_read_the_same_images_share_the_towers_pass():
  """The same value, and the FLOPs of one pass, forward and backward."""
  parts = {"clip": CLIP | {"views": ["first"]}, "ssl": SIMSIAM}
  both = of_vit(parts)
  params = both.init(jax.random.key(0))
  apart = dataclasses.replace(both, shares=False)
  data = jax.tree.map(jax.numpy.asarray, batch())

  def value(method):
    return lambda p, data: method(p, {}, data, jax.random.key(1), 0)[0]

  def cost(fn, *args):
    return jax.jit(fn).lower(*args).cost_analysis()["flops"]

  costs = [
    cost(jax.grad(value(method)), params, data) for method in (both, apart)
  ]
  img = both.setting.model.abstract.img
  images = data["first"][:, 0]
  once = cost(lambda tower, x: tower(x), img, images)
  # A backward pass of two forward ones, but none to the pixels.
  assert 2.5 * once < costs[1] - costs[0] < 3.2 * once
  assert apart.flops() - both.flops() == 3 * img.flops(True)
  found, expected = jax.jit(
    lambda p, data: [value(method)(p, data) for method in (both, apart)]
  )(params, data)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("image", "shares"),
  [({}, True), ({"keep": 0.5}, False), ({"dropout": 0.1}, False)],
)
def test_a_pass_is_shared_if_it_is_the_same_in_each_part(image, shares):
  assert of_vit({"clip": CLIP}, **image).shares == shares
  # The statistics of batch norms move with each pass.
  assert not mixture.build(setting(), parts={"clip": CLIP}).shares


def test_the_image_is_shared_with_the_view_that_it_is():
  made = of_vit({"clip": CLIP, "ssl": SIMSIAM | {"views": ["image", "second"]}})
  clip, ssl = (made.parts[name].passes for name in ("clip", "ssl"))
  assert clip == {("image", 0)} and ssl == {("image", 0), ("second", 0)}
  passes, data = _passes.Passes(), batch()
  part = made.parts["ssl"]
  first, _ = part.sharing(passes).images(part.given(data, passes))
  assert first is data["image"]


# --- What it says of itself.


def test_it_knows_its_parts_flops_chances_and_signs():
  parts = {"clip": CLIP, "moco": MOCO | {"stop": 6}}
  made = mixture.build(setting(), parts=parts)
  assert made.switches == (START, 6)
  model = made.setting.model.abstract
  img, txt = 3 * model.img.flops(True), 3 * model.txt.flops(True)
  teacher = model.img.flops(True)
  assert [made.at(i).flops() for i in (1, 2, 6)] == [
    pytest.approx(img + txt),
    # One view is the query, the other the teacher's.
    pytest.approx(2 * img + txt + teacher),
    pytest.approx(img + txt),
  ]
  # No chance of a loss whose terms change.
  assert made.chances == {
    "clip/loss": pytest.approx(np.log(BATCH)),
    "moco/loss": pytest.approx(np.log(2 * BATCH + 1)),
  }
  values = {"clip/t": 0.0, "clip/loss": 1.0}
  assert made.signs(values, batch()).keys() == {
    "temperature of clip", "duplicates of clip"
  }  # fmt: skip
  collapsed = {"moco/embedding_std": 0.0, "moco/loss": 1.0}
  (line,) = made.signs(collapsed, batch()).values()
  assert line.startswith("moco: the embeddings are nearly all the same")
  wrapped = averaged(made, 0.9)
  assert wrapped.switches == made.switches
  assert wrapped.at(START).inner.on.keys() == {"clip", "moco"}


@dataclasses.dataclass(frozen=True)
class Exports(_teacher.Taught):
  def exported(self, params, extra):
    return params | extra["teacher"]


def test_a_part_may_choose_what_is_exported():
  made = mixture.build(setting(), parts={"clip": CLIP, "ssl": SIMCLR})
  method = Exports(made.parts["ssl"].method.setting)
  part = dataclasses.replace(made.parts["ssl"], method=method)
  made = dataclasses.replace(made, parts=made.parts | {"ssl": part})
  extra = {"ssl": {"teacher": {"img": "theirs"}}}
  params = {"img": "ours", "txt": "text"}
  assert made.exported(params, extra) == params
  made = dataclasses.replace(made, exports="ssl")
  assert made.exported(params, extra) == {"img": "theirs", "txt": "text"}


def test_parts_have_fields_that_no_objective_has():
  own = schema.hints(_parts.when_on).keys() - {"setting", "return"}
  for name in registry.names("objectives"):
    module = registry.module("objectives", name, "")
    assert not own & schema.hints(module.build).keys(), name


def test_slip_is_a_matter_of_minutes_on_data_of_ones_own():
  quick = tiny.load("slip", "quick,batch=64,data=folder:a")
  assert quick["source"] == "folder:a" and "evals" not in quick
  assert quick["batch_size"] == 64 and quick["total"] == "30 epochs"
  assert quick["model"]["image"]["tower"] == "convnet"
  assert quick["model"]["heads"]["projector"]["on"] == "pooled"
  parts = tiny.load("slip", "")["objective"]["parts"]
  assert quick["objective"]["parts"].keys() == parts.keys()
  evals = tiny.load("slip", "quick")["evals"]
  assert {e["source"]["name"] for e in evals.values()} == {"shapes"}


def test_epochs_are_planned_without_data():
  made = config()
  made["objective"]["parts"]["simclr"] |= {
    "start": "1 epochs", "stop": "2.5 epochs"
  }  # fmt: skip
  short = reading.without_epochs(made | {"total": "3 epochs"})
  part = short["objective"]["parts"]["simclr"]
  assert 0 < part["start"] < part["stop"] < short["total"]


ERRORS = {
  "no part": ({}, r"parts = 'none in step 0'; expected a part in every step"),
  "a gap": (
    {"clip": CLIP | {"stop": 2}, "ssl": SIMCLR | {"start": 4}},
    "parts = 'none in step 2'",
  ),
  "weight": ({"clip": CLIP | {"weight": -1.0}}, r"parts.clip.weight = -1.0; "),
  "nan": ({"clip": CLIP | {"weight": float("nan")}}, "clip.weight = nan"),
  "a word": ({"clip": CLIP | {"weight": "1"}}, "clip.weight = '1'; .*float"),
  "stop": (
    {"clip": CLIP, "ssl": SIMCLR | {"start": 4, "stop": "40%"}},
    "ssl.stop = '40%'; expected more than start = 4",
  ),
  "start": (
    {"clip": CLIP, "ssl": SIMCLR | {"start": 10}},
    "ssl.start = 10; expected less than the 10 steps",
  ),
  "unit": ({"clip": CLIP | {"start": "2 days"}}, "clip.start = '2 days'"),
  "name": ({"clip": CLIP | {"name": "pears"}}, "clip.name = .*'pairs'"),
  "unnamed": ({"clip": {"loss": "softmax"}}, "clip.name is missing"),
  "field": ({"clip": CLIP | {"los": 1}}, "clip.los = 1; .*'loss'"),
  "section": ({"clip": "pairs"}, "parts.clip = 'pairs'; expected a section"),
  "nested": ({"a": {"name": "mixture", "parts": {}}}, "a.name = 'mixture'"),
  "part's name": ({"a b": CLIP}, "a name in .*parts = 'a b'"),
  "reserved": ({"statistics": CLIP}, "= 'statistics'; expected an identifier"),
  "view": (
    {"clip": CLIP | {"views": ["third"]}},
    r"clip.views\[0\] = 'third'; expected one of first, image, second",
  ),
  "twice": ({"clip": CLIP | {"views": ["first"] * 2}}, "views, each once"),
  "none": ({"clip": CLIP | {"views": []}}, r"clip.views = \[\]"),
  "too many": (
    {"clip": CLIP | {"views": ["first", "second"]}},
    "clip.views = .*; expected one view of an image",
  ),
  "too few": (
    {"clip": CLIP, "ssl": SIMCLR | {"views": ["first"]}},
    'two views of an image in all. Name them in "views" of the part',
  ),
  "no text": ({"ssl": SIMCLR}, "model.text = 'set'; expected no text tower"),
  "teacher": (
    {"clip": CLIP, "ssl": {"name": "byol", "start": 2}},
    "ssl.teacher = 'random'; expected \"copy\"",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_a_wrong_part_is_one_line(name):
  parts, said = ERRORS[name]
  with pytest.raises(errors.UserError, match=said) as caught:
    mixture.build(setting(), parts=parts)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "ssl", [{"start": 2}, {"stop": 5}, {"weight": 0.0}, {"name": "pears"}]
)
def test_only_a_part_of_all_steps_is_exported(ssl):
  name = ssl.get("name", "ssl")
  parts = {
    "clip": CLIP,
    "ssl": SIMCLR | {k: ssl[k] for k in ssl if k != "name"},
  }
  with pytest.raises(errors.UserError, match=f"exports = '{name}'"):
    mixture.build(setting(), parts=parts, exports=name)
