"""The ResNet tower: sizes, stems, initialization, statistics, FLOPs."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors, rules
from big_contrastive.models import layers
from big_contrastive.models.image import resnet
from big_contrastive.models.model import Model, merge, split

RES, B = 32, 8


def made(depth=18, res=RES, **fields):
  return Model(resnet.ResNet(depth, res, rngs=nnx.Rngs(0), **fields))


def abstract(*args, **fields):
  """A model of this tower alone, with shapes for arrays."""
  return nnx.eval_shape(lambda: made(*args, **fields))


@pytest.fixture(scope="module")
def variables():
  """Parameters and statistics of a ResNet-18 for CIFAR, as initialized."""
  return jax.jit(lambda: split(made(stem="cifar"))[1:])()


def images(size=B, seed=0):
  r = np.random.default_rng(seed)
  return jnp.asarray(r.integers(0, 256, (size, RES, RES, 3)), jnp.uint8)


def keys(size=B):
  return jax.random.split(jax.random.key(0), size)


def run(variables, x, train, **fields):
  """Features, and the statistics after it."""
  graph = split(abstract(**{"stem": "cifar"} | fields))[0]

  def call(params, statistics, x):
    model = merge(graph, params, statistics)
    features = model.features(x, keys(len(x)) if train else None)
    return features, split(model)[2]

  return jax.jit(call)(*variables, x)


# Of torchvision's, without fc: 512 or 2048 features to 1000 classes.
@pytest.mark.parametrize(
  ("depth", "width", "parameters"),
  [
    (18, 1, 11_689_512 - 513_000),
    (34, 1, 21_797_672 - 513_000),
    (50, 1, 25_557_032 - 2_049_000),
    (101, 1, 44_549_160 - 2_049_000),
    (152, 1, 60_192_808 - 2_049_000),
    # SimCLR says 94 and 375 million.
    (50, 2, 93_907_072),
    (50, 4, 375_378_176),
  ],
)
def test_sizes_are_the_published_ones(depth, width, parameters):
  _, params, statistics = split(abstract(depth, width=width))
  assert rules.count(params) == parameters
  flat = rules.shapes(params)
  norms = [shape for k, shape in flat.items() if k.endswith("norm/scale")]
  assert rules.count(statistics) == 2 * sum(n for (n,) in norms)


@pytest.mark.parametrize(
  ("depth", "stem", "res", "tokens"),
  [
    (18, "imagenet", 64, (4, 512)),
    (18, "cifar", 32, (16, 512)),
    (50, "imagenet", 224, (49, 2048)),
    (50, "imagenet", 100, (16, 2048)),
    (50, "cifar", 32, (16, 2048)),
  ],
)
def test_tokens_are_the_last_grid_row_by_row(depth, stem, res, tokens):
  graph, *variables = split(abstract(depth, res, stem=stem, out_dim=7))

  def call(params, statistics, x):
    model = merge(graph, params, statistics)
    return model.features(x), model.img(x)

  x = jax.ShapeDtypeStruct((2, res, res, 3), jnp.uint8)
  features, z = jax.eval_shape(call, *variables, x)
  assert features.tokens.shape == (2, *tokens) and features.mask is None
  assert features.pooled.shape == (2, tokens[1])
  assert z.shape == (2, 7) and z.dtype == jnp.float32
  assert abstract(depth, res).img.takes == (res, res)


def test_pooled_is_the_mean_of_the_tokens(variables):
  features, _ = run(variables, images(), train=False)
  mean = np.asarray(features.tokens, np.float64).mean(1)
  np.testing.assert_allclose(features.pooled, mean, rtol=1e-5, atol=1e-6)
  assert np.abs(mean).max() > 0.1


def test_convolutions_begin_as_he_et_al_say(variables):
  """Normal, of variance 2 / (outputs of a place of the input)."""
  flat = rules.flatten(variables[0])
  for name in ("stem", "stage2/block0/conv1", "stage4/block1/conv2"):
    kernel = np.asarray(flat[f"img/{name}/conv/kernel"])
    std = np.sqrt(2 / (kernel.shape[0] ** 2 * kernel.shape[-1]))
    few = 5 * std / np.sqrt(2 * kernel.size)
    assert abs(kernel.std() - std) < few and abs(kernel.mean()) < 2 * few
    assert np.abs(kernel).max() > 3 * std  # Not truncated.


def test_with_zero_gain_blocks_begin_as_identities():
  """But for shortcuts that stride or widen: relu(shortcut(x))."""
  kwargs = dict(group=None, decay=0.9, eps=1e-5, dtype=jnp.float32)
  r = np.random.default_rng(0)
  x = jnp.asarray(np.abs(r.normal(size=(4, 6, 6, 8))), jnp.float32)
  for bottleneck, before in ((False, 8), (True, 32)):
    x = jnp.tile(x, before // x.shape[-1])
    for zero in (True, False):
      block = resnet.Block(
        before, 8, 1, bottleneck, zero_gain=zero, rngs=nnx.Rngs(0), **kwargs
      )
      y = block(x, True)
      assert np.array_equal(y, x) == zero
  flat = rules.flatten(split(abstract(zero_gain=True))[1])
  assert not any("shortcut" in k for k in flat if "block1" in k)


def test_zero_gain_is_of_the_last_norm_of_each_branch():
  for depth, last in ((18, "conv2"), (50, "conv3")):

    def make(depth=depth):
      params = rules.flatten(split(made(depth, zero_gain=True))[1])
      return {k: v.any() for k, v in params.items() if k.endswith("scale")}

    some = jax.jit(make)()
    zero = {k for k, v in some.items() if not v}
    assert zero == {k for k in some if f"/{last}/" in k} and zero


def test_training_replaces_statistics_and_evaluation_keeps_them(variables):
  """The first norm's against its formula; each norm's has moved."""
  _, before = run(variables, images(), train=False)
  same = jax.tree.map(np.array_equal, before, variables[1])
  assert all(jax.tree.leaves(same))
  features, after = run(variables, images(), train=True)
  for name, value in rules.flatten(after).items():
    assert (np.asarray(value) != rules.flatten(before)[name]).any(), name
  kernel = np.float64(variables[0]["img"]["stem"]["conv"]["kernel"])
  x = (np.float64(images()) / 255 - resnet.MEAN) / resnet.STD
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
  y = np.einsum("bhwcij,ijco->bhwo", windows, kernel).reshape(-1, 64)
  found = after["img"]["stem"]["norm"]
  np.testing.assert_allclose(found["mean"], 0.1 * y.mean(0), atol=1e-5)
  np.testing.assert_allclose(
    found["var"], 0.9 + 0.1 * y.var(0, ddof=1), rtol=1e-5
  )
  other, _ = run((variables[0], after), images(), train=False)
  assert not np.allclose(features.pooled, other.pooled, atol=1e-2)


def test_in_evaluation_an_image_does_not_see_the_others(variables):
  x = images()
  batch = jnp.concatenate([x[:1], images(B - 1, seed=1)])
  alone, _ = run(variables, x, train=False)
  among, _ = run(variables, batch, train=False)
  np.testing.assert_array_equal(alone.pooled[0], among.pooled[0])
  alone, _ = run(variables, x, train=True)
  among, _ = run(variables, batch, train=True)
  assert not np.allclose(alone.pooled[0], among.pooled[0], atol=1e-3)


def test_a_group_sees_itself_alone(variables):
  x = images()
  both, _ = run(variables, x, train=True, norm_group=4)
  for rows in (slice(0, 4), slice(4, 8)):
    half, _ = run(variables, x[rows], train=True)
    np.testing.assert_allclose(
      both.pooled[rows], half.pooled, rtol=1e-4, atol=1e-5
    )


def gradients(variables, remat, dtype="float32"):
  """A function of parameters and images, and its jaxpr's convolutions."""
  graph = split(abstract(stem="cifar", remat=remat, dtype=dtype))[0]

  def value(params, statistics, x):
    model = merge(graph, params, statistics)
    loss = (model.img(x, keys(len(x))) ** 2).mean()
    return loss, split(model)[2]

  grad = jax.grad(value, has_aux=True)
  text = str(jax.make_jaxpr(grad)(*variables, images()))
  return grad, text.count("conv_general_dilated[")


@pytest.mark.slow
def test_remat_changes_neither_gradients_nor_statistics(variables):
  expected, count = gradients(variables, "none")
  wanted = jax.jit(expected)(*variables, images())
  # Outputs of convolutions are kept, or each is computed once more, but not
  # the last of a block, whose output no gradient takes.
  for remat, more in ((layers.REMAT, 0), ("nothing_saveable", 19)):
    grad, again = gradients(variables, remat)
    assert again == count + more, remat
    found = jax.jit(grad)(*variables, images())
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
      scale = float(jnp.abs(b).max())
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * scale)


def test_compute_is_bfloat16_by_config(variables):
  _, statistics = run(variables, images(), train=True, dtype="bfloat16")
  assert {v.dtype for v in jax.tree.leaves(statistics)} == {jnp.dtype("f4")}
  graph = split(abstract(stem="cifar", dtype="bfloat16"))[0]
  lowered = jax.jit(lambda p, s, x: merge(graph, p, s).img(x)).lower(
    *variables, images()
  )
  lines = lowered.as_text().splitlines()
  convolutions = [line for line in lines if "stablehlo.convolution" in line]
  assert len(convolutions) == 20
  assert all(line.endswith("xbf16>") for line in convolutions)


@pytest.mark.parametrize(
  ("depth", "macs"), [(18, 1.814e9), (50, 4.089e9), (101, 7.801e9)]
)
def test_flops_are_the_published_ones(depth, macs):
  """Those in torchvision, `_ops`; its fc has 0.5 or 2 million of them."""
  assert abs(abstract(depth, 224).img.flops(train=False) / 2 / macs - 1) < 1e-3


@pytest.mark.parametrize(
  ("depth", "stem", "res"),
  [(50, "imagenet", 224), (18, "imagenet", 896), (18, "cifar", 256)],
)
def test_flops_are_those_that_xla_counts(depth, stem, res):
  """XLA leaves out products with padding, a large part of those of a 4 x 4
  grid, and counts operations on single elements.
  """
  graph, *variables = split(abstract(depth, res, stem=stem))
  x = jax.ShapeDtypeStruct((1, res, res, 3), jnp.uint8)
  jitted = jax.jit(lambda p, s, x: merge(graph, p, s).img(x))
  counted = jitted.lower(*variables, x).cost_analysis()["flops"]
  found = abstract(depth, res, stem=stem).img.flops(train=False)
  assert abs(found / counted - 1) < 0.03


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"norm_group": 0}, "norm_group = 0"),
    ({"norm_decay": 1.0}, "norm_decay = 1.0"),
    ({"remat": "everything"}, "remat = 'everything'"),
  ],
)
def test_a_wrong_field_is_named(fields, said):
  with pytest.raises(errors.UserError, match=said):
    abstract(**fields)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_without_batch_norms_no_image_sees_another(norm):
  fields = dict(stem="cifar", norm=norm, stages=1, zero_gain=True)
  made_of = jax.jit(lambda: split(made(**fields))[1:])
  params, statistics = made_of()
  flat = rules.flatten(params)
  assert not statistics
  assert any("norm" in k for k in flat) == (norm == "layer")
  # A bias takes the place of a norm's.
  assert any(k.endswith("conv/bias") for k in flat) == (norm == "none")
  run_of = run((params, statistics), images(), train=True, **fields)[0]
  alone = run((params, statistics), images()[:1], train=False, **fields)[0]
  np.testing.assert_allclose(run_of.tokens[:1], alone.tokens, atol=1e-5)
  # The last of each branch begins with zeros: the stem alone is seen.
  last = {k: v for k, v in flat.items() if "conv2" in k}
  kind = "norm/scale" if norm == "layer" else "conv/kernel"
  assert not any(v.any() for k, v in last.items() if k.endswith(kind))


def test_a_resnet_may_end_early():
  """CPC's have three stages: 1024 features of a ResNet-50."""
  model = abstract(50, 64, stages=3)
  assert not any("stage4" in k for k in rules.flatten(split(model)[1]))
  assert model.img.out_dim == 1024
  for stages in (0, 5):
    with pytest.raises(errors.UserError, match=f"stages = {stages}; .*1 to 4"):
      abstract(stages=stages)
