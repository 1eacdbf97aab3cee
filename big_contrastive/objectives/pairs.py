"""Image-text pairs: two towers, one pair loss. SigLIP, CLIP, LiT and FLIP."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive import losses
from big_contrastive.config import errors, schema
from big_contrastive.models.model import Model
from big_contrastive.objectives import (
  Objective,
  Params,
  Setting,
  _base,
  _prefixes,
)
from big_contrastive.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Pairs(Objective):
  """The loss of all pairs of a global batch.

  Args:
    loss: a pair loss with its arguments, see losses.Loss.
    counts: micro-batches of ("img", "txt").
    mask_ids: whether pairs with equal batch["id"] are not each other's
      negatives.
    t_max: largest log-temperature, to which `after_update` clips; None for no
      limit.
    guess: the loss of guessing, None if unknown.
  """

  loss: losses.Loss = None
  counts: tuple[int, int] = (1, 1)
  mask_ids: bool = True
  t_max: float | None = None
  guess: float | None = None

  fields = ("image", "text", "id")
  passes = (("image", 0),)

  def __call__(self, params, extra, batch, rng, step):
    setting, mesh = self.setting, self.setting.mesh
    model = _base.Applied(setting, params, extra.get("statistics", {}))
    frozen = setting.model.frozen_parts(self.frozen)
    keys: dict[str, jax.Array | None] = {"img": None, "txt": None}
    for i, tower in enumerate(keys):
      if tower not in frozen:  # A frozen one is only evaluated: no dropout.
        tower_rng = jax.random.fold_in(rng, i)
        size = batch["id"].shape[0]
        keys[tower] = _base.example_keys(tower_rng, size, mesh)
    image_count, text_count = self.counts
    zimg = model.embed(
      Model.embed_image, batch["image"], keys["img"], count=image_count
    )
    ztxt = model.embed(
      Model.embed_text, batch["text"], keys["txt"], count=text_count
    )
    loss, metrics = self.compared(params, zimg, ztxt, batch["id"])
    return loss, ({"loss": loss} | metrics, model.extra(extra))

  def compared(
    self, params: Params, zimg: jax.Array, ztxt: jax.Array, ids: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of embeddings, and what else is logged.

    Args:
      params: of the model.
      zimg, ztxt: unit embeddings of the global batch, [B, d].
      ids: of the pairs, [B].
    """
    scale, bias = jnp.exp(params["t"]), params.get("b")
    over_mesh = _base.over_mesh(self.loss, self.setting.mesh)
    loss = over_mesh(zimg, ztxt, scale, bias, ids if self.mask_ids else None)
    metrics = _logit_means(zimg, ztxt, scale, bias)
    return loss, metrics | {k: params[k] for k in ("t", "b") if k in params}

  def after_update(self, params, extra, step):
    """Clips t, as CLIP does after each update."""
    if self.t_max is not None:
      params = params | {"t": jnp.minimum(params["t"], self.t_max)}
    return params, extra

  def freeze(self, frozen):
    counts = dict(zip(("img", "txt"), self.counts, strict=True))
    _base.check_towers(self.setting, frozen, counts)
    return super().freeze(frozen)

  @property
  def micro_batches(self) -> tuple[int, ...]:
    return self.counts

  @property
  def chance(self) -> float | None:
    return self.guess

  def signs(self, values, batch):
    return {
      "temperature": self._temperature(values["t"]),
      "duplicates": self._duplicates(batch),
    }

  def _temperature(self, t: float) -> str | None:
    if self.t_max is None or t < self.t_max - 1e-6:
      return None
    return (
      f"the temperature is at its bound, exp(t) = {np.exp(t):.1f}. Late in a "
      "run of CLIP that is usual; early it means a learning rate too high for "
      "t, or batches that are too easy to tell apart."
    )

  def _duplicates(self, batch: dict[str, np.ndarray]) -> str | None:
    """Warns of equal captions that are negatives of each other."""
    text = np.ascontiguousarray(batch["text"])
    rows = text.view(np.dtype((np.void, text[0].nbytes))).ravel()
    distinct = len(np.unique(rows))
    groups = len(rows)
    if self.mask_ids:
      groups = len(np.unique(batch["id"]))
    same = (groups - distinct) / len(rows)
    if same <= 0.1:
      return None
    return (
      f"{same:.0%} of the captions of this batch stand in it again and count "
      "as wrong for each other's images. Usually class names are the "
      "captions: give equal captions an equal id, and leave "
      "config.objective.mask_ids on."
    )


def _logit_means(
  zimg: jax.Array, ztxt: jax.Array, scale: jax.Array, bias: jax.Array | None
) -> dict[str, jax.Array]:
  """Returns the mean logit of pairs, and that of all other combinations.

  The mean over all B x B logits is the logit of the mean embeddings, so this
  costs O(B d).
  """
  size = zimg.shape[0]
  bias = 0.0 if bias is None else bias
  positive = scale * jnp.sum(zimg * ztxt, axis=-1).mean() + bias
  mean = scale * jnp.vdot(zimg.mean(axis=0), ztxt.mean(axis=0)) + bias
  negative = (size * mean - positive) / max(1, size - 1)
  return {"logit_positive": positive, "logit_negative": negative}


def build(
  setting: Setting,
  *,
  loss: str,
  mask_ids: bool = True,
  scale_max: float | None = None,
  tile: int | None = None,
  widths: list | tuple | None = None,
  width_weights: list | tuple | None = None,
) -> Pairs:
  """Returns the objective that config.objective describes.

  Args:
    setting: see objectives.Setting.
    loss: a file in losses/, or the path of one elsewhere.
    mask_ids: whether pairs with the same id are not each other's negatives.
    scale_max: largest exp(t): 100 in CLIP.
    tile: rows of logits in memory at a time on a device; None for that of
      _ring.side.
    widths: of prefixes of the embeddings that have the loss, too, see
      _prefixes; None for the whole alone.
    width_weights: factors of the losses at these widths; None for 1.
  """
  _base.require(setting.model, "img", "txt", "t")
  _base.check_tile(tile)
  if scale_max is not None and not 0 < scale_max < math.inf:
    allowed = "a finite number above 0"
    raise errors.UserError("scale_max", scale_max, allowed, "CLIP has 100.")
  function, chance = losses.pair_loss(loss, "config.objective.loss")
  blind = schema.hints(function).get("bias") is types.NoneType
  if blind and "b" in setting.model.parts:
    expected = f"None with the loss {loss!r}, which is blind to a bias"
    remedy = "Set config.model.bias = None."
    raise errors.UserError("config.model.bias", "a number", expected, remedy)
  tiled, times = functools.partial(function, tile=tile), 1.0
  if widths is not None:
    width = setting.model.abstract.img.out_dim
    widths, weights = _prefixes.check(widths, width_weights, width)
    tiled, times = _prefixes.at_widths(tiled, widths, weights), sum(weights)
  elif width_weights is not None:
    allowed, remedy = "None without widths", "Set widths."
    raise errors.UserError("width_weights", width_weights, allowed, remedy)
  return Pairs(
    setting,
    loss=tiled,
    counts=sharding.micro_batches(
      setting.micro_batch, setting.batch_size, setting.mesh
    ),
    mask_ids=mask_ids,
    t_max=None if scale_max is None else math.log(scale_max),
    guess=chance and times * chance(setting.batch_size),
  )
