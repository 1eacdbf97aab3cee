"""Augmentations of self-supervised recipes, as operations of config.views.

  config.views = {"pair": {"ops": augmentations.moco_v2(224), "count": 2}}

`size` is the side of a view, `area` the part of the image in a crop. Pixels are
torchvision's on PIL images, for the same random numbers. Of the codes in
TensorFlow and JAX (SimCLR, BYOL) order, strengths, blur and BYOL's additive
brightness are kept. They also scale contrast about each channel's mean and
saturation in HSV and round only at the end, and SimCLR draws the width / height
of crops uniformly and one sigma a batch.
"""

from typing import Any

Ops = list[tuple[str, dict[str, Any]]]
_FLIP = ("flip_lr", {})
_GRAY = ("grayscale", {"p": 0.2})
_SOLARIZE = ("solarize", {"p": 0.2, "threshold": 128})


def instdisc(size: int) -> Ops:
  """Returns those of InstDisc (arXiv:1805.01978) and MoCo (1911.05722)."""
  crop, jitter = _crop(size, 0.2), _jitter(0.4, 0.4, 0.4, 0.4, p=1.0)
  return [crop, _GRAY, jitter, _FLIP]


def moco_v2(size: int, least: float = 0.2) -> Ops:
  """Returns those of MoCo v2 (arXiv:2003.04297) and SimSiam (2011.10566)."""
  # SLIP (2112.12750) has a least area of 0.08.
  crop, jitter = _crop(size, least), _jitter(0.4, 0.4, 0.4, 0.1)
  return [crop, jitter, _GRAY, _blur(0.5), _FLIP]


def moco_v3(size: int, least: float = 0.08) -> tuple[Ops, Ops]:
  """Returns those of MoCo v3's two views (2104.02057); least 0.2 in ResNets."""
  start = [_crop(size, least), _jitter(0.4, 0.4, 0.2, 0.1), _GRAY]
  second = [*start, _blur(0.1), _SOLARIZE, _FLIP]
  return [*start, _blur(1.0), _FLIP], second


def simclr(size: int, strength: float = 1.0) -> Ops:
  """Returns those of SimCLR (arXiv:2002.05709); strength is the jitter's."""
  start = _simclr(size, strength, _crop(size, 0.08, method="bicubic"))
  return [*start, _blur(0.5, tenth_of=size)]


def small(size: int = 32, strength: float = 0.5, least: float = 0.08) -> Ops:
  """Returns those of SimCLR and MoCo v2 on CIFAR: no blur."""
  return _simclr(size, strength, _crop(size, least))


def byol(size: int) -> tuple[Ops, Ops]:
  """Returns those of BYOL's two views (arXiv:2006.07733)."""
  jitter = _jitter(0.4, 0.4, 0.2, 0.1, additive=True)
  start = [_crop(size, 0.08, method="bicubic"), _FLIP, jitter, _GRAY]
  first, second = (_blur(p, tenth_of=size) for p in (1.0, 0.1))
  return [*start, first], [*start, second, _SOLARIZE]


def swav(size: int, area: tuple[float, float]) -> Ops:
  """Returns those of SwAV (arXiv:2006.09882), for the views of one size."""
  # Two of size 224 have the area (0.14, 1), six of size 96 (0.05, 0.14).
  return [*_simclr(size, 1.0, _crop(size, *area)), _blur(0.5)]


def dino(size: int, local_size: int, split: float = 0.4) -> tuple[Ops, ...]:
  """Returns those of DINO's two global and of its local views (2104.14294)."""
  # The split is the least area of global crops, and the largest of local ones.
  crop = _crop(size, split, method="bicubic")
  rest = [_FLIP, _jitter(0.4, 0.4, 0.2, 0.1), _GRAY]
  local = [_crop(local_size, 0.05, split, method="bicubic"), *rest, _blur(0.5)]
  second = [crop, *rest, _blur(0.1), _SOLARIZE]
  return [crop, *rest, _blur(1.0)], second, local


def mae(size: int) -> Ops:
  """Returns those of MAE (arXiv:2111.06377)."""
  return [_crop(size, 0.2, method="bicubic"), _FLIP]


def _simclr(size, strength, crop):
  strengths = [strength * part for part in (0.8, 0.8, 0.8, 0.2)]
  return [crop, _FLIP, _jitter(*strengths), _GRAY]


def _crop(size, least, most=1.0, *, method="bilinear"):
  kwargs = {"size": size, "area": (least, most), "method": method}
  return "random_resized_crop", kwargs | {"as_torchvision": True}


def _jitter(brightness, contrast, saturation, hue, p=0.8, **more):
  kwargs = {"brightness": brightness, "contrast": contrast}
  kwargs |= {"saturation": saturation, "hue": hue, "p": p, **more}
  return "color_jitter", kwargs | {"as_torchvision": True}


def _blur(p, tenth_of=None):
  # A tenth of the side, made odd as in the codes of SimCLR and BYOL.
  kernel = {"kernel": 2 * (tenth_of // 20) + 1} if tenth_of else {}
  return "gaussian_blur", {"p": p, "sigma": (0.1, 2.0), **kernel}
