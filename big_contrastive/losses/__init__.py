"""Pair losses: each file in this folder is one.

Plain functions that run unchanged on one device and inside jax.shard_map. The
folder instance/ has losses between views of an image; matching/ what methods
need that match pairs with a teacher's targets and with hard negatives. They
have arguments of their own: they are no choices of the registry.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax

from big_contrastive.config import registry


@runtime_checkable
class Loss(Protocol):
  """The function `loss` of such a file."""

  def __call__(
    self,
    zimg: jax.Array,
    ztxt: jax.Array,
    *,
    scale: jax.Array,
    bias: jax.Array | None = None,
    ids: jax.Array | None = None,
    axis: str | tuple[str, ...] | None = None,
    tile: int | None = None,
  ) -> jax.Array:
    """Returns the loss of the global batch, a float32 scalar.

    The same on every device, with exact gradients, and with memory linear in
    the batch.

    Args:
      zimg, ztxt: [b, d] unit embeddings of this device's pairs.
      scale: exp of the log-temperature.
      bias: of the logits; a loss that is blind to it annotates it `None`.
      ids: int32 [b]; pairs with equal ids are not each other's negatives.
      axis: mesh axis name(s) inside shard_map; None for one device.
      tile: rows of logits in memory at a time; None for the default.
    """


class PairLoss(NamedTuple):
  """The functions of a file in this folder.

  Attributes:
    loss: see Loss.
    chance: pairs in a batch -> the loss of guessing; None if the file has no
      function of that name.
  """

  loss: Loss
  chance: Callable[[int], float] | None = None


def pair_loss(name: str, where: str) -> PairLoss:
  """Returns the pair loss losses/<name>.py, or that of the file `name`.

  Args:
    name: see registry.module.
    where: the config field that holds it, for the error.
  """
  module = registry.module("losses", name, where)
  return PairLoss(module.loss, vars(module).get("chance"))
