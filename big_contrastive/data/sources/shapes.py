"""The built-in data set: drawn shapes with captions, generated on first use.

A TFDS data set like any other: a builder, written as array_record, read by
tfds.data_source. Splits: see scenes.ASKED.
"""

import contextlib
import dataclasses
import fcntl
import functools
import io
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from big_contrastive.config import errors
from big_contrastive.data.source import Source
from big_contrastive.data.sources import tfds as prepared
from big_contrastive.data.synthetic import captions, drawing, reading, scenes
from big_contrastive.data.synthetic.wrong_captions import WrongCaptions

_DATA_DIR = "~/.cache/big_contrastive/tfds"


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
  """The number of training scenes, pixels per side, and the seed."""

  name: str = ""
  train_size: int = 20_000
  size: int = 64
  seed: int = 0

  def __post_init__(self):
    self.name = f"n{self.train_size}_r{self.size}_s{self.seed}"


class Shapes(tfds.core.GeneratorBasedBuilder):
  """Scenes of one or two shapes, with captions from a grammar."""

  # A change of scenes, words or pixels is a new version.
  VERSION = tfds.core.Version("1.2.0")
  # TFDS would look for checksums of downloads, of which there are none, beside
  # this file; to find it, 4.9.10 needs a package that it doesn't install.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    features = {
      "image": tfds.features.Image(
        shape=(size, size, 3), encoding_format="png"
      ),
      "text": tfds.features.Sequence(tfds.features.Text()),
      "label": tfds.features.Scalar(np.int32),
      "id": tfds.features.Scalar(np.int32),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=scenes.__doc__,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,  # Scenes are random already.
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    size = self.builder_config.train_size
    parts = {"train": 1, "val": 10, "heldout": 20, "heldout_relations": 20}
    return {
      split: self._generate_examples(
        split, max(size // parts.get(split, 50), min(size, 20))
      )
      for split in scenes.ASKED
    }

  def _generate_examples(
    self, split: str, count: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    for i in range(count):
      yield i, example(split, i, config.size, config.seed)


def example(split: str, index: int, size: int, seed: int) -> dict[str, Any]:
  """Returns record `index` of a split, a function of the arguments alone.

  "image" is a PNG of size x size pixels; "text" is one to three captions of
  the same meaning; "id" is a number for that meaning; "label" is -1 for none.
  """
  scene, rng = _scene(split, index, seed)
  description = captions.describe(split, scene, rng)
  png = io.BytesIO()
  picture = PIL.Image.fromarray(drawing.draw(scene, size, rng))
  picture.save(png, "PNG", compress_level=3)
  return {
    "image": png.getvalue(),
    "text": captions.captions(description, rng),
    "label": captions.label(split, scene),
    "id": captions.meaning(description),
  }


def _true(split: str, seed: int, index: int, caption: str) -> bool:
  """Whether all that a caption mentions is so of record `index` of a split."""
  return reading.true(_scene(split, index, seed)[0], caption)


def _scene(
  split: str, index: int, seed: int
) -> tuple[scenes.Scene, np.random.Generator]:
  """The scene of a record, and what draws all else of it."""
  rng = np.random.default_rng([seed, list(scenes.ASKED).index(split), index])
  return scenes.sample(split, index, rng), rng


def source(
  split: str,
  *,
  data_dir: str | None = None,
  train_size: int = 20_000,
  size: int = 64,
  seed: int = 0,
  wrong: float = 0.0,
) -> Source:
  """Returns a split; draws the whole data set first if it doesn't exist.

  Args:
    split: a key of scenes.ASKED, or a slice of one. val has a tenth of
      train_size, heldout and heldout_relations a twentieth each, every other
      split a fiftieth; at least 20 scenes.
    data_dir: where data sets are stored; None for $BIG_CONTRASTIVE_DATA, else
      ~/.cache/big_contrastive/tfds.
    train_size: scenes in train.
    size: pixels per side.
    seed: of the scenes.
    wrong: the share of records with the captions of other ones.

  Raises:
    UserError: for a number out of range or a data_dir that can't be written.
  """
  splits = {s for s in re.split(r"\[[^]]*\]|\+", split) if s} or {split}
  for name in splits:
    errors.choice("split", name, scenes.ASKED)
  for name, value, least in (
    ("train_size", train_size, 1),
    ("size", size, 16),
    ("seed", seed, 0),
  ):
    if value < least:
      allowed = f"a whole number from {least} up"
      raise errors.UserError(name, value, allowed, f"Raise {name}.")
  config = ShapesConfig(train_size=train_size, size=size, seed=seed)
  folder = data_dir or os.environ.get("BIG_CONTRASTIVE_DATA") or _DATA_DIR
  root = pathlib.Path(folder).expanduser()
  try:
    _prepare(config, root)
  except OSError as e:
    allowed = "a folder that can be written"
    raise errors.UserError("data_dir", str(root), allowed, f"{e}.") from e
  records = prepared.source(
    split,
    dataset=f"shapes/{config.name}:{Shapes.VERSION}",
    data_dir=str(root),
    id="id",
  )
  if len(splits) == 1:
    records.classes = captions.classes(next(iter(splits)))
  if split in scenes.ASKED:  # And no slice, whose records are others.
    records.true = functools.partial(_true, split, seed)
  return WrongCaptions(records, wrong, seed) if wrong else records


def _prepare(config: ShapesConfig, root: pathlib.Path) -> None:
  """Makes sure that the data set exists; one process at a time generates it.

  TFDS writes into a folder of another name and renames it when it is done.
  The lock is released when the process that holds it ends.
  """
  version = root / "shapes" / config.name / str(Shapes.VERSION)
  if version.exists():
    return
  version.parent.mkdir(parents=True, exist_ok=True)
  with open(version.parent / "lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if version.exists():
      return
    for leftover in version.parent.glob("incomplete.*"):
      shutil.rmtree(leftover)
    builder = Shapes(data_dir=root, config=config, file_format="array_record")
    logging.warning("drawing the data set shapes in %s, once", version)
    tfds.disable_progress_bar()
    # TFDS prints to standard output, which belongs to the command.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
