"""A model independent of formats: readers return it, writers take it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from big_contrastive.config import rules
from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  restore_tokenizer,
)
from big_contrastive.models import build


class TextSizes(NamedTuple):
  """What a text tower requires of a tokenizer, see models.build.TextSizes."""

  length: int
  vocab_size: int
  pad_id: int | None
  eos_id: int | None
  bos_id: int | None = None


@dataclasses.dataclass(frozen=True)
class ModelBundle:
  """A model, its tokenizer and its preprocessing.

  Args:
    model: the section config.model, as models.build takes it.
    params: parameters and running statistics, nested, numpy arrays under our
      names (img, txt, t, b, heads); those of other projects are float32; a file
      may have only an image tower, img.
    tokenizer: its spec, for restore_tokenizer; {} if the source has none.
    blob: the vocabulary file's content, b"" if there is none.
    image: evaluation preprocessing, as config.eval_image; [] if the source has
      none.
  """

  model: dict[str, Any]
  params: dict[str, Any]
  tokenizer: dict[str, Any] = dataclasses.field(default_factory=dict)
  blob: bytes = b""
  image: list = dataclasses.field(default_factory=list)

  @property
  def has_text(self) -> bool:
    """Whether there is a text tower."""
    return "txt" in self.params

  @property
  def has_labels(self) -> bool:
    """Whether there is a classifier of captions' words, and its tokenizer."""
    return "classifier" in self.params and bool(self.tokenizer)

  @property
  def text_sizes(self) -> TextSizes:
    """What the text tower requires of a tokenizer, from its weights."""
    section, tower = self.model["text"], rules.flatten(self.params["txt"])
    length = tower["pos"].shape[0]
    if section.get("positions"):  # Texts may be shorter than the table.
      length = min(self.tokenizer.get("length", length), length)
    vocab_size = tower["embed/embedding"].shape[0]
    return TextSizes(
      length, vocab_size, section.get("pad_id"), section.get("eos_id")
    )

  def make_tokenizer(self) -> Tokenizer:
    """Returns its tokenizer, with the length that its text tower takes."""
    spec = self.tokenizer
    if self.has_text:
      spec = spec | {"length": self.text_sizes.length}
    return restore_tokenizer(spec, self.blob)

  def build(
    self,
    tokenizer: build.TextSizes | None = None,
    pin: Callable[[jax.Array], jax.Array] = lambda x: x,
    **changes: Any,
  ) -> build.Built:
    """Returns the model's structure, to be merged with `params`.

    Args:
      tokenizer: in place of `text_sizes`.
      pin: see sharding.pin.
      changes: fields of config.model that replace its own.
    """
    sections = self.model | changes
    if not self.has_text:
      sections = {k: v for k, v in sections.items() if k != "text"}
    for part, field in (("t", "scale"), ("b", "bias")):
      if part not in self.params:
        sections = sections | {field: None}
    sizes = tokenizer or (self.text_sizes if self.has_text else None)
    return build.build_model(sections, sizes, pin)

  def with_arrays(self) -> "ModelBundle":
    """Returns the bundle with parameters as numpy arrays."""
    params = jax.tree.map(np.asarray, self.params)
    return dataclasses.replace(self, params=params)
