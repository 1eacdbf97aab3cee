"""CoCa (arXiv:2205.01917): a pair loss, and captions, from one forward pass."""

import dataclasses
import math

from big_contrastive.config import errors
from big_contrastive.models.captioning import captioner
from big_contrastive.models.model import Model
from big_contrastive.objectives import Setting, _base, _captions, pairs


@dataclasses.dataclass(frozen=True)
class CoCa(_captions.Captioned):
  """contrastive * pair loss + caption * cross entropy of the tokens.

  The decoder goes on from the text tower's tokens; both see an image once.

  Args:
    pair: compares embeddings.
    contrastive, caption: weights.
  """

  pair: pairs.Pairs = None
  contrastive: float = 1.0
  caption: float = 2.0

  fields = ("image", "text", "id")

  def __call__(self, params, extra, batch, rng, step):
    setting, mesh = self.setting, self.setting.mesh
    model = _base.Applied(setting, params, extra.get("statistics", {}))
    captions, weights = self.lesson(batch["text"])
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
      embeddings = [
        _base.embedding(model.img, pooled), _base.embedding(model.txt, whole)
      ]  # fmt: skip
      return embeddings, total

    (zimg, ztxt), caption = model.rows_and_sums(
      both, batch["image"], batch["text"], captions, weights, keys,
      count=self.count, splits=True,
    )  # fmt: skip
    pair, metrics = self.pair.compared(params, zimg, ztxt, batch["id"])
    loss = self.contrastive * pair + self.caption * caption
    metrics |= {"loss": loss, "pair_loss": pair, "caption_loss": caption}
    return loss, (metrics, model.extra(extra))

  def after_update(self, params, extra, step):
    return self.pair.after_update(params, extra, step)

  def signs(self, values, batch):
    return self.pair.signs(values, batch)

  @property
  def chances(self) -> dict[str, float]:
    told, guess = self.caption_chance, self.pair.guess
    found = {"caption_loss": told}
    if guess is not None:
      found["pair_loss"] = guess
      found["loss"] = self.contrastive * guess + self.caption * told
    return found


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
    pair=pair,
    contrastive=contrastive,
    caption=caption,
  )
