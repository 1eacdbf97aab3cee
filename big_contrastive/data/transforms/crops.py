"""Operations of operations.parse that cut, resize or mirror an image."""

from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps

from big_contrastive.data.transforms import geometry
from big_contrastive.data.transforms import naflex as patches
from big_contrastive.data.transforms.decode import limited

Image = PIL.Image.Image
Rng = Any  # np.random.Generator; None in evaluation.
Method = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Rounding = Literal["nearest", "down"]
Size = int | tuple | list


def resize(
  image: Image,
  rng: Rng,
  *,
  size: Size,
  method: Method = "bicubic",
  antialias: bool = True,
) -> Image:
  """Squashes to the size; without antialias as tf.image.resize by default."""
  h, w = pair(size)
  if antialias:
    return image.resize((w, h), resampling(method))
  box, kind = (0, 0, *image.size), PIL.Image.Transform.EXTENT
  return image.transform((w, h), kind, box, resampling(method))


def resize_shortest(
  image: Image,
  rng: Rng,
  *,
  size: int,
  method: Method = "bicubic",
  rounding: Rounding = "nearest",
) -> Image:
  """Resizes so that the shorter side is `size`, antialiased.

  The longer side is rounded: "down" by torchvision and transformers. A result
  that is too large is a bad record, unless a crop follows: see Pipeline.
  """
  w, h = geometry.longer(image.size, size, rounding)
  return image.resize(limited(w, h), resampling(method))


def center_crop(
  image: Image, rng: Rng, *, size: Size, rounding: Rounding = "down"
) -> Image:
  """Cuts the size out of the middle; a smaller image is padded black.

  The corner is rounded: "nearest", and half to even, by torchvision.
  """
  left, top = geometry.middle(image.size, pair(size), rounding)
  return framed(image, left, top, pair(size))


def random_crop(
  image: Image, rng: Rng, *, size: Size, padding: int = 0
) -> Image:
  """Cuts the size out at a random position; padding repeats the edge."""
  crop = geometry.cut(np.asarray(image), rng, pair(size), padding)
  return PIL.Image.fromarray(crop)


def random_resized_crop(
  image: Image,
  rng: Rng,
  *,
  size: Size,
  area: tuple | list = (0.08, 1.0),
  aspect: tuple | list = (3 / 4, 4 / 3),
  method: Method = "bicubic",
  as_torchvision: bool = False,
) -> Image:
  """Cuts out a box and resizes it, antialiased (arXiv:1409.4842, section 6).

  Its fraction of the area and its width / height are drawn between the bounds.
  If ten draws don't fit, it is the largest box with an allowed width / height,
  anywhere; as_torchvision, in the middle. As_torchvision, no pixel from outside
  the box counts; otherwise those beside it count at its edges.
  """
  box = geometry.part(image.size, rng, area, aspect, central=as_torchvision)
  how = pair(size), resampling(method)
  return geometry.resized(image, box, *how, inside=as_torchvision)


def flip_lr(image: Image, rng: Rng, *, p: float = 0.5) -> Image:
  """Mirrors left and right with probability p."""
  return PIL.ImageOps.mirror(image) if rng.random() < p else image


def naflex(
  image: Image,
  rng: Rng,
  *,
  patch: int,
  most: int,
  method: Method = "bilinear",
) -> np.ndarray:
  """Keeps the shape: resizes to at most `most` patches, and cuts them out.

  Must be the last operation, with config.model.image.max_patches = most
  (SigLIP 2's NaFlex, arXiv:2502.14786): uint8 [most + 1, patch * patch, 3].
  """
  w, h = patches.fit(image.size, patch, most)
  resized = image.resize((w * patch, h * patch), resampling(method))
  return patches.pack(np.asarray(resized), patch, most)


def pair(size: Size) -> tuple[int, int]:
  """Returns height and width."""
  return (size, size) if isinstance(size, int) else (size[0], size[1])


def framed(image: Image, left: int, top: int, size: tuple[int, int]) -> Image:
  """Returns a box of height and width `size`; outside of the image is black."""
  return image.crop((left, top, left + size[1], top + size[0]))


def resampling(method: str) -> PIL.Image.Resampling:
  """Returns PIL's name of a method."""
  return PIL.Image.Resampling[method.upper()]
