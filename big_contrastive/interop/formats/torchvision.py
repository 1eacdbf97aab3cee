"""torchvision's ResNets: a state dict in a .safetensors or .pth file.

It is an image tower alone. A state dict says nothing of the preprocessing, for
which torchvision's own is taken, and a ResNet without ImageNet's stem is one
for CIFAR. Our files hold what a state dict lacks in their metadata, which
torchvision doesn't read. Reading .pth needs torch.
"""

import pathlib
import re
from typing import Any

import numpy as np

from big_contrastive.config import errors, schema
from big_contrastive.interop import mapping, sections, state_dicts
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.mapping import Row
from big_contrastive.models import build
from big_contrastive.models.image.resnet import DEPTHS

MAY_LACK: tuple[str, ...] = ("text", "tokenizer")
SUFFIX = state_dicts.SUFFIX

_TOWER = {"tower": "resnet"}
_STEMS = {7: "imagenet", 3: "cifar"}  # By the side of the first convolution.
# torchvision's for ImageNet: ResNet18_Weights.IMAGENET1K_V1.transforms().
_PREPROCESSING: list = [
  ["resize_shortest", {"size": 256, "method": "bilinear", "rounding": "down"}],
  ["center_crop", {"size": 224, "rounding": "nearest"}],
]
# CLIP's ResNets have "visual." before it.
_NAME = re.compile(rb"(?<![\w.])(module\.)?layer1\.0\.conv1\.weight")


def recognize(path: pathlib.Path) -> bool:
  """Whether it is a file of tensors with the names of a ResNet's."""
  return state_dicts.holds(path, _NAME)


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the image tower of a file.

  A classifier, fc, is left out, with a line in the log; in a file of ours it is
  the tower's last linear layer.

  Raises:
    UserError: for a broken file, another architecture than ResNet-18 to -152,
      and tensors that are missing, unknown or misshapen.
  """
  stored, about = state_dicts.read(path)
  stored = mapping.without_counters(stored)
  section = schema.section(about.get("image", {}), f"metadata of {path}")
  section |= _TOWER | _described(stored, path)
  section.setdefault("res", 224 if section["stem"] == "imagenet" else 32)
  stored = _without_classifier(stored, section, path)
  shapes = sections.shapes({"image": section}, 1, 1, bias=False)
  shapes = {k: v for k, v in shapes.items() if k.startswith("img/")}
  flat = mapping.read(_rows(section["depth"]), stored, shapes, str(path))
  ops = [["resize", {"size": section["res"]}]]
  ops = _PREPROCESSING if section["stem"] == "imagenet" else ops
  ops = about.get("eval_image", ops)
  return sections.assembled({"image": section}, flat, image=ops)


def write(model: ModelBundle, path: pathlib.Path) -> None:
  """Writes the state dict of an image tower; heads are left out.

  torchvision's `load_state_dict` takes it, where fc is the last linear layer,
  or an Identity for a tower without one.

  Raises:
    UserError: for another tower than a ResNet, a model with a text tower or a
      decoder, and a path that is no .safetensors.
  """
  image = build.defaults("image", model.model["image"]) | model.model["image"]
  state_dicts.check(model, path)
  sections.require_tower(image, "resnet")
  for name, value in (("norm", "batch"), ("stages", 4)):
    if image[name] != value:
      thing, allowed = f"config.model.image.{name}", f"{value!r} in this format"
      raise errors.UserError(thing, image[name], allowed, sections.ANOTHER)
  flat = state_dicts.tower(model, path.name)
  arrays = mapping.write(_rows(image["depth"]), flat, "a torchvision ResNet")
  state_dicts.write(mapping.with_counters(arrays), path, model)


def _described(
  stored: dict[str, np.ndarray], path: pathlib.Path
) -> dict[str, Any]:
  """Fields of config.model.image that the names and shapes of tensors tell."""
  blocks = []
  for i in range(1, 5):
    found = {k.split(".")[1] for k in stored if k.startswith(f"layer{i}.")}
    blocks.append(len(found))
  kind = tuple(blocks), "layer1.0.conv3.weight" in stored
  depth = next((d for d, size in DEPTHS.items() if size == kind), None)
  if depth is None:
    known = ", ".join(map(str, DEPTHS))
    allowed, remedy = f"those of a ResNet of depth {known}", "Is it another?"
    raise errors.UserError(f"blocks of {path}", kind[0], allowed, remedy)
  first = stored.get("conv1.weight", np.zeros(0)).shape
  if first[1:] not in [(3, n, n) for n in _STEMS] or first[0] % 64:
    allowed = "64 features, or a multiple, by 3 channels by 7 x 7 or 3 x 3"
    remedy = "Give a file of torchvision's ResNet."
    raise errors.UserError(f"conv1.weight of {path}", first, allowed, remedy)
  return {"depth": depth, "width": first[0] // 64, "stem": _STEMS[first[-1]]}


def _without_classifier(
  stored: dict[str, np.ndarray], section: dict[str, Any], path: pathlib.Path
) -> dict[str, np.ndarray]:
  """The tensors that the tower of a section has."""
  if not section.get("out_dim"):
    return state_dicts.without("fc", stored, path)
  return {
    k: v for k, v in stored.items() if k != "fc.bias" or section.get("out_bias")
  }


def _rows(depth: int) -> list[Row]:
  """The table of a ResNet of that depth."""
  blocks, _ = DEPTHS[depth]
  rows = _convolution("stem", "conv1", "bn1")
  for i, count in enumerate(blocks):
    for j in range(count):
      ours, theirs = f"stage{i + 1}/block{j}", f"layer{i + 1}.{j}"
      for n in (1, 2, 3):
        names = f"{theirs}.conv{n}", f"{theirs}.bn{n}"
        rows += _convolution(f"{ours}/conv{n}", *names)
      down = f"{theirs}.downsample"
      rows += _convolution(f"{ours}/shortcut", f"{down}.0", f"{down}.1")
  return [*rows, *mapping.linear("img/project", "fc")]


def _convolution(ours: str, conv: str, norm: str) -> list[Row]:
  kernel = Row((f"img/{ours}/conv/kernel",), f"{conv}.weight", "convolution")
  return [kernel, *mapping.batch_norm(f"img/{ours}/norm", norm)]
