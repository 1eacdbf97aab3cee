"""What the class token attends to: weights of the last block, and a picture."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import planted
from big_contrastive.config import errors
from big_contrastive.data.transforms import operations
from big_contrastive.evals import attention
from big_contrastive.inference.embedder import Embedder
from big_contrastive.inference.model import Model
from big_contrastive.models import build
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding

R = np.random.default_rng(0)
PICTURES = R.integers(0, 256, (3, 20, 24, 3), np.uint8)
SOURCE = [{"image": x, "id": i} for i, x in enumerate(PICTURES)]
SQUARE = [("resize", {"size": 32})]


def embedder(**changes):
  """An embedder with attention far from uniform, and its parameters."""
  section = {"variant": "mu/8", "res": 32, "pool": "tok", "cls_pos": True}
  section |= {"depth": 2} | changes
  built = build.build_model({"image": section})
  params = built.init(jax.random.key(0))
  if "encoder" in params["img"]:
    weights = params["img"]["encoder"]["blocks"]["attention"]
    weights["query"]["kernel"] = 30 * weights["query"]["kernel"]
  image = operations.parse(SQUARE, "x", train=False)
  mesh = sharding.make_mesh()
  return Embedder(built.graph, mesh, None, image, 8, 2), params


def bound(**changes):
  made, params = embedder(**changes)
  return made.bound(params)


@pytest.fixture(scope="module")
def small():
  return embedder()


def by_hand(params, tower, images):
  """The last block's softmax in float64, of the first block's result."""
  x, _ = tower._tokens(jnp.asarray(images), None)
  first, last = (
    jax.tree.map(lambda p, i=i: p[i], tower.encoder.blocks) for i in (0, 1)
  )
  x = np.float64(last.norm1(first(x, False, lambda y, _: y)))
  heads = params["img"]["encoder"]["blocks"]["attention"]
  query, key = (
    np.einsum("blw,whk->bhlk", x, np.float64(heads[name]["kernel"][1]))
    + np.float64(heads[name]["bias"][1])[:, None]
    for name in ("query", "key")
  )
  logits = np.einsum("bhk,bhlk->bhl", query[:, :, 0], key)
  weights = np.exp(logits / np.sqrt(query.shape[-1]))
  return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("res", [None, 48])
def test_the_weights_are_the_last_blocks_at_any_resolution(res, small):
  made, params = small
  seen, weights = made.bound(params).attention(SOURCE, res)
  side = (res or 32) // 8
  assert weights.shape == (3, 2, side, side) and weights.dtype == np.float32
  resized = operations.parse([("resize", {"size": res or 32})], "x", False)
  np.testing.assert_array_equal(seen, [resized(x) for x in PICTURES])
  want = by_hand(params, merge(made.graph, params).img, seen)[:, :, 1:]
  np.testing.assert_allclose(
    weights.reshape(3, 2, -1), want, rtol=1e-4, atol=1e-6
  )
  assert weights.max() > 10 * np.median(weights)
  none = made.bound(params).attention([], res)
  assert [x.shape[1:] for x in none] == [seen.shape[1:], weights.shape[1:]]
  by_user = Model(made, params).attention(list(PICTURES), res)
  np.testing.assert_array_equal(by_user, weights)


class Unread(planted.Data):
  def __getitem__(self, i):
    raise AssertionError("read")


@pytest.mark.parametrize(
  ("changes", "res", "said"),
  [
    ({"pool": "map", "cls_pos": False}, None, r"image\.pool = 'map'; expected"),
    ({"pool": "gap", "cls_pos": False}, None, r"image\.pool = 'gap'; expected"),
    ({}, 20, r"size of images = \(20, 20\).*patch side 8"),
    ({}, 0, "res = 0; expected"),
  ],
)
def test_what_can_not_be_shown_is_an_error_before_any_work(changes, res, said):
  unread = Unread(np.zeros((3, 3)))
  with pytest.raises(errors.UserError, match=said):
    bound(**changes).attention(unread, res)


def test_a_tower_that_is_no_vit_is_named():
  model = build.build_model({"image": {"tower": "convnet", "res": 32}})
  tower = model.make(jax.random.key(0))
  with pytest.raises(
    errors.UserError, match="tower = 'ConvNet'; expected a ViT"
  ):
    tower.attention(jnp.zeros((1, 32, 32, 3), jnp.uint8))


@pytest.mark.parametrize("mass", [0.1, 0.6, 1.0])
def test_the_fewest_patches_with_that_share_are_kept(mass):
  weights = R.random((5, 7))
  found = attention.kept(weights, mass)
  share = weights / weights.sum()
  assert share[found].sum() >= mass - 1e-9
  assert share[found].sum() - share[found].min() < mass
  assert found.all() or share[found].min() >= share[~found].max()


def test_the_picture_is_light_where_the_attention_is():
  images = np.full((2, 16, 16, 3), 200, np.uint8)
  weights = np.full((2, 3, 2, 2), 0.01, np.float32)
  weights[0, :, 0, 1], weights[1, :, 1, 0] = 0.9, 0.9
  sheet = np.asarray(attention.sheet(images, weights, 0.6))
  side, gap = attention._SIDE, attention._GAP
  step, half = side + gap, side // 2
  assert sheet.shape == (gap + 4 * step, gap + 5 * step, 3)
  for row, (i, j) in enumerate([(0, 1), (1, 0)]):
    for column in range(1, 5):
      x, y = gap + column * step, gap + 2 * row * step
      heat, part = (
        sheet[top : top + side, x : x + side].reshape(2, half, 2, half, 3)
        for top in (y, y + step)
      )
      assert (heat[i, :, j] == 255).all() and (heat[1 - i, :, j] < 20).all()
      assert (part[i, :, j] == 200).all() and (part[1 - i, :, j] == 40).all()


def test_the_evaluator_draws_some_of_the_images(small):
  made, params = small
  run = attention.prepare(planted.Data(np.zeros((5, 3))), rows=2)
  ((name, picture),) = run(made.bound(params))
  assert name == "attention" and isinstance(picture, PIL.Image.Image)
  step = attention._SIDE + attention._GAP
  assert picture.size == tuple(attention._GAP + 4 * step for _ in range(2))


@pytest.mark.parametrize(
  ("field", "value"), [("rows", 0), ("res", 0), ("mass", 0.0), ("mass", 1.1)]
)
def test_a_wrong_field_of_the_evaluator_is_named(field, value):
  with pytest.raises(errors.UserError, match=f"{field} = "):
    attention.prepare(planted.Data(np.zeros((3, 3))), **{field: value})
