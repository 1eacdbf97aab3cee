"""Suites: each file in this folder is one, evaluations by name, as data.

A file here, or any other that `--suite` names by its path, has SUITE, a Suite:

  SUITE = Suite({"test": Set(wds="wds_mine")})

Its sets are looked for in one folder, each in either of two layouts. In
CLIP_benchmark's: a folder WDS with test/nshards.txt, test/0.tar, ... whose
samples are an image with .cls, a number, or .txt, a caption a line; beside
test/ classnames.txt and zeroshot_classification_templates.txt, a name and a
prompt a line. Or as TFDS prepared it; class names and prompts are then those of
CLIP_benchmark's JSON files.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

# Tasks of sets: the figures that are kept, and those of guessing beside them.
METRICS: Mapping[str, Mapping[str, str]] = {
  "zero_shot": {
    "top1": "chance",
    "top5": "chance_top5",
    "mean_per_class_recall": "chance",
  },
  "zero_shot_multi_label": {"top1": "chance"},
  "retrieval": {
    f"{way}_r{k}": "chance_r1" if k == 1 else f"chance_{way}_r{k}"
    for way in ("img2txt", "txt2img")
    for k in (1, 5, 10)
  },
}


@dataclasses.dataclass(frozen=True)
class Set:
  """A data set and what is evaluated on it.

  Attributes:
    task: one of METRICS.
    wds: its folder in CLIP_benchmark's layout; None if there is none.
    tfds: its name in TFDS, perhaps with "/config"; None if there is none.
    split: in TFDS.
    label, text: its features in TFDS.
    names: of the classes: a key of en_classnames.json; None for TFDS's own.
    templates: a key of en_zeroshot_classification_templates.json.
    only: of TFDS's classes, the numbers of those that there are, ascending;
      none for all.
    rename: a class name of TFDS -> the name in prompts.
  """

  task: str = "zero_shot"
  wds: str | None = None
  tfds: str | None = None
  split: str = "test"
  label: str = "label"
  text: str = "text"
  names: str | None = None
  templates: str = ""
  only: Sequence[int] = ()
  rename: Callable[[str], str] = str


@dataclasses.dataclass(frozen=True)
class Suite:
  """Sets by name.

  Attributes:
    sets: in the order of the table.
    mean: whether the mean over the sets is a row of its own.
    same_images: whether the sets have images in common, such as captions of
      the same images in other languages: each image is embedded once.
  """

  sets: Mapping[str, Set]
  mean: bool = False
  same_images: bool = False
