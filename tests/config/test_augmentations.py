"""Recipes of views: the table of their operations, in their order."""

import pytest

from big_contrastive.data.transforms import operations
from configs import augmentations

# crop: area and method; jitter: strengths, p; blur and solarize: p.
CROP, WIDE = ((0.2, 1.0), "bilinear"), ((0.08, 1.0), "bilinear")
BICUBIC = ((0.08, 1.0), "bicubic")
WEAK, STRONG = (0.4, 0.4, 0.2, 0.1, 0.8), (0.8, 0.8, 0.8, 0.2, 0.8)
TABLE = {
  "instdisc": (
    augmentations.instdisc(224),
    "crop gray jitter flip", CROP, (0.4, 0.4, 0.4, 0.4, 1.0), 0, 0,
  ),
  "moco_v2": (
    augmentations.moco_v2(224),
    "crop jitter gray blur flip", CROP, (0.4, 0.4, 0.4, 0.1, 0.8), 0.5, 0,
  ),
  "moco_v3 1": (
    augmentations.moco_v3(224)[0],
    "crop jitter gray blur flip", WIDE, WEAK, 1.0, 0,
  ),
  "moco_v3 2": (
    augmentations.moco_v3(224, 0.2)[1],
    "crop jitter gray blur solarize flip", CROP, WEAK, 0.1, 0.2,
  ),
  "simclr": (
    augmentations.simclr(224),
    "crop flip jitter gray blur", BICUBIC, STRONG, 0.5, 0,
  ),
  "simclr, half": (
    augmentations.simclr(224, 0.5),
    "crop flip jitter gray blur", BICUBIC, (0.4, 0.4, 0.4, 0.1, 0.8), 0.5, 0,
  ),
  "byol 1": (
    augmentations.byol(224)[0],
    "crop flip jitter gray blur", BICUBIC, WEAK, 1.0, 0,
  ),
  "byol 2": (
    augmentations.byol(224)[1],
    "crop flip jitter gray blur solarize", BICUBIC, WEAK, 0.1, 0.2,
  ),
  "swav": (
    augmentations.swav(96, (0.05, 0.14)),
    "crop flip jitter gray blur", ((0.05, 0.14), "bilinear"), STRONG, 0.5, 0,
  ),
  "dino 1": (
    augmentations.dino(224, 96)[0],
    "crop flip jitter gray blur", ((0.4, 1.0), "bicubic"), WEAK, 1.0, 0,
  ),
  "dino 2": (
    augmentations.dino(224, 96)[1],
    "crop flip jitter gray blur solarize",
    ((0.4, 1.0), "bicubic"), WEAK, 0.1, 0.2,
  ),
  "dino, local": (
    augmentations.dino(224, 96, split=0.25)[2],
    "crop flip jitter gray blur", ((0.05, 0.25), "bicubic"), WEAK, 0.5, 0,
  ),
  "mae": (
    augmentations.mae(224), "crop flip", ((0.2, 1.0), "bicubic"), None, 0, 0,
  ),
  "small": (
    augmentations.small(),
    "crop flip jitter gray", WIDE, (0.4, 0.4, 0.4, 0.1, 0.8), 0, 0,
  ),
}  # fmt: skip
NAMES = {
  "crop": "random_resized_crop", "jitter": "color_jitter", "flip": "flip_lr",
  "gray": "grayscale", "blur": "gaussian_blur", "solarize": "solarize",
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_is_that_of_its_paper(name):
  ops, order, crop, jitter, blur, solarize = TABLE[name]
  assert [op for op, _ in ops] == [NAMES[word] for word in order.split()]
  pipeline = operations.parse(ops, "ops")
  found = {
    op.func.__name__: op.func.__kwdefaults__ | op.keywords
    for op in pipeline.ops
  }
  cropped = found["random_resized_crop"]
  assert (cropped["area"], cropped["method"]) == crop
  assert cropped["aspect"] == (3 / 4, 4 / 3) and cropped["as_torchvision"]
  assert pipeline.size == (cropped["size"],) * 2
  assert found["flip_lr"]["p"] == 0.5
  if jitter:
    keys = ("brightness", "contrast", "saturation", "hue", "p")
    assert tuple(found["color_jitter"][k] for k in keys) == jitter
    assert found["color_jitter"]["order"] == "random"
    assert found["color_jitter"]["additive"] == name.startswith("byol")
    assert found["color_jitter"]["as_torchvision"]
    assert found["grayscale"]["p"] == 0.2
  assert found.get("gaussian_blur", {"p": 0})["p"] == blur
  assert found.get("solarize", {"p": 0})["p"] == solarize
  if blur:
    own = name.startswith(("simclr", "byol"))
    assert found["gaussian_blur"]["kernel"] == (23 if own else None)
    assert found["gaussian_blur"]["sigma"] == (0.1, 2.0)
  if solarize:
    assert found["solarize"]["threshold"] == 128


def test_the_kernel_is_a_tenth_of_the_side_made_odd():
  """23 of 224, as in the codes of SimCLR and BYOL."""
  for side, kernel in ((224, 23), (96, 9), (32, 3), (19, 1)):
    assert augmentations.simclr(side)[-1][1]["kernel"] == kernel
