"""The learning rates of published codes, each from its own formula.

Theirs are plain Python in float64, of the numbers of their ImageNet recipes;
ours come from the config that a recipe would have.
"""

import math

import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.factory import parts
from big_contrastive.training import schedules

IMAGES = 1_281_167


def ours(schedule, peak, batch, per_epoch, total):
  """step -> rate, of a config; an epoch has whole batches, as theirs have."""
  unit = {"batch_size": batch, "epoch": batch * per_epoch, "total": total}
  rules = {"decay": [(".*", 0.0)], "lr_mult": [(".*", 1.0)]}
  optimizer = {"name": "sgd", "lr": peak}
  return parts.optimizer(optimizer, schedule, rules, ["w"], unit)[0]


def cosine(done):
  return 0.5 * (1 + math.cos(math.pi * done))


def simclr(t):
  """Batch 4096, 100 epochs; peak 0.3 * B / 256 (model_util.py, lars)."""
  warm, total = 10 * IMAGES // 4096, 100 * IMAGES // 4096 + 1
  peak = 0.3 * 4096 / 256
  if t < warm:
    return t / warm * peak
  return peak * cosine((t - warm) / (total - warm))


def moco_v1(t):
  """Batch 256, 200 epochs: a tenth from epoch 120, and again from 160."""
  epoch, rate = t // 5004, 0.03
  for milestone in (120, 160):
    rate *= 0.1 if epoch >= milestone else 1
  return rate


def moco_v2(t):
  """The same epochs; the cosine of the epoch's whole number."""
  return 0.03 * cosine((t // 5004) / 200)


def moco_v3(t):
  """ResNet-50, batch 4096, 100 epochs: of fractions of epochs."""
  epoch, peak = t / 312, 0.6 * 4096 / 256
  if epoch < 10:
    return peak * epoch / 10
  return peak * cosine((epoch - 10) / (100 - 10))


def byol(t):
  """Batch 4096, 1000 epochs, peak 0.2 * B / 256."""
  warm, total = 10 * IMAGES // 4096, 1000 * IMAGES // 4096
  peak = 0.2 * 4096 / 256
  if t < warm:
    return t / warm * peak
  return peak * cosine(min(t - warm, total - warm) / (total - warm))


def simsiam(t):
  """Batch 512, 100 epochs, peak 0.05 * B / 256."""
  return 0.05 * 512 / 256 * cosine((t // 2502) / 100)


def simsiam_predictor(t):
  return 0.05 * 512 / 256


def swav(t):
  """Batch 4096, 400 epochs: linspace from 0.3 to 4.8, then to 4.8e-3."""
  warm, total, peak, last = 312 * 10, 312 * 400, 4.8, 4.8e-3
  if t < warm:
    return 0.3 + (peak - 0.3) * t / (warm - 1)
  return last + (peak - last) * cosine((t - warm) / (total - warm))


def dino(t):
  """Batch 1024, 100 epochs: linspace from 0, then to 1e-6."""
  warm, total, peak, last = 1251 * 10, 1251 * 100, 0.0005 * 1024 / 256, 1e-6
  if t < warm:
    return peak * t / (warm - 1)
  return last + (peak - last) * cosine((t - warm) / (total - warm))


def mae(t):
  """Batch 4096, 800 epochs, of fractions of epochs."""
  epoch, peak = t / 312, 1.5e-4 * 4096 / 256
  if epoch < 40:
    return peak * epoch / 40
  return peak * cosine((epoch - 40) / (800 - 40))


_FROM_0 = {"decay": "cosine", "warmup_includes": "start"}
_BOTH = {"decay": "cosine", "warmup": "10 epochs", "warmup_includes": "both"}
# Config, peak, batch, steps of an epoch, steps of the run, steps of interest.
OFFICIAL = {
  simclr: (_FROM_0 | {"warmup": 3127}, 4.8, 4096, 312, 31_279, [3127]),
  moco_v1: (
    {"decay": "steps", "milestones": ["120 epochs", "160 epochs"]},
    0.03, 256, 5004, 200 * 5004, [120 * 5004, 160 * 5004],
  ),
  moco_v2: (
    {"decay": "cosine", "every": "1 epoch"},
    0.03, 256, 5004, 200 * 5004, [5004, 77 * 5004],
  ),
  moco_v3: (
    _FROM_0 | {"warmup": "10 epochs"}, 9.6, 4096, 312, 100 * 312, [3120],
  ),
  byol: (_FROM_0 | {"warmup": 3127}, 3.2, 4096, 312, 312_784, [3127]),
  simsiam: (
    {"decay": "cosine", "every": "1 epoch"},
    0.1, 512, 2502, 100 * 2502, [2502, 61 * 2502],
  ),
  simsiam_predictor: (
    {"decay": "constant"}, 0.1, 512, 2502, 100 * 2502, [2502]
  ),
  swav: (
    _BOTH | {"warmup_from": 0.3 / 4.8, "end": 1e-3},
    4.8, 4096, 312, 400 * 312, [3120],
  ),
  dino: (_BOTH | {"end": 5e-4}, 2e-3, 1024, 1251, 100 * 1251, [12_510]),
  mae: (_FROM_0 | {"warmup": "40 epochs"}, 2.4e-3, 4096, 312, 800 * 312,
        [12_480]),
}  # fmt: skip


@pytest.mark.parametrize("theirs", OFFICIAL, ids=lambda f: f.__name__)
def test_an_official_schedule_is_ours_at_every_turn(theirs):
  schedule, peak, batch, per_epoch, total, turns = OFFICIAL[theirs]
  rate = ours(schedule, peak, batch, per_epoch, total)
  near = [t + d for t in turns for d in (-1, 0, 1)]
  steps = [0, 1, *near, total // 2, total - 2, total - 1]
  wanted = [theirs(t) for t in steps]
  found = [float(rate(t)) for t in steps]
  # A cosine of float32 is off by 1e-7 of the peak, also where it's near 0.
  np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-7 * peak)


def test_the_first_step_and_the_peak_are_where_each_code_has_them():
  """At W - 1 in our own way and in numpy's linspace; else at W, from 0."""
  for includes, first, last, after in (
    ("peak", 0.2, 1.0, 1.0), ("start", 0.0, 0.8, 1.0), ("both", 0.0, 1.0, 1.0)
  ):  # fmt: skip
    rate = schedules.schedule(
      1.0, 100, decay="constant", warmup=5, warmup_includes=includes
    )
    found = [float(rate(t)) for t in (0, 4, 5, 99)]
    np.testing.assert_allclose(found, [first, last, after, 1.0], rtol=1e-6)


@pytest.mark.parametrize("warmup", [1, 2, 7])
@pytest.mark.parametrize("start", [0.0, 0.0625])
def test_a_warm_up_with_both_ends_is_numpys_linspace(warmup, start):
  rate = schedules.schedule(
    2.0, 20, decay="constant", warmup=warmup, warmup_from=start,
    warmup_includes="both",
  )  # fmt: skip
  found = [float(rate(t)) for t in range(warmup + 1)]
  wanted = [*np.linspace(2 * start, 2, warmup), 2]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_rate_stays_the_same_for_as_long_as_it_should():
  kwargs = dict(peak=3.0, total=40_000_000, decay="linear", warmup=0)
  every, smooth = (schedules.schedule(every=n, **kwargs) for n in (5004, 1))
  # The last is beyond the whole numbers of float32, and ends all the same.
  for epoch in (0, 1, 100, 4000):
    first = epoch * 5004
    for step in (first, first + 5003):
      assert float(every(step)) == float(smooth(first))
    assert float(every(first + 5004)) != float(every(first))


def test_milestones_multiply_also_after_a_warm_up():
  rate = schedules.schedule(
    8.0, 40, decay="steps", warmup=4, milestones=[2, 10, 10, 30], factor=0.5
  )
  steps = [0, 1, 2, 3, 9, 10, 29, 30, 39]
  wanted = [2.0, 4.0, 3.0, 4.0, 4.0, 1.0, 1.0, 0.5, 0.5]
  np.testing.assert_allclose([float(rate(t)) for t in steps], wanted, rtol=1e-6)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"decay": "steps"}, "milestones is missing; expected one or more"),
    ({"decay": "steps", "milestones": []}, r"milestones = \[\]; expected one"),
    ({"decay": "steps", "milestones": [5, 3]}, r"\[5, 3\]; .*ascending"),
    ({"milestones": [5]}, r'milestones = \[5\]; .*None with decay = "cosine"'),
    ({"decay": "steps", "milestones": [5], "factor": -1.0}, "factor = -1.0"),
    ({"warmup_from": 1.5}, "warmup_from = 1.5; .*from 0 to 1"),
    ({"warmup_from": float("nan")}, "warmup_from = nan"),
    ({"end": -0.5}, "end = -0.5"),
    ({"every": 0}, "every = 0; expected one step or more"),
  ],
)
def test_a_wrong_schedule_names_its_argument(fields, said):
  with pytest.raises(errors.UserError, match=said):
    schedules.schedule(1.0, 10, **{"decay": "cosine", "warmup": 0} | fields)
