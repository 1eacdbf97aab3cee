"""An image tower with a class token alone, as DINO's: timm, transformers."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import peers
from big_contrastive.config import errors, rules
from big_contrastive.interop import model_files
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models import build
from big_contrastive.models.model import merge

WIDTH, DEPTH, MLP, RES, PATCH = 32, 2, 64, 32, 8
TOWER = {
  "variant": "mu/8", "res": RES, "pool": "tok", "cls_pos": True,
  "depth": DEPTH, "mlp": MLP, "activation": "gelu",
}  # fmt: skip
SQUARE = [["resize", {"size": [RES, RES], "method": "bicubic"}]]
CROP = [
  ["resize_shortest", {"size": 37, "method": "bicubic", "rounding": "down"}],
  ["center_crop", {"size": RES, "rounding": "nearest"}],
]
STATS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TIMM = {
  "norm1.weight": "w", "norm1.bias": "w", "attn.qkv.weight": "3w w",
  "attn.qkv.bias": "3w", "attn.proj.weight": "w w", "attn.proj.bias": "w",
  "norm2.weight": "w", "norm2.bias": "w", "mlp.fc1.weight": "m w",
  "mlp.fc1.bias": "m", "mlp.fc2.weight": "w m", "mlp.fc2.bias": "w",
}  # fmt: skip
THEIRS = {  # transformers' names of these, the query's for qkv's.
  "norm1": "layernorm_before", "norm2": "layernorm_after",
  "attn.qkv": "attention.attention.query",
  "attn.proj": "attention.output.dense",
  "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip


def timm_state(**more):
  """Names and arrays of DINO's ViT, by its published layout."""
  sizes = {"w": WIDTH, "m": MLP, "3w": 3 * WIDTH}
  shapes = {
    "cls_token": (1, 1, WIDTH), "pos_embed": (1, 17, WIDTH),
    "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
    "patch_embed.proj.bias": (WIDTH,),
    "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
  }  # fmt: skip
  for i in range(DEPTH):
    for name, axes in TIMM.items():
      shapes[f"blocks.{i}.{name}"] = tuple(sizes[a] for a in axes.split())
  r = np.random.default_rng(0)
  arrays = {k: np.float32(r.normal(size=s)) for k, s in shapes.items()}
  return arrays | more


def as_transformers(state):
  """The same tensors under transformers' names."""
  found = {
    "embeddings.cls_token": state["cls_token"],
    "embeddings.position_embeddings": state["pos_embed"],
  }
  for end in ("weight", "bias"):
    patches = f"embeddings.patch_embeddings.projection.{end}"
    found[patches] = state[f"patch_embed.proj.{end}"]
    found[f"layernorm.{end}"] = state[f"norm.{end}"]
    for i in range(DEPTH):
      for ours, theirs in THEIRS.items():
        x = state[f"blocks.{i}.{ours}.{end}"]
        name = f"encoder.layer.{i}.{theirs}.{end}"
        if ours != "attn.qkv":
          found[name] = x
          continue
        for part, third in zip(("query", "key", "value"), np.split(x, 3)):
          found[name.replace("query", part)] = third
  return found


def save(path, arrays):
  arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
  safetensors.numpy.save_file(arrays, path)
  return path


def directory(path, arrays, **fields):
  path.mkdir()
  config = {
    "architectures": ["ViTModel"], "model_type": "vit", "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH, "num_attention_heads": 2, "image_size": RES,
    "intermediate_size": MLP, "patch_size": PATCH, "hidden_act": "gelu",
  }  # fmt: skip
  (path / "config.json").write_text(json.dumps(config | fields))
  save(path / "model.safetensors", arrays)
  return path


def ours(**changes):
  """The same tower as a model of ours, with a head."""
  section = TOWER | STATS | changes
  model = {
    "image": section,
    "heads": {"projector": {"name": "mlp", "out_dim": 4, "hidden": 8}},
  }
  r = np.random.default_rng(1)
  flat = {
    k: np.float32(r.normal(size=s))
    for k, s in rules.shapes(build.build_model(model).variables).items()
  }
  return ModelBundle(model, rules.unflatten(flat), image=CROP)


def test_both_layouts_hold_the_same_tower(tmp_path, caplog):
  state = timm_state()
  file = save(tmp_path / "a.safetensors", state | {
    "head.weight": np.zeros((5, WIDTH), "f4"), "head.bias": np.zeros(5, "f4")
  })  # fmt: skip
  folder = directory(tmp_path / "a", as_transformers(state) | {
    "pooler.dense.weight": np.zeros((WIDTH, WIDTH), "f4")
  })  # fmt: skip
  first, second = (model_files.read(path) for path in (file, folder))
  assert "its classifier, head, is left out" in caplog.text
  assert "left out: pooler.dense.weight" in caplog.text
  chex.assert_trees_all_equal(first.params, second.params)
  blocks = first.params["img"]["encoder"]["blocks"]
  key = blocks["attention"]["key"]["kernel"][1]  # [in, heads, k].
  want = state["blocks.1.attn.qkv.weight"][WIDTH + 16 + 3, 7]
  assert key[7, 1, 3] == want
  image = first.model["image"]
  assert {k: image[k] for k in ("res", "pool", "cls_pos", "eps")} == {
    "res": RES, "pool": "tok", "cls_pos": True, "eps": 1e-6
  }  # fmt: skip
  assert image["pos_resize"] == "dino" and image["mean"] == STATS["mean"]
  assert first.image == CROP and second.model["image"]["eps"] == 1e-12
  assert second.model["image"]["mean"] == [0.5] * 3  # As transformers has it.
  for target, format in (("b.safetensors", "timm"), ("b", "hugging_face")):
    path = tmp_path / target
    model_files.write(first, path, format)
    again, want = path, state
    if format == "hugging_face":
      again, want = path / "model.safetensors", as_transformers(state)
    chex.assert_trees_all_equal(safetensors.numpy.load_file(again), want)
    found = model_files.read(path)
    chex.assert_trees_all_equal(found.params, first.params)
    assert model_files.recognize(path) == format
    # CLIP's processor, which ViT's stands back for, rounds a crop otherwise.
    assert [op[0] for op in found.image] == [op[0] for op in CROP]
    assert found.image[0][1] == CROP[0][1]


@pytest.mark.parametrize("format", ["timm", "hugging_face"])
def test_a_run_of_ours_goes_out_without_its_head(format, tmp_path, caplog):
  path = tmp_path / ("a.safetensors" if format == "timm" else "a")
  model = ours()
  model_files.write(model, path, format)
  assert "the image tower alone; left out: projector" in caplog.text
  found = model_files.read(path)
  chex.assert_trees_all_equal(found.params, {"img": model.params["img"]})
  assert found.model["image"]["mean"] == STATS["mean"]


def test_a_file_of_ours_holds_what_a_state_dict_lacks(tmp_path):
  model = ours(heads=4, out_dim=5, cls_pos=False, pos_resize="clean")
  model_files.write(model, tmp_path / "a.safetensors", "timm")
  held = safetensors.numpy.load_file(tmp_path / "a.safetensors")
  kernel = model.params["img"]["project"]["kernel"]
  np.testing.assert_array_equal(held["head.weight"], kernel.T)
  assert held["pos_embed"].shape[1] == 16 and not held["head.bias"].any()
  found = model_files.read(tmp_path / "a.safetensors")
  assert found.model["image"] == model.model["image"] and found.image == CROP
  chex.assert_trees_all_equal(found.params, {"img": model.params["img"]})


def test_the_processor_does_what_the_operations_do(tmp_path):
  for ops, name in ((SQUARE, "ViT"), (CROP, "CLIP")):
    bundle = ModelBundle(ours().model, ours().params, image=ops)
    model_files.write(bundle, tmp_path / name, "hugging_face")
    about = json.loads(
      (tmp_path / name / "preprocessor_config.json").read_text()
    )
    assert about["image_processor_type"] == f"{name}ImageProcessor"
    assert about["image_mean"] == STATS["mean"]


@pytest.mark.parametrize("format", ["timm", "hugging_face"])
@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"pool": "gap", "cls_pos": False}, r"image\.pool = 'gap'"),
    ({"pre_norm": True}, r"image\.pre_norm = True"),
    ({"pos": "sincos2d", "cls_pos": False}, r"image\.pos = 'sincos2d'"),
  ],
)
def test_a_tower_that_they_do_not_have_is_refused(
  format, changes, said, tmp_path
):
  path = tmp_path / ("a.safetensors" if format == "timm" else "a")
  with pytest.raises(errors.UserError, match=said) as e:
    model_files.write(ours(**changes), path, format)
  assert "\n" not in str(e.value) and not path.exists()


def test_what_is_no_vit_of_theirs_is_told(tmp_path):
  for change, said in [
    ({"blocks.0.ls1.gamma": np.ones(WIDTH, "f4")}, "unknown: blocks.0.ls1"),
    ({"pos_embed": np.ones((1, 20, WIDTH), "f4")}, "misshapen: pos_embed"),
    ({"patch_embed.proj.weight": np.ones((3, 4), "f4")}, "that of a ViT"),
  ]:
    file = save(tmp_path / "a.safetensors", timm_state(**change))
    with pytest.raises(errors.UserError, match=said):
      model_files.read(file)
  folder = directory(tmp_path / "a", {}, qkv_bias=False)
  with pytest.raises(errors.UserError, match="qkv_bias = False; expected True"):
    model_files.read(folder)
  (tmp_path / "t").mkdir()
  about = {"architecture": "vit_base_patch16_224", "global_pool": "avg"}
  (tmp_path / "t/config.json").write_text(json.dumps(about))
  save(tmp_path / "t/model.safetensors", timm_state())
  with pytest.raises(errors.UserError, match="global_pool = 'avg'; expected"):
    model_files.read(tmp_path / "t")


# --- Beside their libraries.


def pixels(h, w):
  return np.float32(np.random.default_rng(2).normal(size=(2, h, w, 3)))


def of_ours(bundle, images):
  model = merge(bundle.build(remat="none").graph, bundle.params)
  with jax.default_matmul_precision("highest"):
    found = model.features(jnp.asarray(images))
    return np.asarray(found.tokens), np.asarray(model.attention(images))


def assert_same(got, want):
  np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.peers
def test_features_and_attention_are_those_of_transformers(tmp_path):
  torch = peers.torch()
  transformers = pytest.importorskip("transformers")
  config = transformers.ViTConfig(
    hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2,
    intermediate_size=MLP, image_size=RES, patch_size=PATCH,
    attn_implementation="eager",
  )  # fmt: skip
  theirs = peers.randomise(
    transformers.ViTModel(config, add_pooling_layer=False)
  )
  theirs.save_pretrained(tmp_path / "a")
  transformers.ViTImageProcessor(
    size={"height": RES, "width": RES}
  ).save_pretrained(tmp_path / "a")
  bundle = model_files.read(tmp_path / "a")
  model_files.write(bundle, tmp_path / "b", "hugging_face")
  again = transformers.ViTModel.from_pretrained(
    tmp_path / "b", add_pooling_layer=False, attn_implementation="eager"
  ).eval()
  processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "b")
  assert processor.size["height"] == RES
  for h, w in ((RES, RES), (48, 24)):
    images = pixels(h, w)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    tokens, weights = of_ours(bundle, jnp.asarray(images))
    for model in (theirs, again):
      with torch.no_grad():
        found = model(x, interpolate_pos_encoding=True, output_attentions=True)
      assert_same(tokens, found.last_hidden_state)
      last = found.attentions[-1][:, :, 0, 1:]
      assert_same(weights.reshape(*last.shape), last)


@pytest.mark.peers
def test_features_are_those_of_timm(tmp_path):
  torch = peers.torch()
  timm = pytest.importorskip("timm")
  how = dict(
    img_size=RES, patch_size=PATCH, embed_dim=64, depth=DEPTH, num_heads=2,
    mlp_ratio=2, dynamic_img_size=True, num_classes=0,
  )  # fmt: skip
  theirs = timm.create_model("vit_small_patch16_224.dino", **how)
  peers.randomise(theirs)
  timm.models.save_for_hf(
    theirs, tmp_path / "a", model_args=how, safe_serialization=True
  )
  bundle = model_files.read(tmp_path / "a")
  assert bundle.model["image"]["heads"] == 2
  assert bundle.model["image"] == bundle.model["image"] | STATS
  model_files.write(bundle, tmp_path / "b.safetensors", "timm")
  again = timm.create_model(
    "vit_small_patch16_224.dino", **how,
    checkpoint_path=tmp_path / "b.safetensors",
  ).eval()  # fmt: skip
  for h, w in ((RES, RES), (48, 24)):
    images = pixels(h, w)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    tokens, _ = of_ours(bundle, jnp.asarray(images))
    for model in (theirs, again):
      with torch.no_grad():
        assert_same(tokens, model.forward_features(x))
