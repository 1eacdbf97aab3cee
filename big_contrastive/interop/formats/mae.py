"""MAE's own code (facebookresearch/mae): a state dict with encoder and decoder.

A .safetensors file, or a .pth, of which reading needs torch. A state dict says
nothing of heads, of the targets and of the preprocessing: for the published
sizes B, L and H the code's are taken, and normalized targets. Our files hold
them in their metadata. An encoder alone has the layout of timm's ViTs, and is
none of this format.
"""

import logging
import math
import pathlib
from typing import Any

import numpy as np

from big_contrastive.config import errors, rules
from big_contrastive.interop import sections, state_dicts
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import timm
from big_contrastive.interop.mae import weights
from big_contrastive.models import layers

MAY_LACK: tuple[str, ...] = ("text", "tokenizer")
SUFFIX = state_dicts.SUFFIX

_PUBLISHED = ("B", "L", "H")
_CODE = {"eps": 1e-6, "activation": "gelu"}
_PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a file of tensors, one of which only MAE's code has."""
  return state_dicts.holds(path, timm.MAE)


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the encoder and the decoder of a file.

  Raises:
    UserError: for a broken file, tensors that don't fit, and a size that is not
      published, in a file that is not ours.
  """
  stored, about = state_dicts.read(path)
  ours = {"image", "decoder"} <= about.keys()
  image, decoder = (
    (about["image"], about["decoder"]) if ours else _described(stored, path)
  )
  model = {"image": image, "heads": {weights.PART: decoder}}
  flat = weights.read("official", stored, model, str(path))
  ops = about.get("eval_image", timm.cropped(image))
  return sections.assembled(model, flat, image=ops)


def write(model: ModelBundle, path: pathlib.Path) -> None:
  """Writes a state dict that `load_state_dict` of their model takes.

  Raises:
    UserError: for a model that their code would compute differently, and a path
      that is no .safetensors.
  """
  state_dicts.check(model, path)
  image, _ = weights.check(model)
  sections.require("image", image, {"eps": timm.EPS, "activation": "gelu"})
  arrays = weights.write("official", model.model, rules.flatten(model.params))
  decoder = model.model["heads"][weights.PART]
  state_dicts.write(arrays, path, model, decoder=decoder)


def _described(
  stored: dict[str, np.ndarray], path: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Tower and decoder of a published size, which the shapes of tensors tell."""
  names = {layers.SIZES[name][0]: name for name in _PUBLISHED}
  kernel = stored.get("patch_embed.proj.weight", np.zeros((0, 0, 0, 0)))
  width, _, _, patch = kernel.shape
  if width not in names:
    allowed = "the width of a published size, " + ", ".join(map(str, names))
    remedy = "The number of heads is in no state dict: convert it elsewhere."
    raise errors.UserError(f"patch_embed of {path}", width, allowed, remedy)
  count = stored["decoder_pos_embed"].shape[1] - 1
  image = {
    "variant": f"{names[width]}/{patch}", "res": math.isqrt(count) * patch,
    "pool": "tok", "pos": "sincos2d_mae", **_CODE, **_PIXELS,
  }  # fmt: skip
  depths = (
    len({k.split(".")[1] for k in stored if k.startswith(f"{prefix}.")})
    for prefix in ("blocks", "decoder_blocks")
  )
  image["depth"], depth = depths
  token = stored.get("mask_token", np.zeros(512))
  decoder = {"width": token.shape[-1], "depth": depth, **_CODE}
  decoder["name"] = weights.HEAD
  logging.warning("%s: taken to be of normalized targets, 16 heads", path)
  return image, decoder
