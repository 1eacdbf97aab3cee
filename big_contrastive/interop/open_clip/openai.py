"""OpenAI's files of CLIP: the architecture, which is not in them, by shapes."""

import pathlib
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.interop.mapping import Shapes
from big_contrastive.interop.open_clip import archive
from big_contrastive.models.image import clip_resnet

# Entries of no layer; the first is in OpenAI's files alone.
_KNOWN = "input_resolution"
_SIZES = {_KNOWN, "context_length", "vocab_size"}
_HEAD_WIDTH = 64


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a .pt file with such an entry."""
  return path.suffix == ".pt" and archive.mentions(path, _KNOWN)


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Returns OpenCLIP's config and tensors of a .pt file.

  Raises:
    UserError: for a broken file, and one that OpenAI did not write: it would
      not tell its activation.
  """
  stored = archive.read(path)
  if _KNOWN not in stored:
    allowed = f"OpenAI's CLIP, which holds {_KNOWN}"
    remedy = "Put other weights beside their open_clip_config.json."
    raise errors.UserError("weights", str(path), allowed, remedy)
  stored = {k: v for k, v in stored.items() if k not in _SIZES}
  shapes = {k: tuple(v.shape) for k, v in stored.items()}
  try:
    return {"model_cfg": model_cfg(shapes)}, stored
  except (KeyError, IndexError, ZeroDivisionError) as e:
    allowed, remedy = "all tensors of a CLIP", f"This one is missing: {e}."
    raise errors.UserError("weights", str(path), allowed, remedy) from e


def model_cfg(shapes: Shapes) -> dict[str, Any]:
  """Returns OpenCLIP's model_cfg of tensors with these shapes."""
  vision = (_vit if "visual.proj" in shapes else _resnet)(shapes)
  vocab_size, width = shapes["token_embedding.weight"]
  text = {
    "context_length": shapes["positional_embedding"][0],
    "vocab_size": vocab_size, "width": width, "heads": width // _HEAD_WIDTH,
    "layers": _blocks(shapes, "transformer.resblocks."),
  }  # fmt: skip
  return {
    "embed_dim": shapes["text_projection"][1], "quick_gelu": True,
    "vision_cfg": vision, "text_cfg": text,
  }  # fmt: skip


def _vit(shapes: Shapes) -> dict[str, Any]:
  width, _, patch, _ = shapes["visual.conv1.weight"]
  side = _side(shapes["visual.positional_embedding"])
  return {
    "layers": _blocks(shapes, "visual.transformer.resblocks."),
    "width": width, "patch_size": patch, "image_size": side * patch,
  }  # fmt: skip


def _resnet(shapes: Shapes) -> dict[str, Any]:
  side = _side(shapes["visual.attnpool.positional_embedding"])
  return {
    "layers": [_blocks(shapes, f"visual.layer{i}.") for i in (1, 2, 3, 4)],
    "width": shapes["visual.layer1.0.conv1.weight"][0], "patch_size": None,
    "image_size": side * clip_resnet.STRIDE,
  }  # fmt: skip


def _side(table: tuple[int, ...]) -> int:
  """The side of the grid whose positions follow a first one."""
  return round((table[0] - 1) ** 0.5)


def _blocks(shapes: Shapes, prefix: str) -> int:
  """The number of blocks: of numbers that follow a prefix."""
  found = (k.removeprefix(prefix) for k in shapes if k.startswith(prefix))
  return len({rest.partition(".")[0] for rest in found})
