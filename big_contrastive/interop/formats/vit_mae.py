"""Hugging Face directories of MAE: ViTMAEForPreTraining, as published.

A directory has config.json, model.safetensors and preprocessor_config.json. Of
a ViTMAEModel the encoder is read. The part of the patches that is masked is no
part of our model; the file gets 0.75.
"""

import json
import pathlib
from typing import Any

from big_contrastive.config import errors, rules
from big_contrastive.interop import files, preprocessing, processors, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.hugging_face import config as shared
from big_contrastive.interop.mae import weights

MAY_LACK: tuple[str, ...] = ("text", "tokenizer")
SUFFIX = ""

_FAMILY, _CONFIG, _WEIGHTS = "vit_mae", "config.json", "model.safetensors"
# transformers 5 saves the decoder's blocks under a name of its own.
_OTHER_NAME = "decoder.decoder_encoder.layer.", "decoder.decoder_layers."
# The defaults of transformers for fields that config.json lacks.
_IMAGE: dict[str, Any] = {
  "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
  "num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
  "image_size": 224, "patch_size": 16,
}  # fmt: skip
# Theirs to ours.
_DECODER = {
  "decoder_hidden_size": "width", "decoder_num_hidden_layers": "depth",
  "decoder_num_attention_heads": "heads", "decoder_intermediate_size": "mlp",
  "norm_pix_loss": "normalize",
}  # fmt: skip
_DEFAULTS = {
  "decoder_hidden_size": 512, "decoder_num_hidden_layers": 8,
  "decoder_num_attention_heads": 16, "decoder_intermediate_size": 2048,
  "norm_pix_loss": False,
}  # fmt: skip
_PLAIN: dict[str, Any] = {
  "num_channels": 3, "qkv_bias": True, "quantization_config": None
}  # fmt: skip
_IDLE = {
  "model_type", "mask_ratio", "hidden_dropout_prob",
  "attention_probs_dropout_prob",
}  # fmt: skip


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a directory whose config.json is of a ViTMAE."""
  if not (path / _CONFIG).is_file():
    return False
  try:
    return files.read_json(path / _CONFIG).get("model_type") == _FAMILY
  except errors.UserError:  # Who reads it says what is wrong.
    return False


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the encoder of a directory, and the decoder if there is one.

  Raises:
    UserError: for an unknown activation, tensors that don't fit config.json, a
      broken file.
  """
  config = files.read_json(path / _CONFIG)
  known = {*_PLAIN, *_IMAGE, *_DEFAULTS, *_IDLE}
  shared.look(config, str(path / _CONFIG), _PLAIN, known)
  image = shared.image_section(_IMAGE | config)
  del image["remainder"]
  image |= {"pool": "tok", "pos": "sincos2d_mae"}
  stored = {
    k.replace(*_OTHER_NAME): v
    for k, v in files.read_safetensors(path / _WEIGHTS).items()
  }
  model: dict[str, Any] = {"image": image}
  if any(k.startswith("decoder.") for k in stored):
    decoder = _DEFAULTS | config
    section = {ours: decoder[theirs] for theirs, ours in _DECODER.items()}
    section |= {k: image[k] for k in ("eps", "activation")}
    model["heads"] = {weights.PART: {"name": weights.HEAD} | section}
  elif not any(k.startswith("vit.") for k in stored):
    stored = {f"vit.{k}": v for k, v in stored.items()}
  flat = weights.read("transformers", stored, model, str(path))
  res, patch = image["res"], sections.patch(image)
  found = processors.read_hugging_face(path, _FAMILY, res, patch)
  return sections.assembled(model, flat, found[0], **found[1])


def write(model: ModelBundle, path: pathlib.Path) -> None:
  """Writes a directory that ViTMAEForPreTraining.from_pretrained reads.

  Args:
    model: of an image tower and a decoder of patches; other heads are left out.
    path: of the directory, which is created.

  Raises:
    UserError: for a model that their class would compute differently.
  """
  image, section = weights.check(model)
  mlp = 4 * section["width"] if section["mlp"] is None else section["mlp"]
  config = shared.sizes("image", image) | {
    theirs: (section | {"mlp": mlp})[ours] for theirs, ours in _DECODER.items()
  }
  config |= {
    "architectures": ["ViTMAEForPreTraining"], "model_type": _FAMILY,
    "image_size": image["res"], "patch_size": sections.patch(image),
    "mask_ratio": 0.75, "dtype": "float32",
  }  # fmt: skip
  # ViT's processor only resizes: CLIP's also crops.
  stats = processors.statistics(model)
  processor = preprocessing.to_hugging_face(model.image, "clip", *stats)
  flat = rules.flatten(model.params)
  arrays = weights.write("transformers", model.model, flat)
  path.mkdir(exist_ok=True)
  for name, content in ((_CONFIG, config), (processors.PROCESSOR, processor)):
    (path / name).write_text(json.dumps(content, indent=2) + "\n")
  files.write_safetensors(arrays, path / _WEIGHTS)
