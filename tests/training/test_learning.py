"""A model learns what its captions say, and nothing where they say nothing."""

import numpy as np
import pytest

import tiny
from big_contrastive.factory import experiment
from big_contrastive.offline import (
  embedding,
  folder,
  scoring,
  selection,
  tasks,
  worker,
)
from big_contrastive.training import loop

# The embedded pictures with each other's captions.
ROLLED = '''
"""Pictures of shapes, each with the captions of the one after it."""

from big_contrastive.data.source import Source
from big_contrastive.data.sources import shapes


class Rolled(Source):
  def __init__(self, inner):
    self.inner = inner

  def __len__(self):
    return len(self.inner)

  def __getitem__(self, i):
    following = self.inner[(i + 1) % len(self)]
    return self.inner[i] | {"text": following["text"]}


def source(*, split: str, train_size: int, size: int) -> Source:
  """Returns them.

  Args:
    split, train_size, size: see shapes.
  """
  return Rolled(shapes.source(split=split, train_size=train_size, size=size))
'''


def train(workdir, source, rolled):
  """Trains on a source; the mean of both ways' R@10, and that of chance.

  Returns:
    Of held-out pictures with their own captions, and with each other's.
  """
  config = tiny.load("demo", "short", "--config.total=60")
  data = {"train_size": 2000, "size": 32}
  config["source"] = {"name": source, "split": "train", **data}
  config["batch_size"] = 64
  # It learns from fewer examples than sigmoid does.
  config["objective"]["loss"], config["model"]["bias"] = "softmax", None
  config["train_image"] = config["eval_image"] = [("resize", {"size": 32})]
  config["model"]["image"]["res"] = 32
  config["evals"] = {
    name: {
      "task": "retrieval",
      "source": {"name": path, "split": "val", **data},
    }
    for name, path in (("own", "shapes"), ("rolled", rolled))
  }
  result = loop.fit(experiment.build(config), workdir)

  def mean(name, figure):
    ways = (f"{figure.format(way)}" for way in ("img2txt", "txt2img"))
    return sum(result[f"eval/retrieval/{name}/{way}"] for way in ways) / 2

  return [
    (mean(name, "{}_r10"), mean(name, "chance_{}_r10"))
    for name in ("own", "rolled")
  ]


def filtered(workdir, out):
  """Takes a model as the filter of a pool half of whose captions are wrong.

  Returns:
    How much of the best half by its scores is right, and the area under the
    curve of true over false positives.
  """
  data = "shapes:split=train[:400],train_size=2000,size=32,wrong=0.5"
  given = {"checkpoint": str(workdir), "data": data, "dtype": "none"}
  work = embedding.open_work(**given)
  folder.describe(out, work, work.about() | {"per_shard": 150})
  shards = tasks.tasks(len(work.source), out, 150)
  worker.run_all(shards, work, lambda line: None)
  found = scoring.cosines(scoring.Parts(str(out), "out"))
  scores = np.concatenate([block for _, block in found])
  kept = selection.numbers(scores, selection.best(scores, 200))
  right = ~work.source.wrong
  ahead = scores[right][:, None] > scores[~right]
  return right[np.concatenate([*kept])].mean(), ahead.mean()


@pytest.mark.slow
def test_a_model_learns_what_its_captions_say_and_no_more(one_device, tmp_path):
  rolled = tmp_path / "rolled.py"
  rolled.write_text(ROLLED)
  # Chance is 5.4 %; two standard errors of it are 2 %.
  (own, chance), (others, by_chance) = train(
    tmp_path / "a", "shapes", str(rolled)
  )
  assert own > 4 * chance
  assert others < 1.5 * by_chance
  precision, area = filtered(tmp_path / "a", tmp_path / "parts")
  assert area > 0.92 and precision > 0.85  # By chance both are 0.5.
  (own, chance), _ = train(tmp_path / "b", str(rolled), str(rolled))
  assert own < 1.5 * chance
