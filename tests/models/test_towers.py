"""Towers: shapes, sizes, pooling, masking, precision."""

import math

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.config import errors, rules
from big_contrastive.models import dropout, layers, patches, positions
from big_contrastive.models.image import vit
from big_contrastive.models.model import Model, split, unit
from big_contrastive.models.text import transformer

RES = 32


def image_tower(**kwargs) -> vit.ImageTower:
  return vit.ImageTower(
    kwargs.pop("variant", "mu/8"), RES, rngs=nnx.Rngs(0), **kwargs
  )


def text_tower(**kwargs) -> transformer.TextTower:
  defaults = {"vocab_size": 50, "length": 8, "eos_id": 1, "rngs": nnx.Rngs(0)}
  return transformer.TextTower("mu", **defaults | kwargs)


def images(size: int = 4) -> jax.Array:
  r = np.random.default_rng(0)
  return jnp.asarray(r.integers(0, 256, (size, RES, RES, 3)), jnp.uint8)


def tokens(size: int = 4) -> jax.Array:
  r = np.random.default_rng(0)
  return jnp.asarray(r.integers(2, 50, (size, 8)), jnp.int32)


def keys(size: int = 4, seed: int = 0) -> jax.Array:
  return jax.random.split(jax.random.key(seed), size)


def test_siglip_b16_has_the_published_number_of_parameters():
  def build():
    rngs = nnx.Rngs(0)
    img = vit.ImageTower("B/16", 224, rngs=rngs)
    txt = transformer.TextTower(
      "B", vocab_size=32_000, length=64, out_dim=768, rngs=rngs
    )
    return Model(img, txt, t=np.log(10), b=-10.0)

  _, params, _ = split(nnx.eval_shape(build))
  # big_vision's own tree, counted by eval_shape: research/big_vision.md.
  assert rules.count(params) == 203_155_970


@pytest.mark.parametrize("size", layers.SIZES)
def test_every_published_size_builds(size):
  def build():
    return vit.ImageTower(f"{size}/14", 224, rngs=nnx.Rngs(0))

  width, depth, mlp, _ = layers.SIZES[size]
  tower = nnx.eval_shape(build)
  assert tower.encoder.blocks.mlp.fc1.kernel.shape == (depth, width, mlp)


def moco_v3_table(side, width):
  """As the code of MoCo v3 computes it, position by position."""
  table = np.zeros((side * side, width))
  for i in range(side * side):
    for k in range(width // 4):
      frequency = 10_000 ** (-k / (width // 4))
      for j, place in enumerate((i // side, i % side)):
        at = 2 * j * (width // 4) + k
        table[i, at] = math.sin(place * frequency)
        table[i, at + width // 4] = math.cos(place * frequency)
  return table


def test_the_published_tables_of_positions():
  moco = positions.sincos2d(5, 24, "sincos2d_moco")
  np.testing.assert_allclose(moco, moco_v3_table(5, 24), atol=1e-6)
  mae = positions.sincos2d(5, 24, "sincos2d_mae")
  halves = np.concatenate([moco[:, 12:], moco[:, :12]], axis=1)
  np.testing.assert_array_equal(mae, halves)
  ours = positions.sincos2d(5, 24)
  assert np.abs(ours - mae).max() > 0.01


@pytest.mark.parametrize("pos", ["learned", "sincos2d", "sincos2d_moco"])
@pytest.mark.parametrize("pool", ["map", "gap", "tok"])
def test_image_tower_gives_one_vector_an_image(pool, pos):
  tower = image_tower(pool=pool, pos=pos, out_dim=12)
  z = tower(images())
  assert z.shape == (4, 12) and z.dtype == jnp.float32


@pytest.mark.parametrize("pool", ["last", "eos", "first", "mean", "map"])
def test_text_tower_gives_one_vector_a_text(pool):
  assert text_tower(pool=pool, out_dim=12)(tokens()).shape == (4, 12)


def test_compute_is_bfloat16_by_config_and_parameters_are_float32():
  for tower, x in (
    (image_tower(dtype="bfloat16", pool="tok"), images()),
    (text_tower(dtype="bfloat16", pool="map"), tokens()),
  ):
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(tower)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    hlo = jax.jit(lambda t, x: t(x)).lower(tower, x).as_text()
    products = [ln for ln in hlo.splitlines() if "dot_general" in ln]
    bf16 = [ln for ln in products if "xbf16>) ->" in ln]
    # The attention's two products keep float32 results; inputs are bfloat16.
    assert len(bf16) == len(products) > 0


def test_the_scanned_blocks_are_the_blocks_one_after_another():
  tower = image_tower(depth=3)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 32)), "float32")
  y = x
  for i in range(3):
    block = jax.tree.map(lambda leaf, i=i: leaf[i], tower.encoder.blocks)
    y = block(y, False, lambda v, _: v)
  np.testing.assert_allclose(
    tower.encoder(x), tower.encoder.norm(y), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize("policy", [layers.REMAT, "nothing_saveable"])
def test_remat_changes_neither_value_nor_gradient(policy):
  def grads(remat):
    tower = image_tower(depth=2, remat=remat, drop_path=0.5)
    return jax.grad(lambda t: (t(images(), keys()) ** 2).sum())(tower)

  pairs = zip(
    jax.tree.leaves(grads("none")),
    jax.tree.leaves(grads(policy)),
    strict=True,
  )
  for a, b in pairs:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_unit_embeddings_are_unit_and_have_a_finite_gradient_at_zero():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)), jnp.float32)
  norms = np.linalg.norm(unit(x), axis=1)
  np.testing.assert_allclose(norms, 1, rtol=1e-6)
  grad = jax.grad(lambda x: unit(x)[:, 0].sum())(jnp.zeros((2, 3)))
  assert np.isfinite(grad).all()


def test_flip_draws_other_patches_for_each_example_and_key():
  kept = np.asarray(patches.draw_patches(keys(4), 16, 0.5))
  assert kept.shape == (4, 8)
  assert all(len(set(row)) == 8 for row in kept.tolist())
  assert len({tuple(row) for row in kept.tolist()}) == 4
  again = np.asarray(patches.draw_patches(keys(4), 16, 0.5))
  other = np.asarray(patches.draw_patches(keys(4, seed=1), 16, 0.5))
  np.testing.assert_array_equal(kept, again)
  assert (kept != other).any()


def test_flip_keeps_every_patch_equally_often():
  kept = np.asarray(patches.draw_patches(keys(4000), 16, 0.25))
  counts = np.bincount(kept.ravel(), minlength=16)
  # Binomial(4000, 1/4): standard deviation 27.
  assert (np.abs(counts - 1000) < 5 * 27).all()


def test_flip_drops_nothing_in_evaluation():
  half, whole = image_tower(keep=0.5), image_tower(keep=1.0)
  np.testing.assert_array_equal(half(images()), whole(images()))
  trained = half(images(), keys())
  assert not np.allclose(trained, half(images()), atol=1e-3)


def test_flip_is_the_tower_on_the_patches_that_are_kept():
  tower = image_tower(keep=0.5, pool="gap")
  kept = np.asarray(patches.draw_patches(keys(), 16, 0.5))
  x = (
    tower.embed(patches.patchify(tower._normalize(images()), 8))
    + tower.pos[...][None]
  )
  x = jnp.take_along_axis(x, jnp.asarray(kept)[:, :, None], axis=1)
  want = tower.encoder(x).mean(axis=1)
  np.testing.assert_allclose(
    tower(images(), keys()), want, rtol=1e-4, atol=1e-5
  )


def test_an_example_draws_the_same_wherever_it_lies_in_the_batch():
  tower = image_tower(keep=0.5, dropout=0.3, depth=2, drop_path=0.5)
  z = tower(images(), keys())
  alone = tower(images()[2:3], keys()[2:3])
  np.testing.assert_allclose(z[2:3], alone, rtol=1e-5, atol=1e-5)


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
  x = jnp.ones((64, 16, 32))
  y = dropout.dropout(x, 0.25, keys(64), 0)
  np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
  assert abs(float(y.mean()) - 1) < 0.02
  assert dropout.dropout(x, 0.25, None, 0) is x


def test_a_causal_tower_does_not_see_what_comes_later():
  tower = text_tower(causal=True, pool="first")
  a = tokens()
  b = a.at[:, 1:].set(7)
  np.testing.assert_array_equal(tower(a), tower(b))
  both_ways = text_tower(causal=False, pool="first")
  assert not np.allclose(both_ways(a), both_ways(b), atol=1e-4)


def test_eos_pooling_takes_the_first_eos_and_ignores_what_follows():
  tower = text_tower(causal=True, pool="eos")
  a = tokens().at[:, 4].set(1)
  b = a.at[:, 5:].set(1)
  np.testing.assert_array_equal(tower(a), tower(b))
  last = text_tower(causal=True, pool="last")(a[:, :5])
  np.testing.assert_allclose(tower(a), last, rtol=1e-5, atol=1e-6)


def test_patches_are_cut_row_by_row():
  image = jnp.arange(4 * 4 * 3.0).reshape(1, 4, 4, 3)
  cut = patches.patchify(image, 2)
  np.testing.assert_array_equal(cut[0, 1].reshape(2, 2, 3), image[0, :2, 2:])


def test_pixels_are_normalized_on_the_device():
  tower = image_tower(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
  floats = (images() / jnp.float32(255)) - jnp.asarray([[[[0.5, 0.4, 0.3]]]])
  floats = floats / jnp.asarray([[[[0.2, 0.3, 0.4]]]])
  np.testing.assert_allclose(
    tower(images()), tower(floats), rtol=1e-4, atol=1e-5
  )


def test_flops_of_b16_are_the_published_ones():
  tower = nnx.eval_shape(
    lambda: vit.ImageTower("B/16", 224, pool="tok", rngs=nnx.Rngs(0))
  )
  # ViT-B/16 at 224: 17.6 GMAC forward as timm counts it, two FLOPs each.
  assert abs(tower.flops(train=False) / 2 / 17.58e9 - 1) < 0.01


@pytest.mark.parametrize(
  ("build", "field"),
  [
    (lambda: image_tower(variant="B"), "variant"),
    (lambda: image_tower(variant="X/8"), "variant"),
    (lambda: image_tower(variant="mu/7"), "res"),
    (lambda: image_tower(keep=0.0), "keep"),
    (lambda: image_tower(heads=5), "heads"),
    (lambda: image_tower(width=6, heads=2, pos="sincos2d"), "width"),
    (lambda: image_tower(remat="everything"), "remat"),
    (lambda: text_tower(pool="eos", eos_id=None), "pool"),
    (lambda: text_tower(pool="last", pad_id=0), "pool"),
  ],
)
def test_a_wrong_field_is_named(build, field):
  with pytest.raises(errors.UserError, match=field) as e:
    build()
  assert "\n" not in str(e.value)


def test_mocos_patches_are_drawn_from_a_uniform_distribution():
  """arXiv:2104.02057's code: within sqrt(6 / (3 p^2 + width)), no bias."""
  kwargs = dict(pos="sincos2d_moco", pool="tok", patch_init="xavier_uniform")
  embed = vit.ImageTower("Ti/16", 32, **kwargs, rngs=nnx.Rngs(0)).embed
  kernel, bound = np.asarray(embed.kernel[...]), np.sqrt(6 / (768 + 192))
  assert 0.999 * bound < np.abs(kernel).max() <= bound
  # Of 147,456 numbers: five standard errors.
  np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.006)
  assert not np.asarray(embed.bias[...]).any()
