"""MAE against a float64 formula, and what its mask and its targets are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive import objectives
from big_contrastive.config import errors, rules
from big_contrastive.models import Features, build, patches
from big_contrastive.models.heads import patch_decoder
from big_contrastive.objectives import mae
from big_contrastive.parallel import sharding

BATCH, SIDE, PATCH, MASK = 16, 4, 4, 0.7
PATCHES, KEPT = SIDE**2, 4
IMAGE = {
  "variant": f"mu/{PATCH}", "res": SIDE * PATCH, "width": 16, "mlp": 32,
  "pool": "tok", "pos": "sincos2d_mae", "activation": "gelu",
}  # fmt: skip
DECODER = {"name": "patch_decoder", "width": 12, "depth": 1, "heads": 3}


def make(devices=1, micro_batch=None, decoder=DECODER, mask=MASK, **image):
  """The objective of tiny towers."""
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  sections = {"image": IMAGE | image, "heads": {"decoder": decoder}}
  model = build.build_model(sections, None, sharding.pin(mesh))
  views = {"view": 1}
  setting = objectives.Setting(model, mesh, BATCH, micro_batch, 10, views)
  return mae.build(setting, mask=mask)


def pictures():
  r = np.random.default_rng(0)
  return r.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8)


def first(method):
  """Initial parameters, none of which is 0 or 1 by rule."""
  r, params = np.random.default_rng(1), method.init(jax.random.key(0))
  return jax.tree.map(
    lambda x: np.asarray(x) + 0.1 * r.standard_normal(x.shape).astype("f4"),
    params,
  )


def differentiated(method):
  """The loss and its gradient, by all of the machinery."""
  mesh = method.setting.mesh
  batch = sharding.to_global({"view": pictures()[:, None]}, BATCH, mesh)
  rng = jax.random.key(7)

  def loss(params, batch):
    return method(params, {}, batch, rng, 0)[0]

  return jax.device_get(jax.jit(jax.value_and_grad(loss))(first(method), batch))


@pytest.fixture(scope="module")
def alone():
  return differentiated(make())


# --- The formula, float64, patch by patch. ---


def table(side, width):
  """MAE's positions: the column first."""
  made = np.zeros((side * side, width))
  for i in range(side * side):
    for j, place in enumerate((i % side, i // side)):
      for k in range(width // 4):
        angle = place * 10_000 ** (-k / (width // 4))
        made[i, j * width // 2 + k] = np.sin(angle)
        made[i, j * width // 2 + width // 4 + k] = np.cos(angle)
  return made


def dense(p, x):
  kernel = p["kernel"].reshape(x.shape[-1], -1)
  return x @ kernel + p["bias"].reshape(1, -1)


def norm(p, x):
  x = x - x.mean(-1, keepdims=True)
  x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * p["scale"][None] + p["bias"][None]


def blocks(p, x):
  """Pre-norm blocks over one sequence [l, w], and the last norm."""
  for i in range(len(p["blocks"]["norm1"]["scale"])):
    b = jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"])
    y, at = norm(b["norm1"], x), b["attention"]
    heads, width = at["query"]["kernel"].shape[1:]
    q, k, v = (
      dense(at[n], y).reshape(-1, heads, width)
      for n in ("query", "key", "value")
    )
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k) / width**0.5)
    y = jnp.einsum("hqk,khd->qhd", weights, v).reshape(len(x), -1)
    out = at["out"] | {"kernel": at["out"]["kernel"].reshape(heads * width, -1)}
    x = x + dense(out, y)
    y = jax.nn.gelu(dense(b["mlp"]["fc1"], norm(b["norm2"], x)), False)
    x = x + dense(b["mlp"]["fc2"], y)
  return norm(p["norm"], x)


def cut(image):
  """Patches row by row: their pixels as the tower takes them."""
  patches = []
  for row in range(SIDE):
    for column in range(SIDE):
      part = image[row * PATCH :, column * PATCH :][:PATCH, :PATCH]
      patches.append(part.reshape(-1) / 127.5 - 1)
  return np.stack(patches)


def formula(p, kept):
  """The mean over all masked patches of the batch of their mean error."""
  width = p["decoder"]["mask_token"].shape[0]
  patches = np.stack([cut(image) for image in pictures().astype(float)])
  masked, targets = np.ones((BATCH, PATCHES)), np.zeros_like(patches)
  for image, seen in enumerate(kept):
    masked[image, seen] = 0
    for i, t in enumerate(patches[image]):
      std = np.sqrt(((t - t.mean()) ** 2).sum() / (t.size - 1) + 1e-6)
      targets[image, i] = (t - t.mean()) / std

  def error(patches, one_hot, masked, targets):
    x = dense(p["img"]["embed"], one_hot @ patches)
    x = jnp.concatenate([p["img"]["cls"][None], x + one_hot @ table(SIDE, 16)])
    x = dense(p["decoder"]["embed"], blocks(p["img"]["encoder"], x))
    y = one_hot.T @ x[1:] + masked[:, None] * p["decoder"]["mask_token"][None]
    y = jnp.concatenate([x[:1], y + table(SIDE, width)])
    y = blocks(p["decoder"]["transformer"], y)
    told = dense(p["decoder"]["pixels"], y[1:])
    return (((told - targets) ** 2).mean(-1) * masked).sum()

  one_hot = np.eye(PATCHES)[kept]
  return jax.vmap(error)(patches, one_hot, masked, targets).sum() / masked.sum()


def drawn():
  """The patches that are kept, as FLIP draws them."""
  keys = [jax.random.fold_in(jax.random.key(7), i) for i in range(BATCH)]
  return np.asarray(
    patches.draw_patches(jnp.stack(keys), PATCHES, KEPT / PATCHES)
  )


def test_loss_and_gradient_are_those_of_the_formula(alone):
  loss, grads = alone
  kept, params = drawn(), first(make())  # It would draw others there.
  with jax.enable_x64(True):
    p = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    value = jax.jit(jax.value_and_grad(lambda p: formula(p, kept)))
    wanted, slopes = value(p)
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)
  flat, slopes = rules.flatten(grads), rules.flatten(jax.device_get(slopes))
  for name, slope in slopes.items():
    np.testing.assert_allclose(
      flat[name], slope, rtol=2e-4, atol=2e-6, err_msg=name
    )
    # A shift of all keys' logits moves nothing.
    assert np.abs(slope).max() > 1e-5 or name.endswith("key/bias"), name


@pytest.mark.parametrize(("devices", "micro_batch"), [(8, None), (2, 8)])
def test_devices_and_micro_batches_change_nothing(devices, micro_batch, alone):
  loss, grads = differentiated(make(devices, micro_batch))
  np.testing.assert_allclose(loss, alone[0], rtol=1e-6)
  chex.assert_trees_all_close(grads, alone[1], rtol=1e-4, atol=1e-6)


# --- The mask and the targets, without a tower. ---


def said(method, told, monkeypatch):
  """The loss where the decoder says that of patches, [b, l, p]."""
  monkeypatch.setattr(
    patch_decoder.PatchDecoder, "__call__", lambda *_: jnp.asarray(told)
  )
  monkeypatch.setattr(
    "big_contrastive.models.image.vit.ImageTower.features",
    lambda self, image, keys, kept: Features(None, None),
  )
  batch = {"view": jnp.asarray(pictures()[:, None])}
  params = jax.eval_shape(method.init, jax.random.key(0))
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
  loss, (metrics, _) = method(zeros, {}, batch, jax.random.key(7), 0)
  assert metrics.keys() == {"loss"}
  return float(loss)


def test_the_loss_is_of_masked_patches_alone(monkeypatch):
  method, r = make(), np.random.default_rng(2)
  told = r.standard_normal((BATCH, PATCHES, 48)).astype("f4")
  visible = np.zeros((BATCH, PATCHES, 1), bool)
  np.put_along_axis(visible, drawn()[:, :, None], True, axis=1)
  other = np.where(visible, 9 * told + 1, told)
  assert said(method, other, monkeypatch) == said(method, told, monkeypatch)
  other = np.where(visible, told, 1.01 * told)
  assert said(method, other, monkeypatch) != said(method, told, monkeypatch)


@pytest.mark.parametrize("normalize", [True, False])
def test_zeros_have_the_mean_square_of_the_targets(normalize, monkeypatch):
  method = make(decoder=DECODER | {"normalize": normalize})
  squares = []
  for image, seen in zip(pictures().astype(float), drawn(), strict=True):
    for i, t in enumerate(cut(image)):
      if normalize:
        t = (t - t.mean()) / np.sqrt(t.var(ddof=1) + 1e-6)
      squares += [] if i in seen else [(t**2).mean()]
  told = np.zeros((BATCH, PATCHES, 48), "f4")
  loss = said(method, told, monkeypatch)
  np.testing.assert_allclose(loss, np.mean(squares), rtol=1e-5)
  if normalize:  # The unbiased variance of a patch's 48 values is 1.
    np.testing.assert_allclose(method.chance, 47 / 48)
    np.testing.assert_allclose(loss, method.chance, rtol=1e-5)
  else:
    assert method.chance is None


def test_patches_and_targets_go_back_to_the_image():
  decoder = make().setting.model.make(jax.random.key(0)).decoder
  true = decoder.patches(jnp.asarray(pictures()))
  np.testing.assert_allclose(true[3], cut(pictures()[3]), atol=1e-6)
  back = decoder.restored(decoder.targets(true), true)
  np.testing.assert_allclose(
    decoder.image(back) * 255, pictures(), rtol=0, atol=1e-3
  )


def test_a_token_goes_to_its_own_place():
  """In any order; and where there is none, the mask token stands."""
  decoder = make().setting.model.make(jax.random.key(0)).decoder
  seen = []
  decoder.transformer = lambda x: seen.append(x) or x
  r = np.random.default_rng(0)
  tokens = jnp.asarray(r.standard_normal((2, 1 + KEPT, 16)), "float32")
  kept = np.array([[3, 7, 8, 15], [12, 0, 5, 9]])
  decoder(tokens, jnp.asarray(kept))
  (x,), small = seen, decoder.embed(tokens)
  x = np.asarray(x - np.pad(table(SIDE, 12), ((1, 0), (0, 0)))[None])
  np.testing.assert_array_equal(x[:, 0], small[:, 0])
  for row in range(2):
    at = kept[row] + 1
    np.testing.assert_allclose(x[row, at], small[row, 1:], atol=1e-6)
    rest = np.delete(x[row], [0, *at], axis=0)
    assert len(rest) == PATCHES - KEPT
    token = np.tile(decoder.mask_token[...], (len(rest), 1))
    np.testing.assert_allclose(rest, token, atol=1e-6)


@pytest.mark.parametrize(
  ("mask", "count", "kept"),
  # int() of the official code, of a float too small by rounding as well.
  [(0.75, 196, 49), (0.7, 196, 58), (0.9, 100, 9), (0.75, 49, 12), (0.6, 5, 2)],
)
def test_as_many_patches_are_seen_as_in_the_official_code(mask, count, kept):
  assert patch_decoder.seen(mask, count) == kept
  key = jax.ShapeDtypeStruct((1,), jax.random.key(0).dtype)
  drawn = jax.eval_shape(
    lambda keys: patches.draw_patches(keys, count, kept / count), key
  )
  assert drawn.shape == (1, kept)


def test_the_official_code_draws_the_first_weights_so():
  image = {"width": 96, "mlp": 384, "heads": 3}
  params = make(**image).init(jax.random.key(0))
  flat = rules.flatten(params)
  for part, width in (("img/encoder", 96), ("decoder/transformer", 12)):
    block = f"{part}/blocks"
    for name, outputs in (
      ("attention/query", 3 * width), ("attention/value", 3 * width),
      ("attention/out", width), ("mlp/fc1", 4 * width),
    ):  # fmt: skip
      most = np.abs(flat[f"{block}/{name}/kernel"]).max()
      bound = (6 / (width + outputs)) ** 0.5
      assert 0.95 * bound < most <= bound, name
  assert 0.015 < flat["img/cls"].std() < 0.025
  assert 0.01 < flat["decoder/mask_token"].std() < 0.03


def test_flops_are_those_of_a_quarter_of_the_patches_and_the_decoder():
  """ViT-B/16 at 224: multiply-adds of every product, one after the other."""
  image = {"variant": "B/16", "res": 224, "width": None, "mlp": None}
  method = make(decoder={"name": "patch_decoder"}, mask=0.75, **image)

  def blocks(depth, length, w):
    products = 3 * length * w * w, 2 * length * length * w, length * w * w
    return depth * (sum(products) + 2 * length * w * 4 * w)

  encoder = 49 * 768 * 768 + blocks(12, 50, 768)
  decoder = 50 * 768 * 512 + blocks(8, 197, 512) + 196 * 512 * 768
  assert method.flops() == 3 * 2 * (encoder + decoder)
  frozen = {k for k in rules.flatten(method.setting.model.shapes) if "img" in k}
  assert method.freeze(frozenset(frozen)).flops() == 2 * (encoder + 3 * decoder)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"mask": 0.95}, "mask = 0.95; expected a part that leaves 1 to 15 of 16"),
    ({"mask": 0.0}, "mask = 0.0;"),
    ({"keep": 0.5}, "config.model.image.keep = 0.5; expected 1"),
    ({"pool": "map"}, "config.model.image.pool = 'map'; expected \"tok\""),
    ({"decoder": DECODER | {"heads": 5}}, "decoder.heads = 5; expected a div"),
    (
      {"decoder": DECODER | {"depth": 0}},
      "decoder.depth = 0; expected a whole",
    ),
    ({"decoder": DECODER | {"on": "b"}}, "decoder.on = 'b'"),
    ({"decoder": {"name": "mlp", "out_dim": 4}}, "heads.decoder = 'Mlp'"),
  ],
)
def test_a_wrong_field_is_one_line(fields, said):
  with pytest.raises(errors.UserError, match=said):
    make(**fields)


def test_a_vit_is_needed_and_one_view_and_a_decoder():
  image = {"tower": "convnet", "res": 16, "widths": [8], "depths": [1]}
  with pytest.raises(errors.UserError, match="config.model.image = 'ConvNet'"):
    build.build_model({"image": image, "heads": {"decoder": DECODER}})
  setting = make().setting
  for views in ({}, {"a": 2}, {"a": 1, "b": 1}):
    with pytest.raises(errors.UserError, match="config.views.*one view"):
      mae.build(objectives.Setting(setting.model, setting.mesh, 4, views=views))
  model = build.build_model({"image": IMAGE})
  with pytest.raises(errors.UserError, match="heads.decoder is missing"):
    mae.build(objectives.Setting(model, setting.mesh, 4, views={"a": 1}))
