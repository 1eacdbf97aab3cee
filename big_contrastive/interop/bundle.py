"""A model independent of formats: readers return it, writers take it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  restore_tokenizer,
)
from big_contrastive.models import build

# Ids per text, where neither positions nor a tokenizer tell.
_LENGTH = 16


class TextSizes(NamedTuple):
  """What a model requires of a tokenizer, see models.build.TextSizes."""

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
      names (img, txt, dec, t, b, heads); those of other projects are float32; a
      file may have only an image tower, img.
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
  def has_decoder(self) -> bool:
    """Whether there is a decoder of captions."""
    return "dec" in self.params

  @property
  def embeds_text(self) -> bool:
    """Whether the text tower has vectors; BLIP's may only decode."""
    return self.has_text and self.model["text"].get("encoder") is not False

  @property
  def tells_captions(self) -> bool:
    """Whether there is a decoder, or a text tower that decodes (BLIP)."""
    return self.has_decoder or "logit_bias" in self.params.get("txt", {})

  @property
  def needs_tokenizer(self) -> bool:
    """Whether a text tower or a decoder is built for a tokenizer."""
    return self.has_text or self.has_decoder

  @property
  def has_labels(self) -> bool:
    """Whether there is a classifier of captions' words, and its tokenizer."""
    return "classifier" in self.params and bool(self.tokenizer)

  @property
  def text_sizes(self) -> TextSizes:
    """What text tower and decoder require of a tokenizer, from their weights.

    The ids that begin and end captions are those of its own tokenizer.
    """
    own = self._own if self.tells_captions else None
    bos = own.bos_id if own else None
    if not self.has_text:
      pad, eos = (own.pad_id, own.eos_id) if own else (None, None)
      return TextSizes(self._caption_length, self.rows["dec"], pad, eos, bos)
    section = self.model["text"]
    length = len(self.params["txt"]["pos"]) - (section.get("pool") == "cls")
    if section.get("positions"):  # Texts may be shorter than the table.
      length = min(self.tokenizer.get("length", length), length)
    pad, eos = section.get("pad_id"), section.get("eos_id")
    return TextSizes(length, min(self.rows.values()), pad, eos, bos)

  @property
  def rows(self) -> dict[str, int]:
    """The vocabulary's rows, by the parts "txt" and "dec"."""
    found = {}
    if self.has_text:
      found["txt"] = self.params["txt"]["embed"]["embedding"].shape[0]
    if self.has_decoder:
      found["dec"] = self.params["dec"]["logits"]["kernel"].shape[-1]
    return found

  @property
  def _caption_length(self) -> int:
    if "pos" in self.params["dec"]:
      # A decoder does not take a caption's last token.
      return len(self.params["dec"]["pos"]) + bool(self.tokenizer.get("bos"))
    return self.tokenizer.get("length", _LENGTH)

  @functools.cached_property
  def _own(self) -> Tokenizer | None:
    if not self.tokenizer:
      return None
    return restore_tokenizer(self.tokenizer, self.blob)

  def make_tokenizer(self) -> Tokenizer:
    """Returns its tokenizer, with the length that the model takes."""
    spec = self.tokenizer
    if self.needs_tokenizer:
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
    for part, field in (("txt", "text"), ("dec", "decoder")):
      if part not in self.params:
        sections = {k: v for k, v in sections.items() if k != field}
    for part, field in (("t", "scale"), ("b", "bias")):
      if part not in self.params:
        sections = sections | {field: None}
    sizes = tokenizer or (self.text_sizes if self.needs_tokenizer else None)
    return build.build_model(sections, sizes, pin)

  def with_arrays(self) -> "ModelBundle":
    """Returns the bundle with parameters as numpy arrays."""
    params = jax.tree.map(np.asarray, self.params)
    return dataclasses.replace(self, params=params)
