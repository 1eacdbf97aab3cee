"""The convolutional tower: its layers, statistics and errors."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import peers
from big_contrastive.config import errors
from big_contrastive.models.image import convnet
from big_contrastive.models.norms import BatchNorm

SIZES = dict(res=16, widths=(4, 6), depths=(2, 1), out_dim=5)


def tower(**changes):
  return convnet.tower(**SIZES | changes, rngs=nnx.Rngs(0))


def images(b=8, res=16):
  r = np.random.default_rng(0)
  return jnp.asarray(r.integers(0, 256, (b, res, res, 3)), jnp.uint8)


def in_torch(model):
  """The same layers in torch, with the same weights: images to vectors."""
  torch = peers.torch()

  def conv(kernel, stride):
    side, _, width, out_dim = kernel.shape
    layer = torch.nn.Conv2d(
      width, out_dim, side, stride, padding=side // 3, bias=False
    )
    layer.weight.data = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1))
    return torch.nn.Sequential(layer, torch.nn.BatchNorm2d(out_dim))

  def merge(kernel):
    width = kernel.shape[0] // 4
    return conv(kernel[...].reshape(2, 2, width, -1), 2)

  pixels = torch.nn.PixelUnshuffle(2)
  stem = conv(model.stem.kernel[...], 1)
  first = [
    conv(model.conv0_0.kernel[...], 1),
    conv(model.conv0_1.kernel[...], 1),
  ]
  down = merge(model.merge1.linear.kernel)
  last = conv(model.conv1_0.kernel[...], 1)

  neck = torch.nn.BatchNorm1d(model.project.kernel.shape[0])

  def run(x, train):
    for part in (stem, *first, down, last):
      part.train(train)
    x = pixels(x)
    # Ours has the channels of a pixel side by side.
    b, _, h, w = x.shape
    x = x.reshape(b, 3, 4, h, w).swapaxes(1, 2).reshape(b, 12, h, w)
    x = stem(x).relu()
    for layer in first:
      x = (x + layer(x)).relu()
    x = down(x).relu()
    x = (x + last(x)).relu()
    if model.pool == "gap":
      x = x.mean((2, 3))
    else:
      x = x.permute(0, 2, 3, 1).reshape(b, -1)
    neck.train(train)
    project = np.asarray(model.project.kernel[...])
    return neck(x).detach().numpy() @ project + np.asarray(
      model.project.bias[...]
    )

  return run


@pytest.mark.parametrize("pool", ["gap", "flat"])
@pytest.mark.peers
def test_vectors_are_those_of_the_same_layers_in_torch(pool):
  """In training and, by the running statistics, in evaluation."""
  model, x = tower(pool=pool), images()
  run = in_torch(model)
  keys = jax.random.split(jax.random.key(0), len(x))
  pixels = peers.pixels(np.asarray(x))
  for train in (True, True, False):
    found = model(x, keys if train else None)
    np.testing.assert_allclose(found, run(pixels, train), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["gap", "flat"])
def test_tokens_are_the_last_grid_and_pooled_has_their_pool(pool):
  features = tower(pool=pool).features(images())
  assert features.tokens.shape == (8, 16, 6)
  flat = features.tokens.reshape(8, -1)
  wanted = {"gap": features.tokens.mean(1), "flat": flat}[pool]
  # The running statistics are those of a unit normal at first.
  np.testing.assert_allclose(features.pooled, wanted, rtol=1e-4)


def test_evaluation_of_an_image_does_not_depend_on_the_others():
  model, x = tower(), images()
  np.testing.assert_allclose(model(x)[:1], model(x[:1]), rtol=1e-5, atol=1e-6)


def test_every_norm_has_the_group_that_is_asked_for():
  found = [
    m
    for _, m in nnx.iter_graph(tower(norm_group=2))
    if isinstance(m, BatchNorm)
  ]
  assert len(found) == 6 and {m.group for m in found} == {2}


def test_flops_are_those_that_xla_counts():
  # XLA counts no products with the border of zeros: on large images, few.
  model = tower(res=96, widths=(32, 64), depths=(1, 1), out_dim=None)
  run = jax.jit(lambda x: model(x))
  cost = run.lower(images(1, 96)).compile().cost_analysis()
  assert model.flops(train=False) == pytest.approx(cost["flops"], rel=0.05)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (dict(res=18), "res = 18; expected a multiple of 4"),
    (dict(widths=()), "widths = .*; expected whole numbers from 1 up"),
    (dict(widths=(4, 0)), "widths = .*; expected whole numbers from 1 up"),
    (dict(depths=(1,)), "depths = .*; expected 2 whole numbers from 0 up"),
  ],
)  # fmt: skip
def test_wrong_sizes_are_refused(changes, said):
  with pytest.raises(errors.UserError, match=said):
    tower(**changes)
