"""What the objectives with a decoder of captions share."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
from jax.sharding import PartitionSpec

from big_contrastive.config import errors
from big_contrastive.losses.classes import tokens as token_loss
from big_contrastive.models.captioning import captioner, teaching
from big_contrastive.models.captioning.captioner import Decodes
from big_contrastive.models.model import Model
from big_contrastive.models.parts import image_features
from big_contrastive.models.patches import kept_patches
from big_contrastive.objectives import Objective, Setting, _base
from big_contrastive.parallel import sharding

Weigh = Literal["token", "caption"]


@dataclasses.dataclass(frozen=True)
class Captioned(Objective):
  """An image tower, and a decoder that tells the tokens of captions.

  Args:
    count: number of micro-batches.
    smoothing: of labels.
    weigh: whether all tokens weigh the same, or all captions.
    tile: rows of logits in memory at a time on a device.
    keep: share of the image's tokens that the decoder sees in training.
  """

  count: int = 1
  smoothing: float = 0.0
  weigh: Weigh = "token"
  tile: int | None = None
  keep: float = 1.0

  fields = ("image", "text")

  @property
  def decoder(self) -> Decodes:
    """What tells captions, with shapes for arrays."""
    return captioner.decoder(self.setting.model.abstract)

  def lesson(self, tokens: jax.Array) -> tuple[teaching.Taught, jax.Array]:
    """Returns what is taught, and weights [B, l] of the whole batch's mean."""
    row = PartitionSpec(sharding.BATCH)
    captions = teaching.taught(tokens, self.setting.tokenizer)
    weights = {
      "token": token_loss.each_token, "caption": token_loss.each_caption
    }[self.weigh]  # fmt: skip
    of = jax.shard_map(
      functools.partial(weights, axis=sharding.BATCH),
      mesh=self.setting.mesh, in_specs=row, out_specs=row,
    )  # fmt: skip
    return captions, of(captions.real)

  def token_loss(
    self, model: Model, x: jax.Array, targets: jax.Array, weights: jax.Array
  ) -> jax.Array:
    """Returns the sum of the weighted cross entropies.

    Args:
      model: with the decoder.
      x: what its vocabulary gets, [B, l, w].
      targets, weights: [B, l].
    """
    kernel, bias = captioner.decoder(model).logit_weights()
    loss = functools.partial(
      _rows, classes=kernel.shape[1], smoothing=self.smoothing
    )
    return _base.over_classes(
      loss, self.setting.mesh, kernel, bias, x, targets, weights,
      tile=self.tile,
    )  # fmt: skip

  @property
  def micro_batches(self) -> tuple[int, ...]:
    return (self.count,)

  def freeze(self, frozen):
    _base.check_towers(self.setting, frozen, {"img": self.count})
    return super().freeze(frozen)

  def flops(self) -> float:
    """Returns also those of a decoder, but for the vocabulary's.

    These are 6 a weight and real token, and captions differ in their length.
    """
    model = self.setting.model.abstract
    decoder = getattr(model, "dec", None)
    if decoder is None:
      return super().flops()
    seen = image_features(model.img, "config.model.decoder", "set")
    kept = kept_patches(seen.tokens.shape[1], self.keep)
    of_caption = decoder.flops(decoder.length, kept)
    return super().flops() + 3 * of_caption

  @property
  def caption_chance(self) -> float:
    """The loss of telling all tokens of the vocabulary with one probability."""
    return math.log(self.decoder.vocab_size)


def _rows(x, kernel, bias, targets, weights, **how: Any) -> jax.Array:
  """The token loss of rows [b, l]."""
  x = x.reshape(-1, x.shape[-1])
  flat = targets.reshape(-1), weights.reshape(-1)
  return token_loss.loss(x, kernel, bias, *flat, **how)


def check(setting: Setting, smoothing: float, needed: bool = True) -> int:
  """Returns the number of micro-batches.

  Args:
    setting: of the objective.
    smoothing: of labels.
    needed: whether captions are told at all.

  Raises:
    UserError: unless the model tells captions, and image and text have the same
      micro-batches; for a smoothing outside of 0 to 1.
  """
  told = not needed or captioner.decoder(setting.model.abstract) is not None
  _base.require(setting.model, "img", *() if told else ("dec",))
  if not 0 <= smoothing < 1:
    allowed = "a number from 0 to below 1"
    raise errors.UserError("smoothing", smoothing, allowed, "BLIP has 0.1.")
  image, text = sharding.micro_batches(
    setting.micro_batch, setting.batch_size, setting.mesh
  )
  if image != text:
    allowed = "the same for image and text, which a decoder sees together"
    raise errors.UserError(
      "config.micro_batch", setting.micro_batch, allowed, "Give one number."
    )
  return image
