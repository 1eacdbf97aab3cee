"""CoCa (arXiv:2205.01917): a pair loss, and captions, from one forward pass."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.losses import Loss
from big_contrastive.models.captioning import captioner
from big_contrastive.models.model import Model, unit
from big_contrastive.objectives import Setting, _base, _captions, pairs


@dataclasses.dataclass(frozen=True)
class CoCa(_captions.Captioned):
  """contrastive * pair loss + caption * cross entropy of the tokens.

  The decoder goes on from the text tower's tokens; both see an image once.

  Args:
    loss: a pair loss with its arguments, see losses.Loss.
    contrastive, caption: weights.
    mask_ids, t_max, guess: see pairs.Pairs.
  """

  loss: Loss = None
  contrastive: float = 1.0
  caption: float = 2.0
  mask_ids: bool = True
  t_max: float | None = None
  guess: float | None = None

  fields = ("image", "text", "id")

  def __call__(self, params, extra, batch, rng, step):
    setting, mesh = self.setting, self.setting.mesh
    model = _base.Applied(setting, params, extra.get("statistics", {}))
    captions, weights = self.taught(batch["text"])
    keys = _base.example_keys(rng, len(batch["id"]), mesh)
    frozen = setting.model.frozen_parts(self.frozen)

    def both(model: Model, image, text, captions, weights, keys):
      own = {
        part: _base.folded(keys, i)
        for i, part in enumerate(("img", "txt", "dec"))
      }
      own |= dict.fromkeys(frozen)
      tokens, pooled, mask = model.img.features(image, own["img"])
      words, whole, _ = model.txt.features(text, own["txt"])
      x = model.dec.decoded(
        words[:, : captions.inputs.shape[1]], tokens, mask=mask,
        keys=own["dec"],
      )  # fmt: skip
      total = self.token_loss(model, x, captions.targets, weights)
      return (_unit(model.img, pooled), _unit(model.txt, whole)), total

    (zimg, ztxt), caption = model.rows_and_sums(
      both, batch["image"], batch["text"], captions, weights, keys,
      count=self.count,
    )  # fmt: skip
    scale, bias = jnp.exp(params["t"]), params.get("b")
    ids = batch["id"] if self.mask_ids else None
    pair = _base.over_mesh(self.loss, mesh)(zimg, ztxt, scale, bias, ids)
    loss = self.contrastive * pair + self.caption * caption
    metrics = {"loss": loss, "pair_loss": pair, "caption_loss": caption}
    metrics |= pairs.logit_means(zimg, ztxt, scale, bias)
    metrics |= {k: params[k] for k in ("t", "b") if k in params}
    return loss, (metrics, model.extra(extra))

  def after_update(self, params, extra, step):
    """Clips t, as CLIP does after each update."""
    if self.t_max is not None:
      params = params | {"t": jnp.minimum(params["t"], self.t_max)}
    return params, extra

  @property
  def chances(self) -> dict[str, float]:
    found = {"caption_loss": self.caption_chance}
    if self.guess is not None:
      found["pair_loss"] = self.guess
      found["loss"] = (
        self.contrastive * self.guess + self.caption * self.caption_chance
      )
    return found


def _unit(tower, pooled: jax.Array) -> jax.Array:
  """The unit vectors of what a tower pooled."""
  return unit(tower.project(pooled) if tower.projects else pooled)


def build(
  setting: Setting,
  *,
  loss: str = "softmax",
  contrastive: float = 1.0,
  caption: float = 2.0,
  smoothing: float = 0.0,
  weigh: _captions.Weigh = "token",
  mask_ids: bool = True,
  scale_max: float | None = None,
  tile: int | None = None,
) -> CoCa:
  """Returns the objective that config.objective describes.

  The model has a decoder that takes the text tower's tokens.

  Args:
    setting: see objectives.Setting.
    loss: a pair loss: a file in losses/, or the path of one elsewhere.
    contrastive, caption: weights of the pair loss and of the captions'.
    smoothing, weigh: see objectives.captions.
    mask_ids, scale_max: see objectives.pairs.
    tile: rows of logits in memory at a time on a device, of either loss.
  """
  count = _captions.check(setting, smoothing)
  pair = pairs.build(
    setting, loss=loss, mask_ids=mask_ids, scale_max=scale_max, tile=tile
  )
  decoder = captioner.decoder(setting.model.abstract)
  if decoder.inputs != "text":
    where, remedy = "config.model.decoder.inputs", "Captions alone have ids."
    raise errors.UserError(where, decoder.inputs, '"text"', remedy)
  for name, value in {"contrastive": contrastive, "caption": caption}.items():
    if not 0 <= value < math.inf:
      allowed, remedy = "a finite number from 0 up", "CoCa has 1 and 2."
      raise errors.UserError(name, value, allowed, remedy)
  return CoCa(
    setting,
    count=count,
    smoothing=smoothing,
    weigh=weigh,
    tile=_base.check_tile(tile),
    loss=pair.loss,
    contrastive=contrastive,
    caption=caption,
    mask_ids=mask_ids,
    t_max=pair.t_max,
    guess=pair.guess,
  )
