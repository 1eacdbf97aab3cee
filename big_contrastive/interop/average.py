"""The average of two models' weights."""

import dataclasses

import jax
import numpy as np

from big_contrastive.config import errors, rules
from big_contrastive.interop.bundle import ModelBundle


def averaged(
  model: ModelBundle, other: ModelBundle, share: float, where: str
) -> ModelBundle:
  """Returns a model with weights (1 - share) a + share b.

  As of a model and what fine-tuning made of it (WiSE-FT, arXiv:2109.01903; the
  filter of DFN, arXiv:2309.17425). Running statistics are averaged, too.

  Args:
    model: a; also gives the tokenizer and the preprocessing.
    other: b.
    share: of b, from 0 to 1.
    where: what b is called in errors.

  Raises:
    UserError: for models of other parameters, or with another tokenizer.
  """
  if not 0 <= share <= 1:
    allowed = "a number from 0 to 1"
    raise errors.UserError(
      "--share", share, allowed, "It is that of --average."
    )
  a, b = (rules.shapes(m.params) for m in (model, other))
  if a != b:
    differ = sorted(k for k in a | b if a.get(k) != b.get(k))
    value = f"other parameters: {', '.join(differ[:3])}"
    allowed = "a model with the parameters of --from, alike in shape"
    raise errors.UserError(where, value, allowed, "Give one made from it.")
  if (model.tokenizer, model.blob) != (other.tokenizer, other.blob):
    allowed = "the tokenizer of --from"
    remedy = "The same ids would mean other words."
    raise errors.UserError(where, "another tokenizer", allowed, remedy)

  def mean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    return np.float32(1 - share) * x + np.float32(share) * y

  params = jax.tree.map(mean, model.params, other.params)
  return dataclasses.replace(model, params=params)
