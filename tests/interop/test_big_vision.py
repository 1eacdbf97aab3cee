"""big_vision's .npz files, written here by their published layout.

The layout is that of research notes on the released checkpoints: names and
shapes as functions of the sizes, not of our tables.
"""

import logging
import math
import pathlib

import ml_dtypes
import numpy as np
import pytest

from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.interop import mapping, model_files, sections
from big_contrastive.interop.big_vision import weights as big_vision_weights
from big_contrastive.interop.formats import big_vision


def encoder(root, width, depth, mlp, heads, scanned=False):
  """Names and shapes of vit.Encoder."""
  block = {}
  for i in (0, 1):
    block |= {f"LayerNorm_{i}/{k}": (width,) for k in ("scale", "bias")}
  block |= attention("", width, heads) | dense("", width, mlp)
  if scanned:
    out = {f"encoderblock/{k}": (depth, *v) for k, v in block.items()}
  else:
    out = {
      f"encoderblock_{i}/{k}": v for i in range(depth) for k, v in block.items()
    }
  out |= {f"encoder_norm/{k}": (width,) for k in ("scale", "bias")}
  return {root + k: v for k, v in out.items()}


def attention(root, width, heads):
  root += "MultiHeadDotProductAttention_0/"
  each = (heads, width // heads)
  out = {}
  for part in ("query", "key", "value"):
    out |= {f"{root}{part}/kernel": (width, *each), f"{root}{part}/bias": each}
  return out | {
    f"{root}out/kernel": (*each, width), f"{root}out/bias": (width,)
  }  # fmt: skip


def dense(root, width, mlp):
  root += "MlpBlock_0/Dense_"
  return {
    f"{root}0/kernel": (width, mlp), f"{root}0/bias": (mlp,),
    f"{root}1/kernel": (mlp, width), f"{root}1/bias": (width,),
  }  # fmt: skip


def image(size, patch, grid, pool="map", scanned=False):
  width, _, mlp, heads = size
  out = {
    "embedding/kernel": (patch, patch, 3, width),
    "embedding/bias": (width,),
    "pos_embedding": (1, grid**2, width),
    **encoder("Transformer/", *size, scanned),
  }
  if pool == "map":
    out |= {
      "MAPHead_0/probe": (1, 1, width),
      "MAPHead_0/LayerNorm_0/scale": (width,),
      "MAPHead_0/LayerNorm_0/bias": (width,),
      **attention("MAPHead_0/", width, heads),
      **dense("MAPHead_0/", width, mlp),
    }
  if pool == "tok":
    out["cls"] = (1, 1, width)
  return out


def two_towers(img, txt, vocab, length, patch, grid, scanned=False):
  """Names and shapes of a SigLIP."""
  text = {
    "Embed_0/embedding": (vocab, txt[0]),
    "pos_embedding": (1, length, txt[0]),
    **encoder("Encoder_0/", *txt, scanned),
    "head/kernel": (txt[0], img[0]),
    "head/bias": (img[0],),
  }
  out = {f"txt/{k}": v for k, v in text.items()} | {"t": (1,), "b": (1,)}
  towers = image(img, patch, grid, scanned=scanned)
  return out | {f"img/{k}": v for k, v in towers.items()}


TINY = (32, 3, 128, 2)


def arrays(shapes, seed=0):
  r = np.random.default_rng(seed)
  return {k: r.normal(size=v).astype("f4") for k, v in shapes.items()}


def save(path, stored, prefix=""):
  np.savez(path, **{prefix + k: v for k, v in stored.items()})
  return pathlib.Path(path)


def tiny(scanned=False, **kwargs):
  shapes = two_towers(TINY, (48, 2, 96, 4), 40, 8, 8, 4, scanned)
  return arrays(shapes | kwargs)


@pytest.mark.parametrize("prefix", ["", "params/"])
@pytest.mark.parametrize("scanned", [False, True])
def test_two_towers_come_back_bit_for_bit(scanned, prefix, tmp_path):
  stored = tiny(scanned)
  file = save(tmp_path / "a.npz", stored, prefix)
  model = model_files.read(file)
  section = model.model["image"]
  assert section["variant"].endswith("/8") and section["res"] == 32
  assert model.model["text"]["out_dim"] == 32
  assert math.isclose(model.model["scale"], math.exp(stored["t"][0]))
  again = tmp_path / "b.npz"
  big_vision.write(model, again, scanned=scanned, prefix=prefix)
  with np.load(file) as a, np.load(again) as b:
    assert set(a.files) == set(b.files)
    for name in a.files:
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name], name)


def test_numbered_and_stacked_blocks_are_one_model(tmp_path):
  stacked = tiny(scanned=True)
  numbered = {}
  for name, value in stacked.items():
    before, inside, after = name.partition("encoderblock/")
    if not inside:
      numbered[name] = value
    for i, one in enumerate(value if inside else []):
      numbered[f"{before}encoderblock_{i}/{after}"] = one
  found = [
    rules.flatten(big_vision.read(save(tmp_path / f"{i}.npz", x)).params)
    for i, x in enumerate((stacked, numbered))
  ]
  assert found[0].keys() == found[1].keys()
  for name, value in found[0].items():
    np.testing.assert_array_equal(value, found[1][name], name)


@pytest.mark.parametrize("prefix", ["", "img/", "params/img/"])
@pytest.mark.parametrize("pool", ["map", "tok", "gap"])
def test_an_image_tower_alone(pool, prefix, tmp_path, caplog):
  stored = arrays(image(TINY, 8, 4, pool))
  extra = {} if prefix else {"head/kernel": (32, 99), "head/bias": (99,)}
  file = save(tmp_path / "a.npz", stored | arrays(extra), prefix)
  with caplog.at_level(logging.WARNING):
    model = big_vision.read(file)
  assert ("2 arrays are left out" in caplog.text) == (not prefix)
  assert model.model["image"]["pool"] == pool
  assert model.params.keys() == {"img"}
  big_vision.write(model, tmp_path / "b.npz")
  with np.load(tmp_path / "b.npz") as again:
    assert set(again.files) == stored.keys()
    for name, value in stored.items():
      np.testing.assert_array_equal(again[name], value, name)


def test_an_image_tower_alone_is_converted_and_compared(tmp_path):
  file = save(tmp_path / "a.npz", arrays(image(TINY, 8, 4, "tok")))
  told = convert.convert(str(file), str(tmp_path / "b.npz"))
  assert told == {"big_vision, read back: image": 0.0}
  assert (tmp_path / "b.npz").is_file()


def test_more_than_nine_blocks_keep_their_order(tmp_path):
  stored = arrays(image((8, 12, 16, 2), 8, 2))
  for i in range(12):
    stored[f"Transformer/encoderblock_{i}/LayerNorm_0/scale"][:] = i
  params = big_vision.read(save(tmp_path / "a.npz", stored)).params
  scale = params["img"]["encoder"]["blocks"]["norm1"]["scale"]
  assert scale[:, 0].tolist() == list(range(12))


def test_names_and_positions_of_older_versions(tmp_path):
  """As in the AugReg ViTs: one counter, and a position of the class token."""
  new = arrays(image(TINY, 8, 4, "tok"))
  old, first = {}, np.full((1, 1, 32), 0.5, np.float32)
  for name, value in new.items():
    if "encoderblock" in name:
      name = name.replace("LayerNorm_1", "LayerNorm_2")
      name = name.replace("MlpBlock_0", "MlpBlock_3")
      name = name.replace("Attention_0", "Attention_1")
    old[name] = value
  pos = np.concatenate([first, old.pop("pos_embedding")], axis=1)
  old["Transformer/posembed_input/pos_embedding"] = pos
  found = [
    rules.flatten(big_vision.read(save(tmp_path / f"{i}.npz", x)).params)
    for i, x in enumerate((new, old))
  ]
  assert found[0].keys() == found[1].keys()
  for name, value in found[0].items():
    expected = value + 0.5 if name == "img/cls" else value
    np.testing.assert_array_equal(found[1][name], expected, name)


def test_bfloat16_is_read_although_numpy_forgets_it(tmp_path):
  stored = arrays(image(TINY, 8, 4, "gap"))
  half = {k: v.astype(ml_dtypes.bfloat16) for k, v in stored.items()}
  params = big_vision.read(save(tmp_path / "a.npz", half)).params
  pos = half["pos_embedding"].astype(np.float32)[0]
  np.testing.assert_array_equal(params["img"]["pos"], pos)
  assert params["img"]["pos"].dtype == np.float32


B, L = (768, 12, 3072, 12), (1024, 24, 4096, 16)
SO, G = (1152, 27, 4304, 16), (1536, 40, 6144, 16)
# Variant, image size, text size, patch, vocabulary, length, resolutions.
PUBLISHED = [
  ("B/16", B, B, 32_000, 64, (224, 256, 384, 512)),
  ("L/16", L, L, 32_000, 64, (256, 384)),
  ("So400m/14", SO, SO, 32_000, 16, (224,)),
  ("So400m/14", SO, SO, 32_000, 64, (384,)),
  ("B/16", B, B, 250_000, 64, (256,)),
  ("B/32", B, B, 256_000, 64, (256,)),
  ("B/16", B, B, 256_000, 64, (224, 256, 384, 512)),
  ("L/16", L, L, 256_000, 64, (256, 384, 512)),
  ("So400m/14", SO, SO, 256_000, 64, (224, 384)),
  ("So400m/16", SO, SO, 256_000, 64, (256, 384, 512)),
  ("g-opt/16", G, SO, 256_000, 64, (256, 384)),
]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda p: f"{p[0]}-{p[3]}")
@pytest.mark.parametrize("scanned", [False, True])
def test_published_siglips_have_these_names_and_shapes(published, scanned):
  variant, img, txt, vocab, length, resolutions = published
  patch = int(variant.partition("/")[2])
  text = {"g-opt": "So400m"}.get(variant.partition("/")[0])
  text = text or variant.partition("/")[0]
  for res in resolutions:
    model = {
      "image": {"variant": variant, "res": res, "remainder": bool(res % patch)},
      "text": {"variant": text, "out_dim": img[0]},
    }
    shapes = sections.shapes(model, vocab, length, bias=True)
    expected = two_towers(img, txt, vocab, length, patch, res // patch, scanned)
    assert mapping.names(big_vision_weights.table(scanned), shapes) == expected
    if (variant, vocab, res) == ("B/16", 32_000, 224):
      assert sum(map(math.prod, shapes.values())) == 203_155_970


@pytest.mark.parametrize(
  "size, patch, kind", [(B, 16, "B/16"), (B, 32, "B/32"), (L, 16, "L/16")]
)
def test_published_lit_image_towers(size, patch, kind):
  for out in (None, 768):
    section = {"variant": kind, "res": 224, "pool": "tok"}
    section |= {"out_dim": out, "out_bias": out is not None}
    shapes = sections.shapes({"image": section}, 1, 1, bias=False)
    shapes = {k: v for k, v in shapes.items() if k.startswith("img/")}
    expected = image(size, patch, 224 // patch, "tok")
    if out:
      expected |= {"head/kernel": (size[0], out), "head/bias": (out,)}
    found = mapping.names(big_vision_weights.table(False), shapes)
    assert found == {f"img/{k}": v for k, v in expected.items()}


def test_so400m_at_384_sees_27_patches_of_14(tmp_path):
  file = save(tmp_path / "a.npz", arrays(image(TINY, 14, 27)))
  section = big_vision.read(file).model["image"]
  assert section["res"] == 384 and section["remainder"]


def test_all_that_is_wrong_is_told_at_once(tmp_path):
  stored = tiny()
  del stored["img/MAPHead_0/LayerNorm_0/bias"]
  stored["img/strange"] = np.zeros(3, np.float32)
  stored["img/Transformer/encoder_norm/scale"] = np.zeros(7, np.float32)
  with pytest.raises(errors.UserError) as e:
    big_vision.read(save(tmp_path / "a.npz", stored))
  said = str(e.value)
  assert "missing: img/MAPHead_0/LayerNorm_0/bias (32,)" in said
  assert "unknown: img/strange (3,)" in said
  assert "img/Transformer/encoder_norm/scale (7,) for (32,)" in said


@pytest.mark.parametrize("kind", ["cut", "pickle", "text", "other"])
def test_a_wrong_file_is_one_clear_line(kind, tmp_path):
  file = save(tmp_path / "a.npz", tiny())
  said = "complete .npz"
  if kind == "cut":
    file.write_bytes(file.read_bytes()[:5000])
  elif kind == "pickle":
    np.savez(file, evil=np.array([print], dtype=object))
  elif kind == "text":
    file.write_text("not a zip")
  else:
    save(file, {"a": np.zeros(3)})
    said = "img/embedding/kernel of .* = 'missing'"
  with pytest.raises(errors.UserError, match=said) as e:
    big_vision.read(file)
  assert "\n" not in str(e.value)


def test_a_model_that_big_vision_lacks_is_not_written(tmp_path):
  model = big_vision.read(save(tmp_path / "a.npz", tiny()))
  model.model["text"]["causal"] = True
  with pytest.raises(errors.UserError, match="text.causal = True"):
    big_vision.write(model, tmp_path / "b.npz")
  assert not (tmp_path / "b.npz").exists()
