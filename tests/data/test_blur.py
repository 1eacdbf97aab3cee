"""Gaussian blur: against the sum that defines it, and PIL."""

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest

from big_contrastive.data.transforms import blur, operations
from making import NOISE, RNG, run


def convolved(pixels, kernel, sigma):
  """The sum over a kernel x kernel square, in float64; black outside."""
  half = kernel // 2
  at = np.arange(-half, half + 1)
  weights = np.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
  weights /= weights.sum()
  height, width, _ = pixels.shape
  wide = np.pad(pixels.astype(float), ((half, half), (half, half), (0, 0)))
  total = np.zeros(pixels.shape)
  for i in range(kernel):
    for j in range(kernel):
      total += weights[i, j] * wide[i : i + height, j : j + width]
  return total


@pytest.mark.parametrize("sigma", [0.1, 0.35, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("kernel", [1, 3, 23, 61])
def test_a_kernel_is_a_gaussian_that_is_cut_off(kernel, sigma):
  """The nearest level; also of a kernel that is wider than the picture."""
  found = np.asarray(blur.blurred(PIL.Image.fromarray(NOISE), sigma, kernel))
  assert np.abs(found - convolved(NOISE, kernel, sigma)).max() < 0.5 + 1e-4


def test_a_kernel_darkens_the_edges_of_a_constant_picture_alone():
  white = PIL.Image.new("RGB", (40, 30), "white")
  found = np.asarray(blur.blurred(white, 2.0, 9))
  assert (found[4:-4, 4:-4] == 255).all() and found[0, 0, 0] < 120
  assert (np.asarray(blur.blurred(white, 2.0)) == 255).all()


def test_without_a_kernel_it_is_that_of_pil():
  op = ("gaussian_blur", {"p": 1, "sigma": (0.7, 0.7)})
  found = run(("center_crop", {"size": 40}), op, seed=0)
  picture = PIL.Image.fromarray(NOISE[:, 10:50])
  want = picture.filter(PIL.ImageFilter.GaussianBlur(radius=0.7))
  np.testing.assert_array_equal(found, want)


def test_sigma_is_uniform_and_blur_as_often_as_said():
  drawn = [blur.drawn(RNG(seed), 0.3, (0.1, 2.0)) for seed in range(1000)]
  sigmas = [sigma for sigma in drawn if sigma is not None]
  assert 250 < len(sigmas) < 350
  assert 0.1 <= min(sigmas) < 0.15 and 1.95 < max(sigmas) <= 2
  assert abs(np.mean(sigmas) - 1.05) < 0.1
  image = PIL.Image.fromarray(NOISE)
  for seed in range(20):
    same = operations.gaussian_blur(image, RNG(seed), p=0.3) is image
    assert same == (drawn[seed] is None)
