"""The embedded data set: pictures and captions agree, and what is held out is.

Captions are read by a parser of this file, pictures by their colours, so that
neither is judged by the code that made it.
"""

import hashlib
import io
import itertools
import pathlib
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.pool import ThreadPool

import numpy as np
import PIL.Image
import pytest

from big_contrastive import errors, resolve
from big_contrastive.data import drawing, grammar, scenes
from big_contrastive.data.scenes import Scene, Thing
from big_contrastive.data.sources import shapes

ROOT = pathlib.Path(__file__).parents[1]
SMALL = {"train_size": 400, "size": 64}
WORDS = {
  "shape": dict(disc="circle", box="square", rhombus="diamond", hoop="ring",
                moon="crescent", shape=None, object=None, thing=None),
  "colour": dict(turquoise="cyan", violet="purple"),
  "size": {"little": "small", "tiny": "small", "medium-sized": "medium",
           "big": "large", "huge": "large"},
  "texture": dict(plain="solid", spotted="dotted", checked="checkered",
                  stripes="striped", dots="dotted", checks="checkered"),
}  # fmt: skip
WORDS = {
  word: (field, value)
  for field, synonyms in WORDS.items()
  for word, value in {v: v for v in scenes.ANSWERS[field]} | synonyms.items()
}
