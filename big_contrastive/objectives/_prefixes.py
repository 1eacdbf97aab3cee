"""Any pair loss at several widths: Matryoshka (arXiv:2205.13147)."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.losses import Loss
from big_contrastive.models.model import unit


def at_widths(
  loss: Loss, widths: Sequence[int], weights: Sequence[float]
) -> Loss:
  """Returns the weighted sum of a pair loss over prefixes of the embeddings.

  A prefix is normalized again, which is the same as to normalize the prefix of
  the tower's output, as sentence-transformers' MatryoshkaLoss does; one scale
  and one bias serve all widths. One width follows the other, so memory stays
  linear in the batch: O(b sum(widths)).

  Args:
    loss: see losses.Loss.
    widths, weights: from `check`.
  """

  def summed(zimg: jax.Array, ztxt: jax.Array, **kwargs: Any) -> jax.Array:
    total = jnp.zeros(())
    for width, weight in zip(widths, weights, strict=True):
      pair = zimg, ztxt
      if width < zimg.shape[-1]:  # The whole is normalized.
        pair = unit(zimg[:, :width]), unit(ztxt[:, :width])
      total = total + weight * loss(*pair, **kwargs)
    return total

  return summed


def check(
  widths: list | tuple, weights: list | tuple | None, out_dim: int
) -> tuple[list[int], list[float]]:
  """Returns widths and weights; without weights these are 1, as in the paper.

  Raises:
    UserError: for widths that don't ascend from 1 up to that of the
      embeddings, or weights that aren't as many finite numbers above 0.
  """
  remedy = f"The last is that of the embeddings, {out_dim}."
  whole = all(type(w) is int for w in widths)
  ascend = whole and all(a < b for a, b in itertools.pairwise([0, *widths]))
  if not widths or not ascend or widths[-1] != out_dim:
    allowed = "whole numbers that ascend, from 1 up to all of the embedding"
    raise errors.UserError("widths", list(widths), allowed, remedy)
  given = [1.0] * len(widths) if weights is None else list(weights)
  fine = all(type(w) in (int, float) and 0 < w < math.inf for w in given)
  if len(given) != len(widths) or not fine:
    allowed = f"{len(widths)} finite numbers above 0, one for each width"
    raise errors.UserError("width_weights", given, allowed, "None is 1 each.")
  return list(widths), given
