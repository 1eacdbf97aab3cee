"""Pictures of reconstructions, and their loss, by a decoder of patches."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import planted
from big_contrastive.config import errors
from big_contrastive.data.transforms import operations
from big_contrastive.evals import reconstruction
from big_contrastive.inference import embedder
from big_contrastive.inference import reconstruction as inference
from big_contrastive.models import Features, build
from big_contrastive.models.model import merge
from big_contrastive.models.patches import draw_patches, patchify
from big_contrastive.parallel import sharding

IMAGE = {
  "variant": "mu/4", "res": 16, "width": 16, "mlp": 16, "pool": "gap",
  "pos": "sincos2d_mae",
}  # fmt: skip
DECODER = {"name": "patch_decoder", "width": 8, "depth": 1, "heads": 1}


class Pictures(planted.Data):
  def __getitem__(self, i):
    image = np.random.default_rng(i).integers(0, 256, (16, 16, 3))
    return super().__getitem__(i) | {"image": image.astype(np.uint8)}


def embed(**heads):
  built = build.build_model({"image": IMAGE, "heads": heads})
  mesh = sharding.make_mesh(devices=jax.devices()[:2])
  ops = operations.parse([("resize", {"size": 16})], "", train=False)
  made = embedder.Embedder(built.graph, mesh, None, ops, 8, 1)
  return built, made.bound(built.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def one():
  source = Pictures(np.zeros((11, 2)))
  run = reconstruction.prepare(source, rows=2, columns=2, seed=3)
  built, model = embed(decoder=DECODER)
  return source, built, model, dict(run(model))


def test_the_loss_is_that_of_masked_patches_whatever_the_batch(one):
  source, built, _, found = one
  model = merge(built.graph, built.init(jax.random.key(0)))
  numbers = jnp.arange(len(source))
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(numbers)
  image = jnp.stack([source[i]["image"] for i in range(len(source))])
  kept = draw_patches(keys, 16, 4 / 16)
  told = model.decoder(model.img.features(image, None, kept).tokens, kept)
  losses = []
  for i, patches in enumerate(np.asarray(patchify(image / 127.5 - 1, 4))):
    for j in {*range(16)} - {*np.asarray(kept[i]).tolist()}:
      t = patches[j] - patches[j].mean()
      t /= np.sqrt(patches[j].var(ddof=1) + 1e-6)
      losses.append(np.square(told[i, j] - t).mean())
  assert len(losses) == 11 * 12
  np.testing.assert_allclose(found["loss"], np.mean(losses), rtol=1e-5)


def test_the_pictures_show_the_image_what_is_seen_and_what_is_told(one):
  source, _, model, found = one
  shown = model.reconstruct(source, 0.75, 3, [2, 9]).pictures
  assert shown.keys() == {2, 9}
  for i, (original, seen, told) in shown.items():
    np.testing.assert_array_equal(original, source[i]["image"])
    cut = [np.asarray(patchify(jnp.asarray(x)[None], 4))[0] for x in
           (original, seen, told)]  # fmt: skip
    gray = (cut[1] == 128).all(axis=1)
    assert gray.sum() == 12
    np.testing.assert_array_equal(cut[1][~gray], cut[0][~gray])
    np.testing.assert_array_equal(cut[2][~gray], cut[0][~gray])
    # Normalized targets: the true mean of a patch, here of its three colors.
    assert (cut[2][gray] != cut[0][gray]).mean() > 0.9
    mean = cut[2][gray].mean(axis=1) - cut[0][gray].mean(axis=1)
    assert np.abs(mean).max() < 60
  sheet = found["reconstructions"]
  assert isinstance(sheet, PIL.Image.Image)
  assert sheet.size == (2 * (3 * 112 + 16), 2 * (112 + 8))


def test_what_is_told_exactly_is_the_image(monkeypatch):
  """Normalized targets go back by the patch's own mean and deviation."""
  built, _ = embed(decoder=DECODER)
  model = merge(built.graph, built.init(jax.random.key(0)))
  image = jnp.asarray(Pictures(np.zeros((1, 2)))[0]["image"])[None]
  targets = model.decoder.targets(model.decoder.patches(image))
  decoder, tower = type(model.decoder), type(model.img)
  monkeypatch.setattr(decoder, "__call__", lambda *_: targets)
  none = Features(None, None)
  monkeypatch.setattr(tower, "features", lambda *_: none)
  keys = jax.random.split(jax.random.key(0), 1)
  loss, pictures = inference.told(model, image, keys, 4)
  np.testing.assert_allclose(loss, 0, atol=1e-10)
  np.testing.assert_array_equal(pictures[0, 2], image[0])


def test_a_model_without_a_decoder_and_wrong_arguments_are_refused(one):
  source, *_ = one
  with pytest.raises(errors.UserError, match="decoder is missing"):
    list(reconstruction.prepare(source)(embed()[1]))
  for wrong in ({"rows": 0}, {"columns": 0}):
    with pytest.raises(errors.UserError, match="= 0; expected a whole number"):
      reconstruction.prepare(source, **wrong)
  run = reconstruction.prepare(source, mask=0.99)
  with pytest.raises(errors.UserError, match="mask = 0.99"):
    list(run(one[2]))
