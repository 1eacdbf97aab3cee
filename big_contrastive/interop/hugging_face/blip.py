"""transformers' BLIP: its config.json <-> the section config.model.

BlipForImageTextRetrieval is an encoder, BlipForConditionalGeneration a decoder;
no class of theirs is both. Of BLIP's two tokens behind BERT's vocabulary,
configs name [DEC] alone, bos_token_id; [ENC] is the id after it. Theirs for
retrieval takes a text's first token as it comes, [CLS]; here [ENC] takes its
place, as in BLIP's training and evaluation.
"""

import dataclasses
import logging
from typing import Any, Literal

import numpy as np

from big_contrastive.config import errors, rules
from big_contrastive.data.tokenizers.tokenizer import restore_tokenizer
from big_contrastive.interop import sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.hugging_face import config as shared
from big_contrastive.models import build

Part = Literal["encoder", "decoder"]
CLASSES = {
  "encoder": "BlipForImageTextRetrieval",
  "decoder": "BlipForConditionalGeneration",
}
# The defaults of transformers for fields that config.json lacks.
_SIZE = {
  "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
  "num_attention_heads": 12, "hidden_act": "gelu",
}  # fmt: skip
_IMAGE = _SIZE | {"layer_norm_eps": 1e-5, "image_size": 384, "patch_size": 16}
_IDS = {"bos_token_id": 30522, "pad_token_id": 0, "sep_token_id": 102}
_TEXT: dict[str, Any] = {
  **_SIZE, **_IDS, "num_attention_heads": 8, "layer_norm_eps": 1e-12,
  "vocab_size": 30524, "max_position_embeddings": 512, "is_decoder": True,
}  # fmt: skip
_OUT = "image_text_hidden_size"
_ENC = "enc_token_id"  # Ours: their classes ignore it.
_PLAIN: dict[str, Any] = {"num_channels": 3, "quantization_config": None}
# encoder_hidden_size is the image tower's width, whatever the file says.
_READ = {
  "model_type", "vision_config", "text_config", "vision_config_dict",
  "text_config_dict", "projection_dim", "encoder_hidden_size", "eos_token_id",
  "label_smoothing", _OUT, _ENC, *_PLAIN, *_IMAGE, *_TEXT,
}  # fmt: skip
# What their classes implement.
_NEEDED_IMAGE = {
  "pool": "tok", "cls_pos": True, "pos": "learned", "pre_norm": False,
  "patch_bias": True, "max_patches": None,
}  # fmt: skip


def describe(
  config: dict[str, Any], where: str
) -> tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]:
  """Returns the family, our sections, and our parameters' shapes.

  Args:
    config: the content of config.json; nothing of full size is allocated.
    where: its path, for errors.
  """
  part = _part(config, where)
  shared.look(config, where, _PLAIN, _READ)
  image = shared.complete(config, "vision", _IMAGE)
  text = shared.complete(config, "text", _TEXT)
  sections.plain(text, {"is_decoder": True}, f"{where}: text_config.")
  img, txt = shared.image_section(image), shared.section(text)
  img |= {"pool": "tok", "cls_pos": True}
  ids = {"pad_id": text["pad_token_id"], "eos_id": text["sep_token_id"]}
  rows = text["vocab_size"]
  txt |= {"tower": "blip", **ids, **_first(text, rows)}
  if part == "encoder":
    width = config.get(_OUT, 256)
    img |= {"out_dim": width, "out_bias": True}
    txt |= {"out_dim": width, "decoder": False}
  else:
    txt["encoder"] = False
  model = {"image": img, "text": txt}
  length = text["max_position_embeddings"]
  shapes = sections.shapes(model, rows, length, bias=False)
  del shapes["t"]  # Cosines are all that theirs returns.
  model["text"] = txt | {"vocab_size": rows, "positions": length}
  return "blip", model, shapes


def _part(config: dict[str, Any], where: str) -> Part:
  found = (config.get("architectures") or [None])[0]
  for part, name in CLASSES.items():
    if found == name:
      return part  # type: ignore[return-value]
  allowed = " or ".join(CLASSES.values())
  remedy = "Of BLIP only these are read: an encoder, or a decoder of captions."
  raise errors.UserError(f"{where}: architectures", found, allowed, remedy)


def _first(text: dict[str, Any], rows: int) -> dict[str, int | None]:
  """The ids that take the place of a text's first token, if there are any."""
  dec = text["bos_token_id"]
  enc = text.get(_ENC, None if dec is None else dec + 1)

  def known(i: int | None) -> int | None:
    return i if i is not None and i < rows else None

  return {"dec_id": known(dec), "enc_id": known(enc)}


def half(bundle: ModelBundle, part: Part) -> ModelBundle:
  """Returns the encoder or the decoder of a model that is both.

  The decoder is without the image tower's last linear layer, as theirs is.
  """
  own = {
    "encoder": ("project", "match"),
    "decoder": ("head", "head_norm", "logit_bias"),
  }
  other = "decoder" if part == "encoder" else "encoder"
  out = tuple(f"txt/{name}" for name in own[other])
  out += tuple(f"txt/stack/blocks/{other}{x}" for x in ("", "_norm"))
  image, text = (dict(bundle.model[k]) for k in ("image", "text"))
  text[other] = False
  if part == "decoder":
    out += ("img/project", "t", "b")
    for section in (image, text):
      section.pop("out_dim", None)
    image.pop("out_bias", None)
  flat = {
    k: v
    for k, v in rules.flatten(bundle.params).items()
    if not f"{k}/".startswith(tuple(f"{name}/" for name in out))
  }
  model = bundle.model | {"image": image, "text": text}
  return dataclasses.replace(bundle, model=model, params=rules.unflatten(flat))


def check(
  image: dict[str, Any], text: dict[str, Any], flat: dict[str, np.ndarray]
) -> None:
  """Raises UserError for a model that their classes would compute differently.

  Logs that a temperature is left out.
  """
  image = build.defaults("image") | image
  text = build.defaults("text", text) | text
  if text["encoder"] and text["decoder"]:
    allowed = "False where encoder = True, in this format"
    remedy = "Write each part: interop.hugging_face.blip.half(model, PART)."
    thing = "config.model.text.decoder"
    raise errors.UserError(thing, True, allowed, remedy)
  sections.require("image", image, _NEEDED_IMAGE)
  if text["encoder"]:
    sections.require("image", image, {"out_bias": True})
    sections.require("text", text, {"match": True})
    sections.require_projection("image", image)
    sections.require_projection("text", text)
  else:
    sections.require("image", image, {"out_dim": None})
  if "b" in flat:
    bias, allowed = float(flat["b"]), "None in this format"
    raise errors.UserError("config.model.bias", bias, allowed, sections.ANOTHER)
  if "t" in flat:
    message = "exp(t) = %.4g is left out: BLIP's class returns cosines"
    logging.warning(message, np.exp(np.float64(flat["t"])))


def write(model: ModelBundle, flat: dict[str, np.ndarray]) -> dict[str, Any]:
  """Returns config.json of a model that `check` passed."""
  image, text = model.model["image"], model.model["text"]
  part = "decoder" if text.get("encoder") is False else "encoder"
  patch = sections.patch(image)
  vision = shared.sizes("image", image)
  vision |= {"image_size": image["res"], "patch_size": patch}
  rows, length = (len(flat[f"txt/{k}"]) for k in ("embed/embedding", "pos"))
  dec, eos = text.get("dec_id"), text.get("eos_id")
  if model.tokenizer:
    tokenizer = restore_tokenizer(model.tokenizer, model.blob)
    dec = tokenizer.bos_id if dec is None else dec
    eos = tokenizer.eos_id
  language = shared.sizes("text", text) | {
    "vocab_size": rows, "max_position_embeddings": length, "is_decoder": True,
    "encoder_hidden_size": vision["hidden_size"],
    "bos_token_id": dec, "sep_token_id": eos, "eos_token_id": eos,
    "pad_token_id": text["pad_id"], _ENC: text.get("enc_id"),
  }  # fmt: skip
  config = {
    "architectures": [CLASSES[part]],
    "model_type": "blip",
    "vision_config": vision | {"model_type": "blip_vision_model"},
    "text_config": language | {"model_type": "blip_text_model"},
    "dtype": "float32",
  }
  return config | ({_OUT: text["out_dim"]} if part == "encoder" else {})
