"""What the objectives that learn a caption's words as labels share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.models.heads.classifier import Classifier
from big_contrastive.objectives import Objective, Setting, _base, _passes
from big_contrastive.parallel import sharding

HEAD = "classifier"
_UNLABELED = 0.5  # Share of images without a label that is worth a warning.


@dataclasses.dataclass(frozen=True)
class Labeled(Objective):
  """A classifier over an image tower, and labels in batch["text"].

  Args:
    count: number of micro-batches of the tower.
    tile: rows of logits in memory at a time on a device.
  """

  count: int = 1
  tile: int | None = None

  fields = ("image", "text")
  towers = ("img",)
  passes = (("image", 0),)

  @property
  def classes(self) -> int:
    """How many classes there are."""
    return getattr(self.setting.model.abstract, HEAD).out_dim

  def inputs(
    self, model: _base.Applied, image: jax.Array, rng: jax.Array
  ) -> jax.Array:
    """Returns what the classifier's linear layer gets, [B, w]."""
    keys = _base.image_keys(self.setting, self.frozen, rng, len(image))
    x = model.embed(_passes.image_tower, image, keys, count=self.count)
    return model.embed(lambda m, x: getattr(m, HEAD).inputs(x), x)

  def over_classes(
    self, loss: Callable[..., jax.Array], params: dict[str, Any], *rows: Any
  ) -> jax.Array:
    """Returns loss(x, kernel, bias, ...) of the batch; see _base.over_classes.

    Args:
      loss: takes axis, split and tile.
      params: of the model.
      rows: arrays [B, ...], x the first.
    """
    mesh, linear = self.setting.mesh, params[HEAD]["linear"]
    return _base.over_classes(
      loss, mesh, linear["kernel"], linear["bias"], *rows, tile=self.tile
    )

  def freeze(self, frozen):
    _base.check_towers(self.setting, frozen, {"img": self.count})
    return super().freeze(frozen)

  @property
  def micro_batches(self) -> tuple[int, ...]:
    return (self.count,)

  def flops(self) -> float:
    width, v = self.setting.model.shapes[HEAD]["linear"]["kernel"].shape
    return super().flops() + 6 * width * v

  def signs(self, values, batch):
    share = values["unlabeled"]
    line = (
      f"{share:.0%} of the images of this batch have no label: their captions "
      "have no word of the vocabulary. Make one from these captions, with "
      "big_contrastive.synsets and a smaller --least."
    )
    return {"unlabeled": line if share > _UNLABELED else None}


def metrics(loss: jax.Array, count: jax.Array) -> dict[str, jax.Array]:
  """Returns what is logged of a step.

  Args:
    loss: of the batch.
    count: labels of each row, [B].
  """
  return {
    "loss": loss,
    "labels": count.astype(jnp.float32).mean(),
    "unlabeled": (count == 0).astype(jnp.float32).mean(),
  }


def check(setting: Setting) -> int:
  """Returns the number of micro-batches of the tower.

  Raises:
    UserError: unless the model has a classifier with as many classes as the
      tokenizer has ids, and no text tower.
  """
  _base.require(setting.model, "img", HEAD)
  where = f"config.model.heads.{HEAD}"
  head = getattr(setting.model.abstract, HEAD)
  if not isinstance(head, Classifier):
    kind = type(head).__name__.lower()
    remedy = f'Set {where}.name = "classifier".'
    raise errors.UserError(f"{where}.name", kind, "classifier", remedy)
  if HEAD in setting.model.abstract.pooled:
    remedy = "A classifier is evaluated on the tower's vectors."
    raise errors.UserError(f"{where}.on", "pooled", '"image"', remedy)
  if "txt" in setting.model.parts and not setting.mixed:
    allowed = "no text tower: captions are labels"
    raise errors.UserError("config.model.text", "set", allowed, "Leave it out.")
  if setting.tokenizer is not None:
    ids, pad = setting.tokenizer.vocab_size, setting.tokenizer.pad_id
    classes = ids - (setting.tokenizer.spec["kind"] == "synsets")
    if head.out_dim != classes:
      allowed = f"{classes}, those of config.tokenizer ({ids} ids, {pad} pads)"
      remedy = f"Set {where}.classes = {classes}."
      raise errors.UserError(f"{where}.classes", head.out_dim, allowed, remedy)
  count, _ = sharding.micro_batches(
    setting.micro_batch, setting.batch_size, setting.mesh
  )
  return count
