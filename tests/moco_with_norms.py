"""A config with a teacher, a queue, and batch norms by groups in the tower."""

import pathlib

from configs import moco

TOWER = str(pathlib.Path(__file__).parent / "normed_tower.py")


def get_config(argument=None):
  config = moco.get_config("smoke")
  config.model.image = {"tower": TOWER, "res": 32, "norm_group": 4}
  del config.evals
  return config
