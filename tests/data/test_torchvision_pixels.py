"""Operations and recipes of views give torchvision's pixels on PIL images."""

import math
import types

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

import peers
from big_contrastive.data.transforms import blur, color, geometry, operations
from configs import augmentations
from making import NOISE, RNG, smooth

pytestmark = pytest.mark.peers

torch = peers.torch()
transforms = pytest.importorskip("torchvision.transforms.transforms")
functional = pytest.importorskip("torchvision.transforms.functional")

# Smooth, with noise: 120 x 100 pixels.
PICTURE = (
  np.asarray(smooth(100, 120)) // 2 + np.tile(NOISE, (3, 2, 1))[:100] // 2
)
STRIPS = ((120, 100), (500, 10), (10, 500), (33, 40), (7, 5), (1, 9))


class Given:
  """A generator, and torch's functions, whose draws are given."""

  def __init__(self, draws, places):
    self._draws, self._places = iter(draws), iter(places)

  def uniform(self, low, high):
    return low + (high - low) * next(self._draws)

  def random(self):
    return next(self._places)


class Value(float):
  def item(self):
    return float(self)


def of_torch(given):
  """The part of torch that RandomResizedCrop.get_params uses, in float64."""
  uniform_ = lambda low, high: Value(given.uniform(low, high))  # noqa: E731
  return types.SimpleNamespace(
    tensor=list,
    log=lambda values: [math.log(value) for value in values],
    exp=lambda value: Value(math.exp(value)),
    empty=lambda n: types.SimpleNamespace(uniform_=uniform_),
    randint=lambda low, high, size: Value(int(given.random() * high)),
  )


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("size", STRIPS)
def test_boxes_are_those_of_the_same_draws(size, area, monkeypatch):
  picture, kinds = PIL.Image.new("RGB", size), set()
  aspect = (3 / 4, 4 / 3)
  for seed in range(60):
    draws, (left, top) = RNG(seed).random(20), RNG(seed + 1000).random(2)
    box = geometry.part(
      size, Given(draws, (left, top)), area, aspect, central=True
    )
    theirs = of_torch(Given(draws, (top, left)))
    monkeypatch.setattr(transforms, "torch", theirs)
    y, x, h, w = transforms.RandomResizedCrop.get_params(picture, area, aspect)
    assert box == (x, y, x + w, y + h)
    kinds.add(box)
  # Where ten draws never fit, there is one box: see test_operations.py.
  assert len(kinds) > 20 if size == (120, 100) and area[0] < 1 else kinds


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_a_crop_is_cut_and_then_resized(method):
  for size in (24, (30, 20), 160):
    op = {"size": size, "method": method, "as_torchvision": True}
    pipeline = operations.parse([("random_resized_crop", op)], "ops")
    plain = operations.parse(
      [("random_resized_crop", op | {"as_torchvision": False})], "ops"
    )
    same = 0
    for seed in range(20):
      image, found = PIL.Image.fromarray(PICTURE), pipeline(PICTURE, RNG(seed))
      kwargs = {"area": (0.08, 1), "aspect": (3 / 4, 4 / 3), "central": True}
      box = geometry.part(image.size, RNG(seed), **kwargs)
      np.testing.assert_array_equal(found, cut(image, box, size, method))
      same += (found == plain(PICTURE, RNG(seed))).all()
    assert same < 10  # Usually pixels beside the box count, without it.


def cut(image, box, size, method):
  left, top, right, bottom = box
  mode = transforms.InterpolationMode(method)
  size = [size] * 2 if isinstance(size, int) else list(size)
  return functional.resized_crop(
    image, top, left, bottom - top, right - left, size, mode
  )


ADJUST = {
  "brightness": lambda image, amount: functional.adjust_brightness(
    image, 1 + amount
  ),
  "contrast": lambda image, amount: functional.adjust_contrast(
    image, 1 + amount
  ),
  "saturation": lambda image, amount: functional.adjust_saturation(
    image, 1 + amount
  ),
  "hue": functional.adjust_hue,
}


@pytest.mark.parametrize("name", ADJUST)
@pytest.mark.parametrize("amount", [-0.5, -0.3, -0.001, 0.002, 0.1, 0.499])
def test_each_change_of_color_is_the_same(name, amount):
  image = PIL.Image.fromarray(PICTURE)
  found = color.changed(image, [(name, amount)], as_torchvision=True)
  np.testing.assert_array_equal(found, ADJUST[name](image, amount))


def test_strengths_mean_the_same_factors():
  """Also those above 1: no factor is below 0."""
  for strengths in ((0.4, 0.4, 0.2, 0.1), (1.2, 0.8, 1.6, 0.2)):
    jitter = transforms.ColorJitter(*strengths)
    drawn = [color.drawn(RNG(s), strengths, 1, "random") for s in range(400)]
    assert {tuple(n for n, _ in changes) for changes in drawn} >= {
      ("brightness", "contrast", "saturation", "hue"),
      ("hue", "saturation", "contrast", "brightness"),
    }
    for name in ADJUST:
      bounds = np.array(getattr(jitter, name)) - (name != "hue")
      found = np.array([dict(changes)[name] for changes in drawn])
      assert bounds[0] <= found.min() and found.max() <= bounds[1]
      assert np.ptp(found) > 0.97 * np.ptp(bounds)


def test_gray_solarized_and_mirrored_pixels_are_the_same():
  image = PIL.Image.fromarray(PICTURE)
  for found, want in (
    (operations.grayscale(image, RNG(0), p=1), transforms.Grayscale(3)(image)),
    (operations.flip_lr(image, RNG(0), p=1), functional.hflip(image)),
    *(
      (
        operations.solarize(image, RNG(0), p=1, threshold=level),
        functional.solarize(image, level),
      )
      for level in (0, 60, 128, 255)
    ),
  ):
    np.testing.assert_array_equal(found, want)


# --- Recipes: what is drawn is ours, what is done to pixels is torchvision's.


def _crop(image, rng, *, size, area, aspect, method, as_torchvision):
  assert as_torchvision
  box = geometry.part(image.size, rng, area, aspect, central=True)
  return cut(image, box, size, method)


def _jitter(image, rng, *, p, order, additive, as_torchvision, **strengths):
  names = ("brightness", "contrast", "saturation", "hue")
  assert as_torchvision
  for name, amount in color.drawn(rng, [strengths[n] for n in names], p, order):
    if additive and name == "brightness":
      levels = np.asarray(image, float) + 255 * amount
      image = PIL.Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
    else:
      image = ADJUST[name](image, amount)
  return image


def _blur(image, rng, *, p, sigma, kernel):
  sigma = blur.drawn(rng, p, sigma)
  if sigma is None:
    return image
  if kernel is None:
    return image.filter(PIL.ImageFilter.GaussianBlur(radius=sigma))
  at = torch.arange(kernel, dtype=torch.float64) - kernel // 2
  row = torch.exp(-(at**2) / (2 * sigma**2))
  weights = torch.outer(row, row) / row.sum() ** 2
  planes = torch.tensor(np.asarray(image, float)).permute(2, 0, 1)[:, None]
  exact = torch.nn.functional.conv2d(
    planes, weights[None, None], padding=kernel // 2
  )
  levels = exact[:, 0].permute(1, 2, 0).numpy().round().astype(np.uint8)
  return PIL.Image.fromarray(levels)


THEIRS = {
  "random_resized_crop": _crop,
  "color_jitter": _jitter,
  "gaussian_blur": _blur,
  "flip_lr": lambda image, rng, *, p: (
    functional.hflip(image) if rng.random() < p else image
  ),
  "grayscale": lambda image, rng, *, p: (
    functional.rgb_to_grayscale(image, 3) if rng.random() < p else image
  ),
  "solarize": lambda image, rng, *, p, threshold: (
    functional.solarize(image, threshold) if rng.random() < p else image
  ),
}
RECIPES = {
  "instdisc": augmentations.instdisc(64),
  "moco_v2": augmentations.moco_v2(64),
  "moco_v3, first": augmentations.moco_v3(64)[0],
  "moco_v3, second": augmentations.moco_v3(64, 0.2)[1],
  "simclr": augmentations.simclr(64),
  "simclr, half": augmentations.simclr(64, strength=0.5),
  "byol, first": augmentations.byol(64)[0],
  "byol, second": augmentations.byol(64)[1],
  "swav": augmentations.swav(64, (0.14, 1.0)),
  "dino, second": augmentations.dino(64, 32)[1],
  "dino, local": augmentations.dino(64, 32)[2],
  "mae": augmentations.mae(64),
  "small": augmentations.small(32),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_the_pixels_of_the_same_operations(name):
  """A kernel's weights are float32 here: one in thousands is a level off."""
  pipeline = operations.parse(RECIPES[name], "ops")
  kernel = any("kernel" in op.keywords for op in pipeline.ops)
  off = []
  for seed in range(40):
    image, rng = PIL.Image.fromarray(PICTURE), RNG(seed)
    for op in pipeline.ops:
      kwargs = op.func.__kwdefaults__ | op.keywords
      image = THEIRS[op.func.__name__](image, rng, **kwargs)
    found = pipeline(PICTURE, RNG(seed)).astype(int)
    off.append(np.abs(found - np.asarray(image)))
  assert np.max(off) <= kernel and np.mean(off) < 1e-3
