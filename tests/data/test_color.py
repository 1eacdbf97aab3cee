"""Operations on colors: what is drawn, and what it does."""

import numpy as np
import PIL.Image
import pytest

from big_contrastive.data.transforms import color, operations
from making import NOISE, RNG

IMAGE = PIL.Image.fromarray(NOISE)


@pytest.mark.parametrize("threshold", [0, 1, 128, 255, 256])
def test_solarizing_inverts_from_the_threshold_on(threshold):
  found = operations.solarize(IMAGE, RNG(0), p=1, threshold=threshold)
  want = np.where(threshold > NOISE, NOISE, 255 - NOISE)
  np.testing.assert_array_equal(found, want)
  assert operations.solarize(IMAGE, RNG(0), p=0) is IMAGE


def test_additive_brightness_shifts_all_levels_alike():
  for amount in (-1.0, -0.4, -0.003, 0.1, 0.9):
    found = color.changed(IMAGE, [("brightness", amount)], additive=True)
    want = np.clip(NOISE + 255 * amount, 0, 255).round()
    np.testing.assert_array_equal(found, want)
  both = [("brightness", 0.2), ("contrast", -0.5)]
  found = color.changed(IMAGE, both, additive=True)
  first = color.changed(IMAGE, both[:1], additive=True)
  np.testing.assert_array_equal(found, color.changed(first, both[1:]))


@pytest.mark.parametrize("as_torchvision", [False, True])
def test_a_turn_of_the_hue_is_rounded_as_it_says(as_torchvision):
  """To the nearest of 256 levels, or toward zero of 255."""
  hue = np.asarray(IMAGE.convert("HSV"))[..., 0].astype(int)
  for amount in (-0.5, -0.3, -0.0035, 0.0035, 0.0037, 0.1, 0.499):
    levels = np.trunc(255 * amount) if as_torchvision else np.rint(256 * amount)
    planes = list(IMAGE.convert("HSV").split())
    planes[0] = PIL.Image.fromarray(
      ((hue + int(levels)) % 256).astype(np.uint8)
    )
    found = color.changed(IMAGE, [("hue", amount)], False, as_torchvision)
    want = PIL.Image.merge("HSV", planes).convert("RGB")
    np.testing.assert_array_equal(found, want)


def test_the_order_is_random_or_that_of_the_arguments():
  strengths = (0.4, 0.4, 0.2, 0.1)
  names = ("brightness", "contrast", "saturation", "hue")
  orders = {"random": set(), "fixed": set()}
  for order, seen in orders.items():
    for seed in range(300):
      changes = color.drawn(RNG(seed), strengths, 1.0, order)
      seen.add(tuple(name for name, _ in changes))
  assert orders["fixed"] == {names} and len(orders["random"]) == 24


def test_what_has_no_strength_does_not_happen():
  for seed in range(20):
    changes = color.drawn(RNG(seed), (0.4, 0, 0, 0.1), 1.0, "random")
    assert {name for name, _ in changes} == {"brightness", "hue"}
  drawn = [
    color.drawn(RNG(s), (1, 1, 1, 0.5), 0.8, "fixed") for s in range(500)
  ]
  assert 370 < sum(map(bool, drawn)) < 430


def test_the_operation_does_what_is_drawn():
  kwargs = {"brightness": 1.5, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
  for seed in range(10):
    found = operations.color_jitter(
      IMAGE, RNG(seed), **kwargs, p=0.5, order="fixed", additive=True,
      as_torchvision=True,
    )  # fmt: skip
    changes = color.drawn(RNG(seed), [*kwargs.values()], 0.5, "fixed")
    want = color.changed(IMAGE, changes, True, True)
    np.testing.assert_array_equal(found, want)
