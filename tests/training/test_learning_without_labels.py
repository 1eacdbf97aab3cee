"""The smoke runs of self-supervised methods: better than chance.

That is no learning: an untrained tower sees colors, too. See LOG.md.
"""

import pytest

import tiny
from big_contrastive.factory import experiment
from big_contrastive.training import loop

METHODS = ["simclr", "moco", "moco_v3", "byol", "simsiam"]


def top1(config, workdir):
  """k-NN's accuracy after training, and that of chance."""
  result = loop.fit(experiment.build(config), workdir)
  names = ("top1", "chance")
  return [
    next(v for k, v in result.items() if k.endswith(f"knn/{name}"))
    for name in names
  ]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_smoke_run_of_each_method_is_better_than_chance(name, tmp_path):
  found, chance = top1(tiny.load(name, "smoke"), tmp_path)
  # Three standard errors of it, of 81 pictures.
  assert found > 2 * chance
