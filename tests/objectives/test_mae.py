"""MAE against a float64 formula, and what its mask and its targets are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive import objectives
from big_contrastive.config import errors, rules
from big_contrastive.models import Features, build
from big_contrastive.models.heads import patch_decoder
from big_contrastive.models.image import vit
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
  return np.asarray(vit.draw_patches(jnp.stack(keys), PATCHES, KEPT / PATCHES))


def test_loss_and_gradient_are_those_of_the_formula(alone):
  loss, grads = alone
  kept = drawn()
  with jax.enable_x64(True):
    p = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), first(make()))
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
