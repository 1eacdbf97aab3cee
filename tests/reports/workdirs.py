"""Workdirs of runs, as training writes them, without training."""

import json

import numpy as np
import PIL.Image


def made(path, rows=(), config=None, events=(), pictures=(), torn=""):
  """Writes a workdir; returns its path.

  Args:
    path: of the folder.
    rows: lines of metrics.jsonl.
    config: of config.json; None for no such file.
    events: lines of events.jsonl.
    pictures: names.
    torn: what follows the last line.
  """
  path.mkdir(parents=True)
  (path / "metrics.jsonl").write_text(lined(rows) + torn)
  if config is not None:
    (path / "config.json").write_text(json.dumps(config))
  if events:
    (path / "events.jsonl").write_text(lined(events))
  for i, name in enumerate(pictures):
    file = path / "pictures" / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (60, 40), (40 * i, 90, 120)).save(file)
  return path


def lined(rows):
  return "".join(json.dumps(row) + "\n" for row in rows)


def training(n, seed=0, scale=1.0):
  """Lines of n steps of a loss, a rate and a speed."""
  r = np.random.default_rng(seed)
  for step in range(1, n + 1):
    yield {
      "step": step,
      "train/loss": scale * (1 + 10 / step) + 0.1 * r.random(),
      "train/learning_rate": 1e-3 * step / n,
      "perf/images_per_s": 900 + 20 * r.random(),
      "data/bad_records": 0.0,
    }


def evaluated(step, top1):
  """A line of an evaluation."""
  return {
    "step": step,
    "eval/zero_shot/classes/top1": top1,
    "eval/zero_shot/classes/chance": 0.01,
  }
