"""Objectives whose labels are a caption's words."""

import dataclasses

from big_contrastive.config.fields.field import field

_TILE = (
  "Rows of logits in memory at a time on a device. None: what 4 million logits "
  "are."
)


@dataclasses.dataclass(kw_only=True)
class CatLIP:
  """CatLIP: binary cross entropies of the nouns of a caption.

  The model has the head "classifier", and the tokenizer is of kind "synsets".
  """

  odds: float | None = field(
    None,
    doc="Initial log-odds of every class. None: those of each class among the "
    "captions of the vocabulary.",
    why="With 0 the first loss is ln 2 a class; the official code has 0.",
    paper="CatLIP, arXiv:2404.15653",
  )
  tile: int | None = field(None, doc=_TILE, unit="rows")


@dataclasses.dataclass(kw_only=True)
class SuperClass:
  """SuperClass: cross entropy with a caption's tokens, by their rarity.

  The model has the head "classifier"; any tokenizer will do.
  """

  tile: int | None = field(None, doc=_TILE, unit="rows")
