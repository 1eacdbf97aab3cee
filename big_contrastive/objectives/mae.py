"""MAE (arXiv:2111.06377): the pixels of patches that are left out."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.config.rules import flatten, unflatten
from big_contrastive.models.heads import patch_decoder
from big_contrastive.models.patches import draw_patches
from big_contrastive.objectives import Setting, _base, _views

# As one matrix of width by 3 * width, its xavier bound is a root of 2 smaller.
_ONE_MATRIX = re.compile(r".*/attention/(query|key|value)/kernel")


@dataclasses.dataclass(frozen=True)
class MAE(_views.Images):
  """The tower sees some patches of an image, the decoder tells the others.

  The loss is the squared error, a mean over the values of a patch and over all
  patches of the global batch that the tower did not see. Which it sees is drawn
  for each image and step, as FLIP's are.

  Args:
    kept: patches of an image that the tower sees.
  """

  kept: int = 1

  @property
  def decoder(self) -> patch_decoder.PatchDecoder:
    """The head, with shapes for arrays."""
    parts: Any = self.setting.model.abstract
    return parts.decoder

  def init(self, key):
    """Returns parameters drawn as the official code does.

    Query, key and value of a block are one matrix for the bound of their
    values; the class token is N(0, 0.02).
    """
    flat = flatten(super().init(key))
    for name in filter(_ONE_MATRIX.fullmatch, flat):
      flat[name] = flat[name] * 0.5**0.5
    if (cls := flat.get("img/cls")) is not None:
      draw = jax.random.fold_in(key, 2**31 - 1)
      flat["img/cls"] = 0.02 * jax.random.normal(draw, cls.shape)
    return unflatten(flat)

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    image = self.image(batch)
    keys = _base.example_keys(rng, len(image), self.setting.mesh)
    frozen = "img" in self.setting.model.frozen_parts(self.frozen)

    def error(model, image, keys):
      decoder, every = model.decoder, model.img.side**2
      kept = draw_patches(keys, every, self.kept / every)
      seen = model.img.features(image, None if frozen else keys, kept)
      told = decoder(seen.tokens, kept)
      targets = decoder.targets(decoder.patches(image))
      squares = jnp.square(told - targets).mean(axis=-1)
      masked = patch_decoder.masked(kept, every)
      return None, jnp.stack([(squares * masked).sum(), masked.sum()])

    _, sums = model.rows_and_sums(error, image, keys, count=self.count)
    loss = sums[0] / sums[1]
    return loss, ({"loss": loss}, model.extra(extra))

  @property
  def chance(self):
    """Of telling 0, where targets are normalized: their unbiased variance."""
    decoder, values = self.decoder, self.decoder.out_dim
    return (values - 1) / values if decoder.normalize else None

  def flops(self):
    """Returns those of the patches that the tower sees, and of the decoder."""
    model = self.setting.model
    still = model.frozen_parts(self.frozen)
    each = {
      "img": model.abstract.img.patch_flops(self.kept),
      "decoder": self.decoder.flops(self.kept),
    }
    return sum(x * (1 if part in still else 3) for part, x in each.items())


def build(setting: Setting, *, mask: float = 0.75) -> MAE:
  """Returns the objective that config.objective describes.

  The model has the head "decoder", a patch_decoder.

  Args:
    setting: see objectives.Setting.
    mask: the part of an image's patches that the tower does not see; it sees
      int(patches * (1 - mask)), as in the official code.

  Raises:
    UserError: for more than one view of an image, a mask that leaves nothing to
      see or to tell, a tower that drops patches itself, another decoder.
  """
  count = _views.check_one(setting, "decoder")
  parts: Any = setting.model.abstract
  if not isinstance(parts.decoder, patch_decoder.PatchDecoder):
    allowed, remedy = 'name = "patch_decoder"', "It tells the patches."
    where, value = "config.model.heads.decoder", type(parts.decoder).__name__
    raise errors.UserError(where, value, allowed, remedy)
  if parts.img.keep < 1:
    where, allowed = "config.model.image.keep", "1: the mask leaves patches out"
    raise errors.UserError(where, parts.img.keep, allowed, "Leave it out.")
  return MAE(
    setting, kept=patch_decoder.seen(mask, parts.img.side**2), count=count
  )
