"""CLIP's ResNet: sizes, the formula in float64, statistics, memory, fields."""

import functools

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment
from big_contrastive.interop import resample
from big_contrastive.models import layers
from big_contrastive.models.image import clip_resnet
from big_contrastive.models.model import Model, merge, split, variables
from big_contrastive.parallel import sharding

RES = 64
SMALL = {"layers": (1, 2, 1, 1), "width": 8, "heads": 4, "out_dim": 12}


def tower(**changes):
  fields = SMALL | {"res": RES, "rngs": nnx.Rngs(0)} | changes
  return clip_resnet.ClipResNet("RN50", **fields)


def parts(make):
  """Structure, parameters and statistics of a tower; nothing is allocated."""
  return split(nnx.eval_shape(lambda: Model(make())))


@functools.cache
def random():
  """A tower's structure and variables, far from their initial values."""
  graph, *both = parts(tower)
  r, flat = np.random.default_rng(0), {}
  for name, x in rules.flatten(variables(*both)).items():
    near = 1.0 if name.endswith(("scale", "var")) else 0.0
    noise = r.normal(size=x.shape) * (0.3 if x.ndim == 1 else 1.0)
    if x.ndim > 1 and name != "img/pos":
      fan_in = x.size // x.shape[-1] if "pool/" not in name else x.shape[0]
      noise *= fan_in**-0.5
    flat[name] = (near + noise).astype(np.float32)
    if name.endswith("var"):
      flat[name] = np.abs(flat[name]) + np.float32(0.1)
  return graph, flat


def images(size=6):
  r = np.random.default_rng(1)
  return r.integers(0, 256, (size, RES, RES, 3)).astype(np.uint8)


def keys(size=6):
  return jax.random.split(jax.random.key(0), size)


@functools.cache
def ours(train, remat="none"):
  """(tokens, pooled, vectors), and all variables afterwards."""
  flat = random()[1]
  graph = parts(lambda: tower(remat=remat))[0]

  @jax.jit
  def run(flat, x):
    there = keys() if train else None
    model = merge(graph, flat)
    tokens, pooled, mask = model.features(x, there)
    assert mask is None
    model = merge(graph, flat)
    out = model.img(x, there)
    return (tokens, pooled, out), split(model)[1:]

  out, both = jax.device_get(run(rules.unflatten(flat), images()))
  return out, rules.flatten(variables(*both))


class Formula:
  """The tower in numpy, float64, from the papers' words.

  Attributes:
    moments: of each batch norm's input, by name: mean and unbiased variance.
  """

  def __init__(self, flat, train):
    self.p = {
      k.removeprefix("img/"): v.astype(np.float64) for k, v in flat.items()
    }
    self.train, self.moments = train, {}

  def __call__(self, image):
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    x = (image / 255 - mean) / std
    for i in (1, 2, 3):
      x = np.maximum(self.conv(x, f"stem/conv{i}", 2 if i == 1 else 1), 0)
    x = self.halved(x)
    for stage, depth in enumerate(SMALL["layers"], 1):
      for j in range(depth):
        x = self.block(x, f"layer{stage}/block{j}", stage > 1 and j == 0)
    tokens = x.reshape(len(x), -1, x.shape[-1])
    pooled = self.attention(tokens)
    project = self.p["project/kernel"]
    return tokens, pooled, pooled @ project + self.p["project/bias"]

  def block(self, x, name, strided):
    y = np.maximum(self.conv(x, f"{name}/conv1"), 0)
    y = np.maximum(self.conv(y, f"{name}/conv2"), 0)
    y = self.conv(self.halved(y) if strided else y, f"{name}/conv3")
    if f"{name}/shortcut/conv/kernel" in self.p:
      x = self.conv(self.halved(x) if strided else x, f"{name}/shortcut")
    return np.maximum(x + y, 0)

  def conv(self, x, name, stride=1):
    kernel = self.p[f"{name}/conv/kernel"]
    pad = len(kernel) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
      x, kernel.shape[:2], (1, 2)
    )[:, ::stride, ::stride]
    return self.norm(np.einsum("byxcij,ijco->byxo", windows, kernel), name)

  def norm(self, x, name):
    scale, bias, mean, var = (
      self.p[f"{name}/norm/{k}"] for k in ("scale", "bias", "mean", "var")
    )
    if self.train:
      rows = x.reshape(-1, x.shape[-1])
      mean, var = rows.mean(0), rows.var(0)
      self.moments[f"{name}/norm"] = mean, rows.var(0, ddof=1)
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

  def halved(self, x):
    parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return sum(parts) / 4

  def attention(self, x):
    x = np.concatenate([x.mean(1, keepdims=True), x], 1) + self.p["pos"]
    heads = [
      np.einsum("blw,whk->bhlk", x, self.p[f"pool/{part}/kernel"])
      + self.p[f"pool/{part}/bias"][:, None]
      for part in ("query", "key", "value")
    ]
    query, key, value = heads
    logits = query[:, :, 0, None] @ key.swapaxes(2, 3)
    weights = np.exp(logits / np.sqrt(query.shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ value)[:, :, 0].reshape(len(x), -1)


@functools.cache
def formula(train):
  made = Formula(random()[1], train)
  return made(images()), made.moments


@pytest.mark.parametrize("train", [False, True])
def test_it_is_the_formula_in_float64(train):
  expected, _ = formula(train)
  for name, a, b in zip(
    ("tokens", "pooled", "vectors"), ours(train)[0], expected, strict=True
  ):
    assert a.shape == b.shape and np.abs(b).max() > 0.5, name
    error = np.abs(a - b).max() / np.abs(b).max()
    assert error < 2e-5, (name, error)


def test_training_moves_running_statistics_by_a_tenth_and_no_parameter():
  before, after = random()[1], ours(True)[1]
  _, moments = formula(True)
  seen = set()
  for name, (mean, var) in moments.items():
    for field, new in (("mean", mean), ("var", var)):
      full = f"img/{name}/{field}"
      expected = 0.9 * before[full] + 0.1 * new
      np.testing.assert_allclose(after[full], expected, rtol=1e-4, atol=1e-5)
      seen.add(full)
  assert seen == {k for k in before if k.endswith(("/mean", "/var"))}
  assert before.keys() == after.keys()
  for name in before.keys() - seen:
    np.testing.assert_array_equal(before[name], after[name], err_msg=name)
  for name, x in ours(False)[1].items():
    np.testing.assert_array_equal(before[name], x, err_msg=name)


# Counted by open_clip 3.3.0: parameters, and buffers without counters.
COUNTS = {
  "RN50": (38_316_896, 53_248), "RN101": (56_259_936, 105_472),
  "RN50x4": (87_137_080, 109_760), "RN50x16": (167_328_912, 193_920),
  "RN50x64": (420_380_352, 410_624),
}  # fmt: skip


@pytest.mark.parametrize("variant", clip_resnet.VARIANTS)
def test_a_published_size_has_its_number_of_parameters(variant):
  _, params, statistics = parts(
    lambda: clip_resnet.ClipResNet(variant, rngs=nnx.Rngs(0))
  )
  counts = rules.count(params), rules.count(statistics)
  assert counts == COUNTS[variant]


@pytest.mark.parametrize("variant", ["RN50", "RN50x4"])
def test_flops_are_those_that_xla_counts(variant):
  made = nnx.eval_shape(
    lambda: clip_resnet.ClipResNet(variant, rngs=nnx.Rngs(0))
  )
  x = jax.ShapeDtypeStruct((1, *made.takes, 3), jnp.uint8)
  lowered = jax.jit(lambda made, x: made(x)).lower(made, x)
  # XLA does not count products with a convolution's padding, but norms.
  assert abs(made.flops(train=False) / lowered.cost_analysis()["flops"] - 1) < (
    0.04
  )


@pytest.mark.slow
@pytest.mark.parametrize("remat", [layers.REMAT, "nothing_saveable"])
def test_remat_changes_neither_values_nor_gradients_nor_statistics(remat):
  _, flat = random()

  def gradients(remat):
    graph, params, statistics = parts(lambda: tower(remat=remat))
    params, statistics = (
      rules.unflatten({k: flat[k] for k in rules.flatten(x)})
      for x in (params, statistics)
    )

    def loss(params, statistics, x):
      model = merge(graph, params, statistics)
      return (model.img(x, keys()) ** 2).sum(), split(model)[2]

    value = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return jax.device_get(value(params, statistics, images()))

  a, b = gradients("none"), gradients(remat)
  # The sum of squares is large: of gradients, what counts is their size.
  np.testing.assert_allclose(a[0][0], b[0][0], rtol=1e-5)
  for tree, other in ((a[0][1], b[0][1]), (a[1], b[1])):
    tree, other = rules.flatten(tree), rules.flatten(other)
    assert tree.keys() == other.keys()
    for name, x in tree.items():
      limit = 1e-4 * np.abs(x).max() + 1e-4
      np.testing.assert_allclose(other[name], x, rtol=0, atol=limit)


def test_the_usual_remat_runs_no_convolution_twice():
  def convolutions(remat):
    graph, *both = parts(lambda: tower(remat=remat))

    def loss(params, statistics, x):
      return merge(graph, params, statistics).img(x, keys()).sum()

    step = jax.make_jaxpr(jax.grad(loss))(*both, images())
    return str(step).count("conv_general_dilated[")

  none = convolutions("none")
  assert convolutions(layers.REMAT) == none
  assert convolutions("nothing_saveable") > none


def test_compute_is_bfloat16_by_config_and_variables_are_float32():
  made = tower(dtype="bfloat16")
  leaves = jax.tree.leaves(split(Model(made))[1:])
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
  text = jax.jit(lambda t, x: t(x)).lower(made, images()).as_text()
  found = [
    line for line in text.splitlines() if "stablehlo.convolution" in line
  ]
  assert found and all("xbf16>) ->" in line for line in found)
  assert made(jnp.asarray(images())).dtype == jnp.float32


def test_positions_of_another_resolution_are_resampled():
  _, flat = random()
  _, *expected = parts(lambda: tower(res=96))
  fit = resample.fit(rules.unflatten(flat), variables(*expected), "a file")
  pos = fit()["img"]["pos"]
  assert pos.shape == (10, 256)
  np.testing.assert_array_equal(pos[0], flat["img/pos"][0])


@pytest.mark.parametrize(
  ("changes", "field"),
  [
    ({"res": 100}, "res = 100; .*The nearest is 96"),
    ({"layers": (1, 2, 3)}, "layers"),
    ({"layers": (1, 2, 0, 1)}, "layers"),
    ({"layers": (1, 2, 0.5, 1)}, "layers"),
    ({"width": 7}, "width"),
    ({"heads": 5}, "heads = 5; expected a divisor of 32"),
    ({"heads": 0}, "heads"),
    ({"remat": "everything"}, "remat"),
  ],
)
def test_a_wrong_field_is_named(changes, field):
  with pytest.raises(errors.UserError, match=field) as e:
    tower(**changes)
  assert "\n" not in str(e.value)
  with pytest.raises(errors.UserError, match="variant.*'RN50'"):
    clip_resnet.sized("RN51")


@pytest.mark.slow
def test_it_trains_by_a_config():
  config = tiny.load("clip", "smoke")
  config["model"]["image"] = {
    "tower": "clip_resnet", "variant": "RN50", "res": 32, **SMALL
  }  # fmt: skip
  config["model"]["text"]["out_dim"] = 12
  config["model"]["dtype"] = "float32"
  del config["evals"]
  config |= {"total": 3, "batch_size": 16}
  for name in ("train_image", "eval_image"):
    config[name] = [("resize", {"size": 32})]
  made = experiment.build(config, jax.devices()[:2])
  state = made.first()
  before = jax.device_get(rules.flatten(state.extra["statistics"]))
  for batch in made.training.batches(0, 2):
    batch = sharding.to_global(batch, 16, made.placed.mesh)
    state, metrics = made.placed.update(state, batch)
  after = jax.device_get(rules.flatten(state.extra["statistics"]))
  assert np.isfinite(float(metrics["loss"]))
  assert before.keys() == after.keys() and len(before) == 2 * 22
  for name, x in after.items():
    assert np.isfinite(x).all() and (x != before[name]).any(), name
