"""Durations in any unit."""

import pytest

from big_contrastive.config import durations, errors

UNIT = {"batch_size": 100, "epoch": 1050, "total": 1000}


@pytest.mark.parametrize(
  ("duration", "steps"),
  [
    (7, 7),
    (0, 0),
    ("7 steps", 7),
    ("1 step", 1),
    ("1_000 steps", 1000),
    ("2k steps", 2000),
    ("1M examples", 10_000),
    ("150 examples", 2),  # Rounded up.
    ("2 epochs", 21),
    ("0.5 epochs", 6),
    ("2%", 20),  # Not 21: 2 / 100 * 1000 is 20.000000000000004 or so.
    ("12.8B examples", 128_000_000),
  ],
)
def test_every_unit_becomes_steps(duration, steps):
  assert durations.steps(duration, "x", **UNIT) == steps


@pytest.mark.parametrize("wrong", ["", "ten steps", "5", -1, 1.5, "5 hours"])
def test_nonsense_is_named(wrong):
  with pytest.raises(errors.UserError, match=r"config\.total"):
    durations.steps(wrong, "config.total", **UNIT)


def test_a_unit_of_unknown_length_is_an_error():
  with pytest.raises(errors.UserError, match="other than %"):
    durations.steps("5%", "config.total", batch_size=1)
  with pytest.raises(errors.UserError, match="other than epoch"):
    durations.steps("5 epochs", "config.total", batch_size=1)
