"""big_vision's .npz files, written here by their published layout."""

import flax.nnx as nnx
import jax
import numpy as np
import pytest

from big_contrastive import errors, tree
from big_contrastive.interop import big_vision
from big_contrastive.models import vit


def tower(pool):
  kwargs = {"depth": 3, "pool": pool, "rngs": nnx.Rngs(0)}
  return vit.ImageTower("mu/8", 32, **kwargs)


def layout(flat, scanned, prefix):
  """The arrays under big_vision's names and shapes (research note, end)."""
  out = {
    "embedding/kernel": flat["embed/kernel"].reshape(8, 8, 3, 32),
    "embedding/bias": flat["embed/bias"],
    "pos_embedding": flat["pos"][None],
  }
  for kind in ("scale", "bias"):
    out[f"Transformer/encoder_norm/{kind}"] = flat[f"encoder/norm/{kind}"]
  blocks = {}
  for kind in ("scale", "bias"):
    for i in (0, 1):
      name = f"encoder/blocks/norm{i + 1}/{kind}"
      blocks[f"LayerNorm_{i}/{kind}"] = flat[name]
  for kind in ("kernel", "bias"):
    for i in (0, 1):
      name = f"encoder/blocks/mlp/fc{i + 1}/{kind}"
      blocks[f"MlpBlock_0/Dense_{i}/{kind}"] = flat[name]
    for part in ("query", "key", "value", "out"):
      ours = flat[f"encoder/blocks/attention/{part}/{kind}"]
      blocks[f"MultiHeadDotProductAttention_0/{part}/{kind}"] = ours
  for name, stacked in blocks.items():
    if scanned:
      out[f"Transformer/encoderblock/{name}"] = stacked
    else:
      for i, one in enumerate(stacked):
        out[f"Transformer/encoderblock_{i}/{name}"] = one
  if "cls" in flat:
    out["cls"] = flat["cls"].reshape(1, 1, -1)
    out["head/kernel"] = np.zeros((32, 21843), np.float32)  # A classifier.
  if "head/probe" in flat:
    out["MAPHead_0/probe"] = flat["head/probe"][None]
    for kind in ("scale", "bias"):
      out[f"MAPHead_0/LayerNorm_0/{kind}"] = flat[f"head/norm/{kind}"]
    for kind in ("kernel", "bias"):
      for i in (0, 1):
        ours = flat[f"head/mlp/fc{i + 1}/{kind}"]
        out[f"MAPHead_0/MlpBlock_0/Dense_{i}/{kind}"] = ours
      for part in ("query", "key", "value", "out"):
        name = f"MAPHead_0/MultiHeadDotProductAttention_0/{part}/{kind}"
        out[name] = flat[f"head/attention/{part}/{kind}"]
  return {prefix + k: v for k, v in out.items()}


def parameters(pool):
  state = nnx.to_pure_dict(nnx.state(tower(pool)))
  r = np.random.default_rng(0)
  flat = tree.flatten(state)
  return {k: r.normal(size=v.shape).astype("f4") for k, v in flat.items()}


@pytest.mark.parametrize("prefix", ["", "img/", "params/img/"])
@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("pool", ["map", "tok", "gap"])
def test_both_layouts_and_every_root_are_read(pool, scanned, prefix, tmp_path):
  flat = parameters(pool)
  file = tmp_path / "vit.npz"
  arrays = layout(flat, scanned, prefix)
  if "img" in prefix:
    arrays[prefix.replace("img/", "t")] = np.zeros(1, np.float32)
  np.savez(file, **arrays)
  shapes = {k: v.shape for k, v in flat.items()}
  found = tree.flatten(big_vision.read_image_tower(str(file), shapes))
  assert found.keys() == flat.keys()
  jax.tree.map(np.testing.assert_array_equal, found, flat)


def test_more_than_nine_blocks_keep_their_order(tmp_path):
  names = {"encoder/blocks/norm1/scale": (12, 1)}
  arrays = {
    f"Transformer/encoderblock_{i}/LayerNorm_0/scale": np.full(1, i, "f4")
    for i in range(12)
  }
  np.savez(tmp_path / "a.npz", **arrays)
  found = big_vision.read_image_tower(str(tmp_path / "a.npz"), names)
  scale = found["encoder"]["blocks"]["norm1"]["scale"]
  assert scale.ravel().tolist() == list(range(12))


def test_what_is_missing_or_of_another_size_is_named(tmp_path):
  flat = parameters("map")
  arrays = layout(flat, False, "")
  shapes = {k: v.shape for k, v in flat.items()}
  file = str(tmp_path / "a.npz")
  with pytest.raises(errors.UserError, match="a.npz"):
    big_vision.read_image_tower(file, shapes)
  np.savez(file, **arrays)
  with pytest.raises(errors.UserError, match=r"img/pos .*\(16, 99\)"):
    big_vision.read_image_tower(file, shapes | {"pos": (16, 99)})
  del arrays["MAPHead_0/probe"]
  np.savez(file, **arrays)
  with pytest.raises(errors.UserError, match="img/head/probe = 'missing'"):
    big_vision.read_image_tower(file, shapes)
