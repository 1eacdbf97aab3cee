"""MAE's weights in both layouts, and beside transformers and timm."""

import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import peers
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.interop import model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.mae import weights
from big_contrastive.models import build
from big_contrastive.models.model import merge

IMAGE = {
  "variant": "mu/4", "res": 16, "width": 24, "depth": 2, "heads": 3,
  "pool": "tok", "pos": "sincos2d_mae", "activation": "gelu",
  "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25],
}  # fmt: skip
DECODER = {"name": "patch_decoder", "width": 16, "depth": 1, "heads": 2}


def filled(decoder=DECODER, **image):
  """A random tower and its decoder."""
  model = {"image": IMAGE | image, "heads": {"decoder": decoder}}
  r, shapes = np.random.default_rng(0), build.build_model(model).shapes
  flat = {
    name: (0.3 * r.standard_normal(leaf.shape)).astype("f4")
    for name, leaf in rules.flatten(shapes).items()
  }
  return ModelBundle(
    model, rules.unflatten(flat), image=[["resize", {"size": [16, 16]}]]
  )


def same(a, b):
  flat = rules.flatten(b.params)
  for name, value in rules.flatten(a.params).items():
    np.testing.assert_array_equal(value, flat.pop(name), err_msg=name)
  assert not flat


def test_query_key_and_value_are_one_matrix_as_in_the_official_code(tmp_path):
  model = filled()
  model_files.write(model, tmp_path / "m.safetensors", "mae")
  stored = safetensors.numpy.load_file(tmp_path / "m.safetensors")
  assert stored["blocks.1.attn.qkv.weight"].shape == (72, 24)
  block = model.params["img"]["encoder"]["blocks"]["attention"]
  key = block["key"]["kernel"][1].reshape(24, 24).T
  np.testing.assert_array_equal(stored["blocks.1.attn.qkv.weight"][24:48], key)
  assert stored["pos_embed"].shape == (1, 17, 24)
  assert not stored["pos_embed"][0, 0].any()
  assert stored["decoder_blocks.0.mlp.fc1.weight"].shape == (64, 16)


def test_a_state_dict_of_a_published_width_needs_no_config(tmp_path):
  image = {"variant": "B/4", "width": None, "heads": None, "depth": 1}
  model = filled(DECODER | {"heads": 16}, **image)
  arrays = weights.write("official", model.model, rules.flatten(model.params))
  safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
  found = model_files.read(tmp_path / "m.safetensors")
  same(model, found)
  assert found.model["image"]["mean"] == [0.485, 0.456, 0.406]
  assert found.build().abstract.decoder.normalize


def test_an_encoder_alone_is_read(tmp_path):
  model = filled()
  model_files.write(model, tmp_path / "m", "vit_mae")
  path = tmp_path / "m/model.safetensors"
  stored = safetensors.numpy.load_file(path)
  encoder = {
    k.removeprefix("vit."): v for k, v in stored.items() if k.startswith("vit.")
  }
  safetensors.numpy.save_file(encoder, path)
  found = model_files.read(tmp_path / "m")
  assert found.params.keys() == {"img"} and "heads" not in found.model


def test_another_table_of_positions_is_refused(tmp_path):
  model = filled()
  model_files.write(model, tmp_path / "m", "vit_mae")
  path = tmp_path / "m/model.safetensors"
  stored = safetensors.numpy.load_file(path)
  stored["vit.embeddings.position_embeddings"] += 0.01
  safetensors.numpy.save_file(stored, path)
  with pytest.raises(errors.UserError, match="position_embeddings of .*others"):
    model_files.read(tmp_path / "m")


@pytest.mark.parametrize("format", ["mae", "vit_mae"])
@pytest.mark.parametrize(
  ("image", "decoder", "said"),
  [
    ({"pos": "sincos2d"}, DECODER, "model.image.pos = 'sincos2d'"),
    ({"pool": "gap"}, DECODER, "model.image.pool = 'gap'"),
    ({}, DECODER | {"eps": 1e-5}, "heads.decoder.eps = 1e-05"),
    ({}, {"name": "mlp", "out_dim": 4}, "heads.decoder.name = 'mlp'"),
  ],
)
def test_what_they_would_compute_otherwise_is_not_written(
  image, decoder, said, format, tmp_path
):
  model = filled(decoder, **image)
  with pytest.raises(errors.UserError, match=said):
    model_files.write(model, tmp_path / "m.safetensors", format)


def test_the_official_code_has_one_epsilon(tmp_path):
  model = filled(DECODER | {"eps": 1e-5}, eps=1e-5)
  model_files.write(model, tmp_path / "m", "vit_mae")  # Its config says it.
  with pytest.raises(errors.UserError, match="model.image.eps = 1e-05"):
    model_files.write(model, tmp_path / "m.safetensors", "mae")


def test_a_state_dict_of_another_width_is_refused(tmp_path):
  model = filled()
  arrays = weights.write("official", model.model, rules.flatten(model.params))
  safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
  with pytest.raises(errors.UserError, match="patch_embed of .* = 24; .*768"):
    model_files.read(tmp_path / "m.safetensors")


# --- Beside other libraries. ---


def told(bundle, images, kept):
  """What our decoder tells, and the loss of masked patches."""
  built = bundle.build()
  model = merge(built.graph, bundle.params)
  images, kept = jnp.asarray(images), jnp.asarray(kept)
  said = model.decoder(model.img.features(images, None, kept).tokens, kept)
  targets = model.decoder.targets(model.decoder.patches(images))
  masked = np.ones(said.shape[:2])
  np.put_along_axis(masked, np.asarray(kept), 0, axis=1)
  errors = np.square(np.asarray(said - targets)).mean(-1)
  return np.asarray(said), (errors * masked).sum() / masked.sum()


@pytest.mark.peers
@pytest.mark.parametrize("norm_pix", [True, False])
def test_transformers_tells_the_same_patches(norm_pix, tmp_path):
  torch = peers.torch()
  transformers = pytest.importorskip("transformers")
  config = transformers.ViTMAEConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=128, image_size=16, patch_size=4, decoder_hidden_size=16,
    decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
    decoder_intermediate_size=64, norm_pix_loss=norm_pix,
  )  # fmt: skip
  model = peers.randomise(transformers.ViTMAEForPreTraining(config))
  with torch.no_grad():  # By sharper attention rounding becomes 3e-5.
    for p in model.parameters():
      p.mul_(0.5 if p.ndim == 2 else 1)
  # Its own drawing of these is skipped in 5.23, which leaves zeros.
  module = importlib.import_module(type(model).__module__)
  for table in (
    model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed
  ):  # fmt: skip
    row_first = module.build_2d_sinusoidal_position_embedding(
      4, 4, embed_dim=table.shape[-1], cls_token=True
    )
    halves = row_first.chunk(2, dim=-1)[::-1]
    table.data.copy_(torch.cat(halves, dim=-1)[None])
  model.save_pretrained(tmp_path / "theirs")
  ours = model_files.read(tmp_path / "theirs")
  images, _ = peers.inputs(16, 9, 2)
  noise = np.random.default_rng(3).random((len(images), 16)).astype("f4")
  stats = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  pixels = peers.pixels(images, *stats)
  with torch.no_grad():
    wanted = model(pixels, noise=torch.from_numpy(noise))
  said, loss = told(ours, images, np.argsort(noise, axis=1)[:, :4])
  np.testing.assert_allclose(said, wanted.logits, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(loss, wanted.loss, rtol=1e-5)
  # And back: nothing is missing or unknown to their class.
  model_files.write(ours, tmp_path / "ours", "vit_mae")
  written = json.loads((tmp_path / "ours/config.json").read_text())
  assert written["norm_pix_loss"] == norm_pix
  again, info = transformers.ViTMAEForPreTraining.from_pretrained(
    tmp_path / "ours", output_loading_info=True
  )
  assert not any(info.values()), info
  for name, tensor in model.state_dict().items():
    np.testing.assert_allclose(
      again.state_dict()[name], tensor, atol=1e-6, err_msg=name
    )
  # The command compares the class token's vectors with theirs.
  told_of = convert.convert(str(tmp_path / "theirs"), str(tmp_path / "run"))
  assert told_of["source, in its own library: image"] < 1e-5


@pytest.mark.peers
def test_timm_takes_the_encoder_of_the_official_layout():
  torch = peers.torch()
  timm = pytest.importorskip("timm")
  model = filled()
  arrays = weights.write("official", model.model, rules.flatten(model.params))
  encoder = {
    k: torch.from_numpy(v.copy())
    for k, v in arrays.items()
    if "decoder" not in k and k != "mask_token"
  }
  theirs = timm.models.VisionTransformer(
    img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3,
    mlp_ratio=128 / 24, num_classes=0,
  ).eval()  # fmt: skip
  theirs.load_state_dict(encoder)
  images, _ = peers.inputs(16, 9, 2)
  with torch.no_grad():
    wanted = theirs.forward_features(
      peers.pixels(images, IMAGE["mean"], IMAGE["std"])
    )
  built = model.build()
  tokens = merge(built.graph, model.params).img.features(jnp.asarray(images))
  np.testing.assert_allclose(tokens.tokens, wanted, rtol=1e-5, atol=1e-5)
