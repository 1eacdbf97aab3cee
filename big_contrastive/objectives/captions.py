"""Captions alone: Cap and CapPa (arXiv:2306.07915), OpenVision 2."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.models.captioning import captioner
from big_contrastive.models.model import Model
from big_contrastive.models.patches import draw_patches
from big_contrastive.objectives import Setting, _base, _captions


@dataclasses.dataclass(frozen=True)
class Captions(_captions.Captioned):
  """Cross entropy of a caption's tokens, given the image.

  OpenVision 2: arXiv:2509.01644.

  Args:
    parallel: share of captions whose tokens are all told at once, each from the
      image alone; the others' from the image and the tokens before (CapPa).
      Tokens that are kept are drawn anew for each example and step (OpenVision
      2).
  """

  parallel: float = 0.0

  @property
  def towers(self):
    # BLIP's text tower is its decoder.
    return ("img",) if "dec" in self.setting.model.parts else ("img", "txt")

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    image, size = batch["image"], len(batch["image"])
    captions, weights = self.lesson(batch["text"])
    keys = _base.example_keys(rng, size, self.setting.mesh)
    frozen = self.setting.model.frozen_parts(self.frozen)
    part = "dec" if "dec" in self.setting.model.parts else "txt"

    def loss(model: Model, image, captions, weights, keys):
      own = [_base.folded(keys, i) for i in range(4)]
      decoder: Any = captioner.decoder(model)
      tokens, _, mask = model.img.features(
        image, None if "img" in frozen else own[0]
      )
      if self.keep < 1:
        kept = draw_patches(own[1], tokens.shape[1], self.keep)
        tokens = jnp.take_along_axis(tokens, kept[:, :, None], axis=1)
      inputs = captions.inputs
      causal: Any = True
      if self.parallel:
        causal = jax.vmap(jax.random.uniform)(own[2]) >= self.parallel
        masks = jnp.full_like(inputs, decoder.mask_id)
        inputs = jnp.where(causal[:, None], inputs, masks)
      x = decoder.decoded(
        decoder.embedded(inputs), tokens, causal=causal, mask=mask,
        keys=None if part in frozen else own[3],
      )  # fmt: skip
      return None, self.token_loss(model, x, captions.targets, weights)

    _, total = model.rows_and_sums(
      loss, image, captions, weights, keys, count=self.count, splits=True
    )
    count = captions.real.sum(-1).astype(jnp.float32)
    return total, ({"loss": total, "tokens": count.mean()}, model.extra(extra))

  @property
  def chance(self) -> float:
    return self.caption_chance


def build(
  setting: Setting,
  *,
  parallel: float = 0.0,
  keep: float = 1.0,
  smoothing: float = 0.0,
  weigh: _captions.Weigh = "token",
  tile: int | None = None,
) -> Captions:
  """Returns the objective that config.objective describes.

  The model has a decoder that takes ids, or a text tower that decodes (BLIP).

  Args:
    setting: see objectives.Setting.
    parallel: share of captions whose tokens are all told at once; 0.75 in
      CapPa, whose decoder then has a mask token.
    keep: share of the image's tokens that the decoder sees in training; 0.35 in
      OpenVision 2.
    smoothing: of labels.
    weigh: whether each "token" of the batch weighs the same, or each "caption".
    tile: rows of logits in memory at a time on a device; None for what 4
      million logits are.
  """
  count = _captions.check(setting, smoothing)
  decoder = captioner.decoder(setting.model.abstract)
  if decoder.inputs != "ids":
    where, remedy = (
      "config.model.decoder.inputs",
      "The objective coca has text.",
    )
    raise errors.UserError(where, decoder.inputs, '"ids"', remedy)
  if not 0 <= parallel <= 1:
    allowed = "a number from 0 to 1"
    raise errors.UserError("parallel", parallel, allowed, "CapPa has 0.75.")
  if (parallel > 0) != decoder.parallel:
    allowed = f"{parallel > 0} with config.objective.parallel = {parallel}"
    where = "config.model.decoder.parallel"
    remedy = "It is the mask token of parallel prediction."
    raise errors.UserError(where, decoder.parallel, allowed, remedy)
  if parallel > 0 and decoder.cross == "prefix":
    where, allowed = "parallel", '0 with config.model.decoder.cross = "prefix"'
    remedy = "There, the image's tokens are causal too."
    raise errors.UserError(where, parallel, allowed, remedy)
  if not 0 < keep <= 1:
    allowed = "a number above 0, at most 1"
    raise errors.UserError("keep", keep, allowed, "OpenVision 2 has 0.35.")
  if keep < 1 and getattr(setting.model.abstract.img, "max_patches", None):
    allowed = "1 for images of any shape"
    raise errors.UserError("keep", keep, allowed, "Set max_patches = None.")
  return Captions(
    setting,
    count=count,
    smoothing=smoothing,
    weigh=weigh,
    tile=_base.check_tile(tile),
    parallel=parallel,
    keep=keep,
  )
