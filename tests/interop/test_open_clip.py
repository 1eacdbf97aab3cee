"""OpenCLIP directories, against OpenCLIP itself on random weights."""

import functools
import json
import logging
import re

import numpy as np
import pytest

import peers
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.interop import model_files
from big_contrastive.interop.formats import open_clip as ours
from big_contrastive.interop.open_clip import config as open_clip_config
from big_contrastive.models import build

pytestmark = pytest.mark.peers

torch = peers.torch()
open_clip = pytest.importorskip("open_clip")
timm = pytest.importorskip("timm")

TEXT = {
  "context_length": 8, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2
}  # fmt: skip
VISION = {
  "image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8
}  # fmt: skip
CLIP = {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT}
SIGLIP = {
  "embed_dim": 32,
  "init_logit_bias": -10,
  "custom_text": True,
  "vision_cfg": {
    "image_size": 32, "timm_model_name": "vit_mu_patch8_siglip_32",
    "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none",
  },
  "text_cfg": TEXT
  | {
    "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
    "hf_tokenizer_name": ".",
  },
}  # fmt: skip


def changed(config, vision=(), text=(), **more):
  return config | more | {
    "vision_cfg": config["vision_cfg"] | dict(vision),
    "text_cfg": config["text_cfg"] | dict(text),
  }  # fmt: skip


MODELS = {
  "gelu": CLIP,
  "quick_gelu": changed(CLIP, quick_gelu=True),
  "tanh, other eps": changed(
    CLIP,
    {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
    {"act_kwargs": {"approximate": "tanh"}},
  ),
  # bigG's: heads of another width, an MLP that is no multiple of it.
  "uneven": changed(
    CLIP, {"width": 40, "head_width": 20, "mlp_ratio": 4.9231},
    {"mlp_ratio": 3.7362},
  ),
  "a remainder of pixels": changed(CLIP, {"image_size": 27}),
  "with a bias": changed(CLIP, init_logit_bias=-10.0),
  "custom text": changed(
    CLIP, text={"pool_type": "eos", "eos_id": 49}, custom_text=True
  ),
  "siglip": SIGLIP,
}  # fmt: skip


@pytest.fixture(autouse=True)
def mu(monkeypatch):
  """timm's SigLIP tower in our size mu: all others are far too large."""
  from timm.models import vision_transformer as vit

  def vit_mu_patch8_siglip_32(pretrained=False, **kwargs):
    kwargs.pop("pretrained_cfg", None), kwargs.pop("cache_dir", None)
    kwargs.pop("pretrained_cfg_overlay", None)
    return vit.VisionTransformer(
      img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2,
      class_token=False, act_layer="gelu_tanh",
      norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6), **kwargs,
    )  # fmt: skip

  name = "vit_mu_patch8_siglip_32"
  monkeypatch.setitem(
    timm.models._registry._model_entrypoints, name, vit_mu_patch8_siglip_32
  )
  monkeypatch.setitem(open_clip_config.SIZES, "mu", "mu")
  monkeypatch.setitem(open_clip_config.EXACT, "mu", set())
  monkeypatch.setitem(open_clip_config.TANH, "mu", {(8, 32)})
  pattern = open_clip_config.TIMM.pattern.replace("(base|", "(mu|base|")
  monkeypatch.setattr(open_clip_config, "TIMM", re.compile(pattern))


def make(config):
  """A model of theirs, far from its initial values."""
  config = json.loads(json.dumps(config))
  custom = config.pop("custom_text", False)
  kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
  return peers.randomise(kind(**config))


def save(model, config, path, ending="safetensors"):
  path.mkdir(exist_ok=True)
  size = config["vision_cfg"]["image_size"]
  half = [0.5, 0.5, 0.5]
  own = {"size": size, "mean": half, "std": half, "resize_mode": "squash"}
  whole = {"model_cfg": config, "preprocess_cfg": own}
  (path / "open_clip_config.json").write_text(json.dumps(whole))
  state = {k: v.contiguous() for k, v in model.state_dict().items()}
  if ending == "safetensors":
    from safetensors.torch import save_file

    save_file(state, path / "open_clip_model.safetensors")
  else:
    torch.save({"state_dict": state}, path / f"open_clip_model.{ending}")
  return path


def inputs(config):
  res = config["vision_cfg"]["image_size"]
  return peers.inputs(res, 50, 8, eos=49)


def theirs(model, images, tokens):
  with torch.no_grad():
    zimg = model.encode_image(peers.pixels(images), normalize=True)
    ztxt = model.encode_text(torch.from_numpy(tokens).long(), normalize=True)
    bias = 0 if model.logit_bias is None else model.logit_bias
    logits = model.logit_scale.exp() * zimg @ ztxt.T + bias
  return [x.numpy() for x in (zimg, ztxt, logits)]


def embeddings(model, images, tokens):
  found = convert._embed(model, images, tokens)
  scale = np.exp(model.params["t"])
  return found["image"], found["text"], scale * found["logits"]


def assert_close(a, b):
  for name, x, y in zip(("image", "text", "logits"), a, b, strict=True):
    tolerance = 1e-4 if name == "logits" else 1e-5
    np.testing.assert_allclose(x, y, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_same_outputs_and_the_same_files_back(name, tmp_path):
  config = MODELS[name]
  peer = make(config)
  images, tokens = inputs(config)
  expected = theirs(peer, images, tokens)
  assert not np.allclose(expected[0][0], expected[0][1], atol=0.05)
  model = model_files.read(save(peer, config, tmp_path / "a"))
  assert_close(embeddings(model, images, tokens), expected)
  model_files.write(model, tmp_path / "b", "open_clip")
  again = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
  assert_close(theirs(again, images, tokens), expected)
  before, after = peer.state_dict(), again.state_dict()
  assert before.keys() == after.keys()
  for key, value in before.items():
    assert torch.equal(value, after[key]), key
  text = model.model["text"]
  assert text["pool"] == config["text_cfg"].get("pool_type", "argmax")
  assert rules.shapes(model_files.read(tmp_path / "b").params) == rules.shapes(
    model.params
  )


@pytest.mark.parametrize("ending", ["pt", "bin"])
def test_torch_files_are_read_with_weights_only(ending, tmp_path):
  peer = make(CLIP)
  a = model_files.read(save(peer, CLIP, tmp_path / "a"))
  b = model_files.read(save(peer, CLIP, tmp_path / "b", ending))
  a, b = rules.flatten(a.params), rules.flatten(b.params)
  assert a.keys() == b.keys()
  for key, value in a.items():
    np.testing.assert_array_equal(value, b[key], key)


class Evil:
  """Code in a pickle: it would make a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


def test_code_in_a_pickle_is_not_run(tmp_path):
  path = save(make(CLIP), CLIP, tmp_path / "a", "pt")
  ran = tmp_path / "ran"
  torch.save({"state_dict": Evil(ran)}, path / "open_clip_model.pt")
  with pytest.raises(errors.UserError, match="holds code") as e:
    model_files.read(path)
  assert "\n" not in str(e.value) and not ran.exists()


def test_wrong_directories_are_one_line(tmp_path):
  path = save(make(CLIP), CLIP, tmp_path / "a")
  weights, config = (
    path / f"open_clip_{x}" for x in ("model.safetensors", "config.json")
  )
  whole, said = weights.read_bytes(), config.read_text()

  def told(match):
    with pytest.raises(errors.UserError, match=match) as e:
      model_files.read(path)
    assert "\n" not in str(e.value)
    weights.write_bytes(whole)
    config.write_text(said)

  weights.write_bytes(whole[:-50])
  told("open_clip_model.safetensors")
  weights.unlink()
  told("open_clip_model.safetensors")
  config.write_text("{")
  told("open_clip_config.json")
  config.write_text(said.replace('"image_size": 24', '"image_size": 48'))
  told(r"visual.positional_embedding \(10, 32\) for \(37, 32\)")
  config.write_text(
    said.replace('"patch_size"', '"qk_norm": true, "patch_size"')
  )
  told("qk_norm = True")
  config.write_text(said.replace('"vision_cfg"', '"vision"'))
  told("vision_cfg")


def test_another_timm_tower_is_said_to_be_none(tmp_path):
  wrong = changed(CLIP, {"timm_model_name": "convnext_base"})
  path = save(make(CLIP), wrong, tmp_path / "a")
  with pytest.raises(errors.UserError, match="convnext_base"):
    model_files.read(path)


def test_timm_towers_with_another_gelu_need_openclip_4(caplog):
  """timm's B/16 has exact gelu, SigLIP was trained with the approximation."""
  image = build.defaults("image") | {"variant": "B/16", "res": 224}
  with caplog.at_level(logging.WARNING):
    vision = open_clip_config.write_image_timm(image)
  assert vision["timm_model_kwargs"] == {"act_layer": "gelu_tanh"}
  assert "version 4" in caplog.text
  back = open_clip_config.read_image_timm({}, vision)
  assert back["activation"] == "gelu_tanh"
  vision = open_clip_config.write_image_timm(image | {"activation": "gelu"})
  assert "timm_model_kwargs" not in vision


# They pool, normalise or scale as our towers don't.
OTHERS = ("CLIPA", "ViT-M-16-alt")


def reads(name):
  """Whether it is a model that our towers are to hold."""
  text = open_clip.get_model_config(name)["text_cfg"]
  own = name.startswith("ViT-") and not text.get("hf_model_name")
  return own and not any(other in name for other in OTHERS)


BUILT_IN = [n for n in open_clip.list_models() if reads(n)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_models_have_these_names_and_shapes(name):
  config = open_clip.get_model_config(name)
  config.pop("custom_text", None)
  config["vision_cfg"].pop("patch_dropout", None)
  custom = "custom_text" in open_clip.get_model_config(name)
  kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
  with torch.device("meta"):
    peer = kind(**config)
  expected = {k: tuple(v.shape) for k, v in peer.state_dict().items()}
  assert ours.names(config, custom) == expected
  if "timm_model_name" in config["vision_cfg"]:
    section = open_clip_config.read_image_timm(config, config["vision_cfg"])
    exact = isinstance(peer.visual.trunk.blocks[0].mlp.act, torch.nn.GELU)
    assert section["activation"] == ("gelu" if exact else "gelu_tanh")
