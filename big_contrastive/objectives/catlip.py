"""CatLIP (arXiv:2404.15653): the nouns of a caption are an image's labels."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors
from big_contrastive.losses.classes import multilabel
from big_contrastive.objectives import Setting, _base, _labels


@dataclasses.dataclass(frozen=True)
class CatLIP(_labels.Labeled):
  """Binary cross entropies, summed over classes, the mean over images.

  The bias begins with the log-odds of each class among the captions that were
  counted, and the kernel with zeros: the first loss is that of the best
  constant, up to what the batch's frequencies differ. With a bias of zero it
  would be V ln 2, 16,857 of CatLIP's 24,320 classes.

  Args:
    frequency: share of captions with each class, float64 [V]; None where it is
      not known: the bias begins with `odds`.
    odds: log-odds of every class.
  """

  frequency: np.ndarray | None = dataclasses.field(default=None, compare=False)
  odds: float = 0.0

  def init(self, key):
    params = super().init(key)
    start = jnp.full(self.classes, self.odds, jnp.float32)
    if self.frequency is not None:
      start = jnp.asarray(
        np.log(self.frequency) - np.log1p(-self.frequency), jnp.float32
      )
    linear = params[_labels.HEAD]["linear"] | {"bias": start}
    return params | {_labels.HEAD: params[_labels.HEAD] | {"linear": linear}}

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    x = self.inputs(model, batch["image"], rng)
    labels = batch["text"]
    function = functools.partial(multilabel.loss, classes=self.classes)
    loss = self.over_classes(function, params, x, labels)
    _, is_label = multilabel.distinct(labels, self.classes)
    metrics = _labels.metrics(loss, is_label.sum(-1))
    return loss, (metrics, model.extra(extra))

  @property
  def chance(self) -> float | None:
    """The loss of the best constant: the sum of the classes' entropies."""
    p = self.frequency
    if p is None:
      return None
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).sum())


def build(
  setting: Setting, *, odds: float | None = None, tile: int | None = None
) -> CatLIP:
  """Returns the objective that config.objective describes.

  The model has the head "classifier", and the tokenizer is of kind "synsets".

  Args:
    setting: see objectives.Setting.
    odds: initial log-odds of every class; None for those of each among the
      captions of the vocabulary.
    tile: rows of logits in memory at a time on a device; None for what 4
      million logits are.
  """
  count = _labels.check(setting)
  frequency = None
  if (tokenizer := setting.tokenizer) is not None:
    kind = tokenizer.spec["kind"]
    if kind != "synsets":
      remedy = "Make a vocabulary with big_contrastive.synsets."
      raise errors.UserError("config.tokenizer.kind", kind, "synsets", remedy)
    frequency = tokenizer.frequency
    if frequency is None and odds is None:
      allowed = "a number, as the vocabulary doesn't know its captions' number"
      remedy = "-8.5 is that of CatLIP's 24,320 classes, 5 labels an image."
      raise errors.UserError("odds", odds, allowed, remedy)
  if odds is not None and not np.isfinite(odds):
    raise errors.UserError("odds", odds, "a finite number", "-8.5 is CatLIP's.")
  return CatLIP(
    setting,
    count=count,
    tile=_base.check_tile(tile),
    frequency=None if odds is not None else frequency,
    odds=odds or 0.0,
  )
