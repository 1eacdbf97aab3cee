"""BLIP (arXiv:2201.12086): contrast, match and tell, with a teacher."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from big_contrastive.config import errors
from big_contrastive.losses.matching import soft_targets
from big_contrastive.models.model import Model, unit
from big_contrastive.models.parts import image_features
from big_contrastive.models.text.blip import Blip as Tower
from big_contrastive.objectives import (
  Setting,
  _base,
  _captions,
  _matching,
  _teacher,
)
from big_contrastive.parallel import sharding

# The id of a queue's rows that no batch has filled yet.
_NOBODY = -1


@dataclasses.dataclass(frozen=True)
class BLIP(_teacher.Teaching, _captions.Captioned):
  """ITC + ITM + caption * LM, one forward pass of the image tower.

  ITC: see losses.matching.soft_targets; its columns are the teacher's vectors
  of the whole batch, where the authors' have those of one device, and a queue.
  ITM: each pair, each image with a hard negative text, each text with a hard
  negative image, of the whole batch, and with their gradients; the mean of 3 B
  cross entropies. LM: the decoder tells the captions.

  extra["queue"]: "image" and "text", float32 [K / B, B, d], begin with random
  unit vectors, "id", int32 [K / B, B]; sharded over the batch. extra["at"],
  int32, is the oldest row of them. extra["teacher"] follows all weights of both
  towers.

  Args:
    length: rows K / B of the queue; 0 for none.
    alpha: share of the teacher's targets, to which it rises from 0.
    ramp: steps until then.
    same: whether pairs with equal batch["id"] are each other's positives, and
      no negatives: for fine-tuning on several captions of an image.
    eps: added to the probability of each negative, see hard_negatives.draw.
    caption: weight of LM; at 0 there is no decoder.
    bounds: smallest and largest t; `after_update` clips it.
  """

  length: int = 0
  alpha: float = 0.4
  ramp: int = 1
  same: bool = False
  eps: float = 1e-4
  caption: float = 1.0
  bounds: tuple[float, float] = (-math.inf, math.inf)

  fields = ("image", "text", "id")

  @property
  def extra_rules(self):
    rows = None, sharding.BATCH
    return (
      ("queue/id", rows),
      ("queue/.*", (*rows, None)),
      ("at", "replicate"),
      *super().extra_rules,
    )

  def init_extra(self, params, key):
    of_teacher, of_queue = jax.random.split(key)
    size = self.length, self.setting.batch_size
    width = self.setting.model.abstract.img.out_dim
    both = jax.random.normal(of_queue, (2, *size, width))
    queue = {"image": unit(both[0]), "text": unit(both[1])}
    queue["id"] = jnp.full(size, _NOBODY, jnp.int32)
    extra = super().init_extra(params, of_teacher)
    return extra | {"queue": queue, "at": jnp.zeros((), jnp.int32)}

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    image, text, mesh = batch["image"], batch["text"], self.setting.mesh
    frozen = self.setting.model.frozen_parts(self.frozen)
    keys = _base.example_keys(rng, len(text), mesh)

    def embedded(model: Model, image, text, keys):
      own = {p: _base.folded(keys, i) for i, p in enumerate(("img", "txt"))}
      own |= dict.fromkeys(frozen)
      tokens, pooled, _ = model.img.features(image, own["img"])
      zimg = _base.embedding(model.img, pooled)
      return (zimg, unit(model.txt(text, own["txt"])), tokens), None

    arguments = image, text, keys
    (zimg, ztxt, tokens), _ = model.rows_and_sums(
      embedded, *arguments, count=self.count
    )
    (timg, ttxt), _ = self.teacher(params, extra).rows_and_sums(
      lambda m, *x: (embedded(m, *x[:2], keys=x[2])[0][:2], None),
      *arguments, count=self.count,
    )  # fmt: skip
    timg, ttxt = jax.lax.stop_gradient((timg, ttxt))
    scale = jnp.exp(params["t"])
    alpha = self.alpha * jnp.minimum(1.0, step / self.ramp)
    itc = self._contrast(
      zimg, ztxt, timg, ttxt, batch["id"], extra["queue"], scale, alpha
    )
    negatives = _matching.negatives(
      mesh, (zimg, ztxt, timg, ttxt), tokens, text,
      batch["id"] if self.same else None, scale,
      jax.random.fold_in(rng, 2**31 - 1), eps=self.eps, tile=self.tile,
    )  # fmt: skip
    captions, weights = self.lesson(text)

    def told(model: Model, tokens, text, other, keys, captions, weights):
      keys = None if "txt" in frozen else keys
      sums = _matching.match(model.txt, tokens, text, other, keys)
      if self.caption:
        of_caption = None if keys is None else _base.folded(keys, 5)
        x = model.txt.decoded(
          model.txt.embedded(captions.inputs), tokens, keys=of_caption
        )
        sums["lm"] = self.token_loss(model, x, captions.targets, weights)
      return None, sums

    _, sums = model.rows_and_sums(
      told, tokens, text, negatives, keys, captions, weights,
      count=self.count, splits=True,
    )  # fmt: skip
    count = jnp.maximum(1, sums["count"])
    metrics = {"itc": itc, "itm": sums["itm"] / count}
    metrics |= {"itm_accuracy": sums["right"] / count, "alpha": alpha}
    loss = metrics["itc"] + metrics["itm"]
    if self.caption:
      metrics["lm"] = sums["lm"]
      loss += self.caption * sums["lm"]
    metrics |= {"loss": loss, "t": params["t"]}
    new = self._queued(extra, timg, ttxt, batch["id"])
    return loss, (metrics, model.extra(extra) | new)

  def _contrast(self, zimg, ztxt, timg, ttxt, ids, queue, scale, alpha):
    def loss_of(
      zimg, ztxt, timg, ttxt, ids, qimg, qtxt, qids, scale, alpha, axis
    ):
      width = zimg.shape[-1]
      return soft_targets.loss(
        zimg, ztxt, timg, ttxt, qimg.reshape(-1, width),
        qtxt.reshape(-1, width), scale=scale, alpha=alpha,
        ids=ids if self.same else None,
        queue_ids=qids.reshape(-1) if self.same else None,
        axis=axis, tile=self.tile,
      )  # fmt: skip

    columns, one = PartitionSpec(None, sharding.BATCH), PartitionSpec()
    specs = dict.fromkeys((5, 6, 7), columns) | dict.fromkeys((8, 9), one)
    ring = _base.on_ring(loss_of, self.setting.mesh, specs)
    queues = queue["image"], queue["text"], queue["id"]
    return ring(zimg, ztxt, timg, ttxt, ids, *queues, scale, alpha)

  def _queued(self, extra, timg, ttxt, ids):
    """The queue after this batch, and its oldest row."""
    if not self.length:
      return {}
    new = {"image": timg, "text": ttxt, "id": ids}
    queue = {
      k: jax.lax.dynamic_update_index_in_dim(old, new[k], extra["at"], axis=0)
      for k, old in extra["queue"].items()
    }
    return {"queue": queue, "at": (extra["at"] + 1) % self.length}

  def after_update(self, params, extra, step):
    params = params | {"t": jnp.clip(params["t"], *self.bounds)}
    return super().after_update(params, extra, step)

  @property
  def chances(self) -> dict[str, float]:
    keys = (1 + self.length) * self.setting.batch_size
    found = {"itc": float(np.log(keys)), "itm": _matching.CHANCE}
    found |= {"lm": self.caption_chance} if self.caption else {}
    total = found["itc"] + found["itm"]
    total += self.caption * found["lm"] if self.caption else 0
    return found | {"loss": total}

  def flops(self):
    """Returns also those of the teacher, of three matches, and of captions."""
    model = self.setting.model.abstract
    field = "config.model.text.tower"
    seen = image_features(model.img, field, "blip").tokens.shape[1]
    alone = model.txt.flops()
    with_image = model.txt.flops(memory=seen)
    passes = 3 + bool(self.caption)
    teacher = model.img.flops(True) + alone
    return super().flops() + teacher + 3 * passes * with_image


def build(
  setting: Setting,
  *,
  queue: int = 57_600,
  momentum: float = 0.995,
  alpha: float = 0.4,
  ramp: float = 0.1,
  same: bool = False,
  eps: float = 1e-4,
  caption: float = 1.0,
  smoothing: float = 0.1,
  scale_min: float = 2.0,
  scale_max: float = 1000.0,
  tile: int | None = None,
) -> BLIP:
  """Returns the objective that config.objective describes.

  The model's text tower is "blip".

  Args:
    setting: see objectives.Setting.
    queue: vectors of images, and of texts, of batches before; a multiple of the
      batch, 0 for none.
    momentum: of the teacher.
    alpha: share of the teacher's targets at the end of the ramp.
    ramp: share of the run in which it rises from 0; 2 of 20 epochs in BLIP.
    same: whether pairs with the same id are positives of each other; in BLIP
      for fine-tuning on retrieval.
    eps: added to the probability of each negative; 0 there.
    caption: weight of the captions' loss; 0 there.
    smoothing: of labels, in captions.
    scale_min, scale_max: bounds of exp(t), 1 / temperature.
    tile: rows of logits in memory at a time on a device; None for defaults.
  """
  _base.require(setting.model, "img", "txt", "t")
  txt = setting.model.abstract.txt
  if not isinstance(txt, Tower):
    kind, where = type(txt).__name__, "config.model.text.tower"
    raise errors.UserError(where, kind, '"blip"', "Choose it.")
  needs = {"encoder": txt.encodes, "match": txt.matches}
  needs |= {"decoder": txt.decodes} if caption else {}
  for name, there in needs.items():
    if not there:
      remedy = "Captions can be left out: caption = 0."
      where = f"config.model.text.{name}"
      raise errors.UserError(where, False, "True", remedy)
  starts = setting.tokenizer is None or setting.tokenizer.bos_id is not None
  if not starts and (txt.enc_id, txt.dec_id) != (None, None):
    where, remedy = "config.tokenizer.bos", "They take its place."
    allowed = "True with config.model.text.enc_id and dec_id"
    raise errors.UserError(where, False, allowed, remedy)
  if getattr(setting.model.abstract.img, "max_patches", None):
    where, allowed = (
      "config.model.image.max_patches",
      "None, images of one size",
    )
    raise errors.UserError(where, "a number", allowed, "Leave it out.")
  count = _captions.check(setting, smoothing, caption > 0)
  size = setting.batch_size
  if queue < 0 or queue % size:
    near = max(1, round(queue / size)) * size
    allowed = f"0, or a multiple of the batch = {size}"
    raise errors.UserError("queue", queue, allowed, f"The nearest is {near}.")
  for name, value in {"alpha": alpha, "ramp": ramp}.items():
    if not 0 <= value <= 1:
      allowed, remedy = "a number from 0 to 1", "BLIP has 0.4 and 0.1."
      raise errors.UserError(name, value, allowed, remedy)
  for name, value in {"caption": caption, "eps": eps}.items():
    if not 0 <= value < math.inf:
      allowed, remedy = "a finite number from 0 up", "0 is off."
      raise errors.UserError(name, value, allowed, remedy)
  if not 0 < scale_min <= scale_max < math.inf:
    allowed, remedy = (
      f"from above 0 to {scale_max}, finite",
      "BLIP has 2, 1000.",
    )
    raise errors.UserError("scale_min", scale_min, allowed, remedy)
  return BLIP(
    setting,
    count=count,
    smoothing=smoothing,
    tile=_base.check_tile(tile),
    taught=("img", "txt"),
    rate=_teacher.rate(momentum, setting.total, "constant"),
    length=queue // size,
    alpha=alpha,
    ramp=max(1, round(ramp * setting.total)),
    same=same,
    eps=eps,
    caption=caption,
    bounds=(math.log(scale_min), math.log(scale_max)),
  )
