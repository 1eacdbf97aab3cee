"""MAE's own code (facebookresearch/mae): a state dict with encoder and decoder.

A .safetensors file, or a .pth, of which reading needs torch. A state dict says
nothing of heads, of the targets and of the preprocessing: for the published
sizes B, L and H the code's are taken, and normalized targets. Our files hold
them in their metadata. An encoder alone has the layout of timm's ViTs, and is
none of this format.
"""

import json
import logging
import math
import pathlib
import re
from typing import Any

import numpy as np
import safetensors

from big_contrastive.config import errors, rules, schema
from big_contrastive.interop import files, sections
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.mae import weights
from big_contrastive.models import layers

MAY_LACK: tuple[str, ...] = ("text", "tokenizer")
SUFFIX = ".safetensors"

_OURS = "big_contrastive"  # Our entry in a file's metadata.
_NAME = re.compile(rb"(?<![\w.])decoder_pos_embed")
_PUBLISHED = ("B", "L", "H")
_CODE = {"eps": 1e-6, "activation": "gelu"}
_PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a file of tensors, one of which only MAE's code has."""
  if not path.is_file() or path.suffix not in (SUFFIX, ".pth", ".pt"):
    return False
  with path.open("rb") as file:
    return bool(_NAME.search(file.read(2**20)))


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the encoder and the decoder of a file.

  Raises:
    UserError: for a broken file, tensors that don't fit, and a size that is not
      published, in a file that is not ours.
  """
  stored, about = _load(path)
  model = about.get("model") or _described(stored, str(path))
  flat = weights.read("official", stored, model, str(path))
  res = model["image"]["res"]
  ops = [
    ["resize_shortest", {"size": round(res * 8 / 7), "rounding": "down"}],
    ["center_crop", {"size": res, "rounding": "nearest"}],
  ]
  return sections.assembled(model, flat, image=about.get("eval_image", ops))


def write(model: ModelBundle, path: pathlib.Path) -> None:
  """Writes a state dict that `load_state_dict` of their model takes.

  Raises:
    UserError: for a model that their code would compute differently, and a path
      that is no .safetensors.
  """
  weights.check(model)
  if path.suffix != SUFFIX:
    allowed = f"a path that ends with {SUFFIX}, in this format"
    remedy = "safetensors.torch.load_file reads it into torch."
    raise errors.UserError("--to", path.name, allowed, remedy)
  kept = {"image": model.model["image"]}
  kept["heads"] = {weights.PART: model.model["heads"][weights.PART]}
  about = {"model": kept} | ({"eval_image": model.image} if model.image else {})
  arrays = weights.write("official", kept, rules.flatten(model.params))
  text = json.dumps(schema.plain(about))
  files.write_safetensors(arrays, path, {_OURS: text})


def _load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The tensors of a file, and our metadata, {} in a file of others."""
  if path.suffix != SUFFIX:
    return files.read_torch(path), {}
  stored = files.read_safetensors(path)
  with safetensors.safe_open(path, "numpy") as file:
    about = (file.metadata() or {}).get(_OURS, "{}")
  where = f"metadata of {path}"
  try:
    return stored, schema.section(json.loads(about), where)
  except ValueError as e:
    allowed, remedy = "JSON, as we write it", "Write the file anew."
    raise errors.UserError(where, about, allowed, remedy) from e


def _described(stored: dict[str, np.ndarray], path: str) -> dict[str, Any]:
  """config.model of a published size, which the shapes of tensors tell."""
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
  decoder = {
    "name": weights.HEAD, "width": stored["mask_token"].shape[-1],
    "depth": depth, **_CODE,
  }  # fmt: skip
  logging.warning("%s: taken to be of normalized targets, 16 heads", path)
  return {"image": image, "heads": {weights.PART: decoder}}
