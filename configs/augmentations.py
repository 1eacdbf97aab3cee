"""Augmentations of self-supervised recipes, as operations of config.views.

  config.views = {"views": {"ops": augmentations.moco_v2(224), "count": 2}}

Pixels are those of torchvision on PIL images, for the same random numbers. Of
the codes in TensorFlow and JAX (SimCLR, BYOL) the order, strengths and blur are
kept, and BYOL's additive brightness; they change contrast about each channel's
mean and saturation as that of HSV, keep fractions between operations, and
SimCLR draws the width / height of boxes uniformly.
"""

from typing import Any

Op = tuple[str, dict[str, Any]]
Ops = list[Op]
Area = tuple[float, float]

_FLIP = ("flip_lr", {})
_GRAY = ("grayscale", {"p": 0.2})


def instdisc(size: int) -> Ops:
  """Returns those of InstDisc (arXiv:1805.01978) and MoCo (1911.05722)."""
  jitter = _jitter(0.4, 0.4, 0.4, 0.4, p=1.0)
  return [_crop(size, (0.2, 1.0), "bilinear"), _GRAY, jitter, _FLIP]


def moco_v2(size: int) -> Ops:
  """Returns those of MoCo v2 (arXiv:2003.04297) and SimSiam (2011.10566)."""
  crop = _crop(size, (0.2, 1.0), "bilinear")
  return [crop, _jitter(0.4, 0.4, 0.4, 0.1), _GRAY, _blur(0.5), _FLIP]


def moco_v3(size: int, area: Area = (0.08, 1.0)) -> tuple[Ops, Ops]:
  """Returns those of MoCo v3's two views (arXiv:2104.02057).

  Args:
    size: side of the views.
    area: fraction of it in a crop; the paper's ResNet-50 has (0.2, 1).
  """
  crop, jitter = _crop(size, area, "bilinear"), _jitter(0.4, 0.4, 0.2, 0.1)
  return (
    [crop, jitter, _GRAY, _blur(1.0), _FLIP],
    [crop, jitter, _GRAY, _blur(0.1), _solarize(0.2), _FLIP],
  )


def simclr(size: int, strength: float = 1.0) -> Ops:
  """Returns those of SimCLR (arXiv:2002.05709).

  Args:
    size: side of the views.
    strength: of the color jitter.
  """
  jitter = _jitter(*(s * strength for s in (0.8, 0.8, 0.8, 0.2)))
  crop = _crop(size, (0.08, 1.0), "bicubic")
  return [crop, _FLIP, jitter, _GRAY, _blur(0.5, _tenth(size))]


def byol(size: int) -> tuple[Ops, Ops]:
  """Returns those of BYOL's two views (arXiv:2006.07733)."""
  crop, kernel = _crop(size, (0.08, 1.0), "bicubic"), _tenth(size)
  jitter = _jitter(0.4, 0.4, 0.2, 0.1, additive=True)
  return (
    [crop, _FLIP, jitter, _GRAY, _blur(1.0, kernel)],
    [crop, _FLIP, jitter, _GRAY, _blur(0.1, kernel), _solarize(0.2)],
  )


def swav(size: int, area: Area) -> Ops:
  """Returns those of a size of SwAV's views (arXiv:2006.09882).

  Args:
    size: side of the views: 224 of two, 96 of six.
    area: fraction of it in a crop: (0.14, 1) and (0.05, 0.14).
  """
  jitter = _jitter(0.8, 0.8, 0.8, 0.2)
  return [_crop(size, area, "bilinear"), _FLIP, jitter, _GRAY, _blur(0.5)]


def dino(
  size: int, local_size: int, split: float = 0.4
) -> tuple[Ops, Ops, Ops]:
  """Returns those of DINO's two global and of its local views (2104.14294).

  Args:
    size: side of the global views: 224.
    local_size: side of the local views: 96.
    split: fraction of the area that divides global from local crops.
  """
  jitter = _jitter(0.4, 0.4, 0.2, 0.1)
  crop = _crop(size, (split, 1.0), "bicubic")
  local = _crop(local_size, (0.05, split), "bicubic")
  return (
    [crop, _FLIP, jitter, _GRAY, _blur(1.0)],
    [crop, _FLIP, jitter, _GRAY, _blur(0.1), _solarize(0.2)],
    [local, _FLIP, jitter, _GRAY, _blur(0.5)],
  )


def mae(size: int) -> Ops:
  """Returns those of MAE (arXiv:2111.06377)."""
  return [_crop(size, (0.2, 1.0), "bicubic"), _FLIP]


def small(size: int = 32, strength: float = 0.5) -> Ops:
  """Returns those of SimCLR and MoCo on CIFAR: no blur.

  Args:
    size: side of the views.
    strength: of the color jitter.
  """
  jitter = _jitter(*(s * strength for s in (0.8, 0.8, 0.8, 0.2)))
  return [_crop(size, (0.08, 1.0), "bilinear"), _FLIP, jitter, _GRAY]


def _crop(size: int, area: Area, method: str) -> Op:
  kwargs = {"size": size, "area": area, "method": method}
  return "random_resized_crop", kwargs | {"as_torchvision": True}


def _jitter(
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
  p: float = 0.8,
  additive: bool = False,
) -> Op:
  kwargs = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation,
    "hue": hue, "p": p, "as_torchvision": True,
  }  # fmt: skip
  return "color_jitter", kwargs | ({"additive": True} if additive else {})


def _blur(p: float, kernel: int | None = None) -> Op:
  kwargs: dict[str, Any] = {"p": p, "sigma": (0.1, 2.0)}
  return "gaussian_blur", kwargs | ({"kernel": kernel} if kernel else {})


def _tenth(size: int) -> int:
  """The kernel of a tenth of the side, made odd: 23 of 224."""
  return 2 * (size // 20) + 1


def _solarize(p: float) -> Op:
  return "solarize", {"p": p, "threshold": 128}
