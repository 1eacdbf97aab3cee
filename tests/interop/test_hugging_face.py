"""Hugging Face directories, judged by transformers itself."""

import json

import numpy as np
import pytest
import safetensors.numpy

import peers
from big_contrastive.config import errors, rules
from big_contrastive.interop import model_files, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import hugging_face

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def sizes(width, heads, mlp, depth=2, **more):
  return dict(
    hidden_size=width, num_attention_heads=heads, intermediate_size=mlp,
    num_hidden_layers=depth, **more,
  )  # fmt: skip


def siglip(act="gelu_pytorch_tanh", res=24, projection=None):
  """A random SiglipModel; heads of 12, that are no power of two."""
  import transformers

  act = {"hidden_act": act}
  config = transformers.SiglipConfig(
    vision_config=sizes(48, 4, 80, image_size=res, patch_size=8, **act),
    text_config=sizes(
      36 if projection else 48, 3, 100, vocab_size=99,
      max_position_embeddings=7, projection_size=48, **act,
    ),
  )  # fmt: skip
  return peers.randomise(transformers.SiglipModel(config))


def clip(act="quick_gelu", eos=97):
  import transformers

  act = {"hidden_act": act}
  config = transformers.CLIPConfig(
    vision_config=sizes(40, 4, 72, image_size=24, patch_size=8, **act),
    text_config=sizes(
      32, 4, 96, vocab_size=99, max_position_embeddings=7, eos_token_id=eos,
      bos_token_id=96, pad_token_id=0, **act,
    ),
    projection_dim=20,
  )  # fmt: skip
  return peers.randomise(transformers.CLIPModel(config))


MODELS = {
  "siglip": (siglip, {}, None),
  "siglip_gelu": (siglip, {"act": "gelu"}, None),
  "siglip_ragged": (siglip, {"res": 27}, None),
  "siglip2_giant": (siglip, {"projection": 48}, None),
  "clip": (clip, {}, 97),
  "clip_gelu": (clip, {"act": "gelu"}, 97),
  "clip_argmax": (clip, {"eos": 2}, 98),
}


def theirs(model, images, tokens):
  torch = peers.torch()
  is_clip = "CLIP" in type(model).__name__
  stats = (MEAN, STD) if is_clip else ()
  with torch.no_grad():
    out = model(
      pixel_values=peers.pixels(images, *stats),
      input_ids=torch.from_numpy(tokens).long(),
    )
  return [
    x.numpy() for x in (out.image_embeds, out.text_embeds, out.logits_per_image)
  ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.peers
def test_towers_equal_transformers_both_ways_bit_for_bit(name, tmp_path):
  peers.torch()
  import transformers

  make, kwargs, eos = MODELS[name]
  model = make(**kwargs)
  source, target = tmp_path / "hf", tmp_path / "out"
  model.save_pretrained(source)
  read = model_files.read(source)
  config = read.model["image"]
  images, tokens = peers.inputs(config["res"], 97, 7, eos)
  wanted = theirs(model, images, tokens)
  # Not near zero: embeddings of different examples differ.
  assert np.abs(np.corrcoef(wanted[0])[0, 1]) < 0.999
  peers.check(peers.ours(read, images, tokens), wanted)

  target.mkdir()
  hugging_face.write(read, target)
  peers.check_tensors(source, target)
  again, info = type(model).from_pretrained(target, output_loading_info=True)
  assert not info["missing_keys"] and not info["unexpected_keys"]
  assert theirs(again.eval(), images, tokens)[2].tolist() == wanted[2].tolist()
  assert transformers.AutoConfig.from_pretrained(target).model_type in name


@pytest.mark.peers
def test_metaclip_2_pools_at_the_first_eos_whatever_its_id(tmp_path):
  """2, that of XLM-V: not the largest id of a text, as in a CLIP of that id."""
  peers.torch()
  import transformers

  act = {"hidden_act": "gelu"}
  config = transformers.MetaClip2Config(
    vision_config=sizes(40, 4, 72, image_size=24, patch_size=8, **act),
    text_config=sizes(
      32, 4, 96, vocab_size=99, max_position_embeddings=7, eos_token_id=2,
      **act,
    ),
    projection_dim=20,
  )  # fmt: skip
  model = peers.randomise(transformers.MetaClip2Model(config))
  model.save_pretrained(tmp_path / "hf")
  read = model_files.read(tmp_path / "hf")
  assert read.model["text"]["pool"] == "eos"
  images, tokens = peers.inputs(24, 97, 7, 2)
  tokens[:2, -1] = 98
  torch = peers.torch()
  with torch.no_grad():
    out = model(
      pixel_values=peers.pixels(images, MEAN, STD),
      input_ids=torch.from_numpy(tokens).long(),
    )
  wanted = [out.image_embeds, out.text_embeds, out.logits_per_image]
  peers.check(peers.ours(read, images, tokens), [x.numpy() for x in wanted])


def random_directory(path, res=24):
  """A SigLIP directory, without any peer's library."""
  config = {
    "model_type": "siglip",
    "vision_config": sizes(48, 4, 80, image_size=res, patch_size=8),
    "text_config": sizes(
      48, 4, 80, vocab_size=99, max_position_embeddings=7
    ),
  }  # fmt: skip
  size = {"width": 48, "depth": 2, "mlp": 80, "heads": 4}
  model = {
    "image": {"variant": "mu/8", "res": res} | size,
    "text": {"variant": "mu", "out_dim": 48} | size,
  }
  r = np.random.default_rng(0)
  shapes = sections.shapes(model, 99, 7, True)
  flat = {k: np.float32(r.normal(size=v)) for k, v in shapes.items()}
  ops = [["resize", {"size": res}]]
  path.mkdir()
  params = rules.unflatten(flat)
  hugging_face.write(ModelBundle(model, params, image=ops), path)
  (path / "config.json").write_text(json.dumps(config))
  return flat


def change(path, name, **fields):
  config = json.loads((path / name).read_text())
  for key, value in fields.items():
    (
      config["vision_config"] if key in ("hidden_act", "image_size") else config
    )[key] = value
  (path / name).write_text(json.dumps(config))


def test_several_files_and_their_index_are_one_model(tmp_path):
  flat = random_directory(tmp_path / "a")
  weights = tmp_path / "a" / "model.safetensors"
  arrays = safetensors.numpy.load_file(weights)
  weights.unlink()
  where = {k: f"model-{i % 2}.safetensors" for i, k in enumerate(arrays)}
  for file in set(where.values()):
    part = {k: v for k, v in arrays.items() if where[k] == file}
    safetensors.numpy.save_file(part, tmp_path / "a" / file)
  index = tmp_path / "a" / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": where}))
  found = rules.flatten(model_files.read(tmp_path / "a").params)
  assert found.keys() == flat.keys()
  for key, value in flat.items():
    np.testing.assert_array_equal(found[key], value)


def test_half_precision_files_are_read_exactly(tmp_path):
  random_directory(tmp_path / "a")
  weights = tmp_path / "a" / "model.safetensors"
  arrays = safetensors.numpy.load_file(weights)
  half = {k: v.astype(np.float16) for k, v in arrays.items()}
  safetensors.numpy.save_file(half, weights)
  found = model_files.read(tmp_path / "a").params["img"]["pos"]
  name = "vision_model.embeddings.position_embedding.weight"
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, half[name].astype(np.float32))


def test_all_wrong_tensors_are_told_at_once(tmp_path):
  random_directory(tmp_path / "a")
  weights = tmp_path / "a" / "model.safetensors"
  arrays = safetensors.numpy.load_file(weights)
  del arrays["logit_bias"]
  arrays["vision_model.extra.weight"] = np.zeros(3, np.float32)
  name = "text_model.embeddings.position_embedding.weight"
  arrays[name] = np.zeros((9, 48), np.float32)
  safetensors.numpy.save_file(arrays, weights)
  with pytest.raises(errors.UserError) as e:
    model_files.read(tmp_path / "a")
  told = str(e.value)
  assert "missing: logit_bias (1,)" in told
  assert "unknown: vision_model.extra.weight (3,)" in told
  assert f"misshapen: {name} (9, 48) for (7, 48)" in told
  assert "\n" not in told


def test_broken_directories_are_one_clear_line_each(tmp_path):
  a = tmp_path / "a"
  random_directory(a)

  def told():
    with pytest.raises(errors.UserError) as e:
      model_files.read(a)
    assert "\n" not in str(e.value)
    return str(e.value)

  weights = (a / "model.safetensors").read_bytes()
  (a / "model.safetensors").write_bytes(weights[:-100])
  assert "complete .safetensors" in told()
  (a / "model.safetensors").write_bytes(weights)
  change(a, "config.json", image_size=32)
  assert "position_embedding.weight (9, 48) for (16, 48)" in told()
  change(a, "config.json", image_size=24, hidden_act="swish")
  assert "hidden_act = 'swish'" in told()
  change(a, "config.json", model_type="bert")
  assert "model_type = 'bert'" in told()
  (a / "config.json").write_text("{")
  assert "JSON" in told()
  (a / "config.json").unlink()
  assert "neither config.json" in told()
