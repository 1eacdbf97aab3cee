"""SuperClass (arXiv:2411.03313): a caption's tokens are an image's labels."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from big_contrastive.losses.classes import multilabel, softmax
from big_contrastive.objectives import Setting, _base, _labels


@dataclasses.dataclass(frozen=True)
class SuperClass(_labels.Labeled):
  """Cross entropy with the set of a caption's tokens, rare ones weighing more.

  After n batches, of which a token v is in a share of captions that sums to
  f_v, a token weighs log((n + 1/B) / (f_v + 1/B)); the weights of a caption are
  divided by their sum. What is in every caption (BOS, EOS, padding) weighs
  nothing. extra["frequency"], float32 [V], is f, and extra["batches"], float32,
  is n; both with the batch itself, as in the official code.
  """

  @property
  def extra_rules(self):
    return (("frequency|batches", "replicate"), *super().extra_rules)

  def init_extra(self, params, key):
    return super().init_extra(params, key) | {
      "frequency": jnp.zeros(self.classes, jnp.float32),
      "batches": jnp.zeros((), jnp.float32),
    }

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    x = self.inputs(model, batch["image"], rng)
    labels, is_label = multilabel.distinct(batch["text"], self.classes)
    size = len(labels)
    place = jnp.where(is_label, labels, self.classes)
    counts = jnp.zeros(self.classes, jnp.int32).at[place].add(1, mode="drop")
    # Whole numbers, so that their sum does not depend on the order.
    frequency = extra["frequency"] + counts.astype(jnp.float32) / size
    batches = extra["batches"] + 1
    rare = jnp.log((batches + 1 / size) / (frequency + 1 / size))
    weights = jnp.where(is_label, rare[jnp.where(is_label, labels, 0)], 0.0)
    total = jnp.abs(weights).sum(-1, keepdims=True)
    weights = weights / jnp.maximum(total, 1e-12)
    loss = self.over_classes(softmax.loss, params, x, labels, weights)
    metrics = _labels.metrics(loss, (weights > 0).sum(-1))
    new = {"frequency": frequency, "batches": batches}
    return loss, (metrics, model.extra(extra) | new)

  @property
  def chance(self) -> float:
    return float(np.log(self.classes))


def build(setting: Setting, *, tile: int | None = None) -> SuperClass:
  """Returns the objective that config.objective describes.

  The model has the head "classifier", with a layer norm; the tokenizer may be
  any.

  Args:
    setting: see objectives.Setting.
    tile: rows of logits in memory at a time on a device; None for what 4
      million logits are.
  """
  count = _labels.check(setting)
  return SuperClass(setting, count=count, tile=_base.check_tile(tile))
