"""The evaluations, and the arguments of each kind."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field

ON = (
  "What is compared: the image tower's pooled features, before its last "
  "layer, or the unit embeddings."
)
_TRAIN = "The training rows, as in source."
_OTHER = "Other data than source."


@dataclasses.dataclass(kw_only=True)
class Eval:
  """One evaluation: a file of evals.

  The task's own arguments stand beside these. Metrics are logged as
  TASK/NAME/METRIC.
  """

  task: str = field(
    doc="Which evaluator: zero_shot, retrieval, knn, linear_probe, few_shot, "
    "collapse, labels, zero_shot_labels, the pictures gallery, neighbors and "
    "attention, "
    "or the path of a Python file.",
  )
  source: dict | str = field(doc="Where its examples come from, as in source.")


@dataclasses.dataclass(kw_only=True)
class Retrieval:
  """Recall at 1, 5 and 10, in both directions."""

  rerank: int = field(
    0,
    doc="The best candidates by cosine, put into the order of cosine + match; "
    "needs BLIP's text tower. 0: none.",
    unit="candidates", why="256 for COCO and 128 for Flickr30k in BLIP.",
    paper="BLIP, arXiv:2201.12086",
  )  # fmt: skip
  merge: bool = field(
    True,
    doc="Whether records that show the same image are one image, and equal "
    "captions of it one text. False: each is one of its own.",
    why="Records may have one caption each; False is CLIP_benchmark's.",
  )
  width: int | None = field(
    None,
    doc="How many of the embeddings' first features are taken, and normalized "
    "again. None: all.",
    unit="features",
    why="For a model that was trained with objective.widths.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class ZeroShot:
  """The class whose prompts are nearest; needs a text tower."""

  classes: str | list | None = field(
    None,
    doc='Names: a list; a file with one per line; "table.tsv:column"; '
    '"file.json:key". None: the source\'s own.',
  )
  templates: str | list = field(
    ("{c}",),
    doc="Prompts in which {c} is the class name: a list, a file with one per "
    'line, or "file.json:key".',
  )
  match: Literal["name", "number", "order"] = field(
    "name",
    doc="How labels map to indices in classes: by the source's class names, "
    "as the indices themselves, or in the order of the classes that occur.",
  )
  only: list | tuple = field(
    (),
    doc="Places in classes of those that there are, ascending; none for all.",
    why="ImageNet-A and -R have 200 of the 1,000 classes.",
  )
  width: int | None = field(
    None,
    doc="How many of the embeddings' first features are taken, and normalized "
    "again. None: all.",
    unit="features",
    why="For a model that was trained with objective.widths.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class ZeroShotMultiLabel:
  """The class whose prompts are nearest, for images with several labels."""

  classes: str | list | None = field(
    None, doc="Names by label, as of zero_shot. None: the source's own."
  )
  templates: str | list = field(
    ("{c}",), doc="Prompts in which {c} is the class name, as of zero_shot."
  )


@dataclasses.dataclass(kw_only=True)
class KNN:
  """The classes of the nearest training rows vote, with exp(cos / T)."""

  train: dict | str | None = field(
    None,
    doc="The rows that vote, as in source. None, or the same data as source: "
    "the source's own, of which a record never votes for itself.",
  )
  on: Literal["features", "embeddings"] = field("features", doc=ON)
  k: int | list | tuple = field(
    20, doc="How many vote: a number, or a list for a figure of each.",
    unit="rows", why="20 in DINO, which also reports 10, 100 and 200.",
    paper="DINO, arXiv:2104.14294",
  )  # fmt: skip
  T: float = field(
    0.07, doc="Temperature of the votes.",
    paper="InstDisc, arXiv:1805.01978, section 3.4",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class LinearProbe:
  """A linear classifier on the features of the frozen model."""

  train: dict | str = field(doc=_TRAIN, why=_OTHER)
  on: Literal["features", "embeddings"] = field("features", doc=ON)
  solver: Literal["lbfgs", "sgd"] = field(
    "lbfgs",
    doc="lbfgs: mean cross entropy + l2 / 2 |weight|^2 to its minimum. sgd: "
    "SGD with momentum and a cosine schedule, all rates at once.",
    why="lbfgs has one hyperparameter, and its result no seed.",
  )
  normalize: Literal["batch_norm", "none"] = field(
    "batch_norm",
    doc="batch_norm: features get mean 0 and variance 1 over the training "
    "rows.",
    why="One sweep then fits models of any scale.",
    paper="MAE, arXiv:2111.06377, appendix A.1",
  )
  held_out: float = field(
    0.1,
    doc="The part of each class's training rows that chooses l2 or the rate; "
    "the choice is fitted again to all rows.",
  )
  seed: int = field(
    0, doc="Of the rows that are held out, and of the order of SGD.",
  )  # fmt: skip
  l2: list | tuple = field(
    (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0),
    doc="Of lbfgs: the strengths among which it is chosen.",
    why="scikit-learn's C is 1 / (rows * l2).",
  )
  steps: int = field(
    1000, doc="Of lbfgs: at most so many for each strength.",
  )  # fmt: skip
  rates: list | tuple = field(
    (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0),
    doc="Of sgd: the learning rates among which it is chosen; times "
    "batch_size / 256.",
  )
  epochs: int = field(100, doc="Of sgd: passes over the rows.")
  batch_size: int = field(1024, doc="Of sgd: rows a step.", unit="rows")
  momentum: float = field(0.9, doc="Of sgd.")


@dataclasses.dataclass(kw_only=True)
class FewShot:
  """Ridge regression on a few training rows of each class (big_vision)."""

  train: dict | str = field(doc=_TRAIN, why=_OTHER)
  on: Literal["features", "embeddings"] = field("features", doc=ON)
  shots: int | list | tuple = field(
    (1, 5, 10),
    doc="Rows of each class: a number, or a list for a figure of each.",
  )
  l2: float | list | tuple = field(
    1024.0,
    doc="Strength of the regularization; of a list, the best on other "
    "training rows.",
    why="2^10 in big_vision.",
  )
  seeds: int = field(3, doc="Draws of the rows, of which a figure is the mean.")
  held_out: int = field(
    10, doc="With a list of l2: other rows of each class that choose.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Collapse:
  """How far the images' vectors spread over the sphere."""

  on: Literal["features", "embeddings"] = field("embeddings", doc=ON)


@dataclasses.dataclass(kw_only=True)
class Labels:
  """Mean average precision of captions' words; needs a classifier of them."""

  least: int = field(1, doc="Images that a class must have.", unit="images")


@dataclasses.dataclass(kw_only=True)
class ZeroShotLabels:
  """The class whose name's words are seen; needs a classifier of words."""

  by: Literal["probability", "logit"] = field(
    "probability",
    doc='A class\'s score: "probability" that all words of its name are there, '
    'or the mean "logit" of them.',
    why="logit for SuperClass, whose logits mean nothing alone.",
  )


@dataclasses.dataclass(kw_only=True)
class Captioning:
  """Generated captions beside an image's own; needs a decoder."""

  method: Literal["greedy", "nucleus", "beam"] = field(
    "beam", doc='"greedy", "nucleus" sampling, or "beam" search.',
    why="beam for figures; CapFilt samples.",
  )  # fmt: skip
  beams: int = field(3, doc="Of beam search.", why="As in BLIP.")
  top_p: float = field(
    0.9, doc="Probability that nucleus sampling draws from.",
    paper="Nucleus sampling, arXiv:1904.09751",
  )  # fmt: skip
  temperature: float = field(1.0, doc="Of nucleus sampling.")
  repetition_penalty: float = field(
    1.0, doc="For tokens that a caption or its prompt has already.",
    why="1 is off; BLIP has 1.1 for nucleus sampling.",
  )  # fmt: skip
  length_penalty: float = field(
    1.0, doc="Power of the length that divides a beam's log-likelihood."
  )
  min_tokens: int = field(
    1, doc="Of a caption, EOS included.", unit="tokens", why="BLIP has 5.",
  )  # fmt: skip
  max_tokens: int | None = field(
    None,
    doc="Of a caption, EOS included. None: 20, or what the decoder has "
    "positions for.", unit="tokens",
  )  # fmt: skip
  prompt: str = field(
    "", doc="What each caption begins with; it is no part of it.",
    why='"a picture of " in BLIP.',
  )  # fmt: skip
  seed: int = field(0, doc="Of nucleus sampling, and of the choice of images.")
  rows: int = field(8, doc="Of the picture.")
  columns: int = field(3, doc="Of the picture.")


@dataclasses.dataclass(kw_only=True)
class ZeroShotCaptions:
  """The class whose text is likeliest; needs a decoder."""

  template: str = field(
    "{c}", doc="Of texts, with {c} in the place of a class name."
  )
