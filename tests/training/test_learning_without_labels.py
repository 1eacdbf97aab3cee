"""What self-supervised methods learn: beyond chance, or an untrained tower."""

import pytest

import tiny
from big_contrastive.factory import experiment
from big_contrastive.training import loop

pytestmark = pytest.mark.usefixtures("one_device")


def top1(config, workdir):
  """k-NN's accuracy after training, and that of chance."""
  result = loop.fit(experiment.build(config), workdir)
  names = ("top1", "chance")
  return [
    next(v for k, v in result.items() if k.endswith(f"knn/{name}"))
    for name in names
  ]


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.METHODS)
def test_the_smoke_run_of_each_method_is_better_than_chance(name, tmp_path):
  """That is no learning: an untrained tower sees colors, too."""
  found, chance = top1(tiny.load(name, "smoke"), tmp_path)
  # Three standard errors of it, of 81 pictures.
  assert found > 2 * chance


@pytest.mark.slow
def test_without_labels_colors_become_near_that_an_untrained_tower_mixes(
  tmp_path,
):
  """The nearest 20 of 400 pictures name one of ten colors."""
  found = []
  for steps, *frozen in ((80,), (20, "--config.optimizer.lr=1e-30")):
    config = tiny.load("simclr", "quick,batch=64", *frozen)
    config["evals"]["knn"]["source"]["split"] = "by_colour"
    config["evals"]["knn"]["k"] = 20
    config["model"]["image"]["widths"] = [16, 32, 64, 128]
    config |= {"total": steps, "eval_every": steps, "save_every": steps}
    found.append(top1(config, tmp_path / str(steps))[0])
  trained, untrained = found
  # Seven standard errors of a difference.
  assert trained > untrained + 0.25, found
