"""Cross entropy of the tokens of captions: captioners' loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from big_contrastive.config import errors
from big_contrastive.losses import _classes, _ring
from big_contrastive.losses._ring import Axis


def loss(
  x: Float[Array, "n w"],
  kernel: Float[Array, "w v"],
  bias: Float[Array, " v"],
  target: Int[Array, " n"],
  weight: Float[Array, " n"],
  *,
  classes: int,
  smoothing: float = 0.0,
  axis: Axis = None,
  split: str | None = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns sum_i weight_i CE(x_i kernel + bias, target_i) of all devices.

  With smoothing e the target is 1 - e at its class, and e / V more at each of
  the V classes, as in PyTorch. Rows of weight 0, such as padding, cost nothing:
  the others are packed before they meet the vocabulary. n of them take
  6 n w v flops for value and gradients, and the memory of `tile` rows of
  logits and one gradient of the kernel.

  Args:
    x: what the last layer gets for each token, float32 or bfloat16.
    kernel, bias: of the vocabulary; with `split`, this device's part.
    target: the tokens that are to be told.
    weight: of each, a constant; see `each_caption` and `each_token`.
    classes: ids of the whole vocabulary.
    smoothing: of labels; BLIP has 0.1.
    axis, split, tile: see _classes.total.

  Raises:
    UserError: for a smoothing outside of 0 to 1.
  """
  if not 0 <= smoothing < 1:
    allowed = "a number from 0 to below 1"
    raise errors.UserError("smoothing", smoothing, allowed, "BLIP has 0.1.")
  return _classes.total(
    "logsumexp", x, kernel, bias, target[:, None],
    (1 - smoothing) * weight[:, None], weight, spread=smoothing / classes,
    axis=axis, split=split, tile=tile,
  )  # fmt: skip


def each_token(mask: Bool[Array, "b l"], axis: Axis = None) -> jax.Array:
  """Returns weights [b, l] of a mean over all tokens of the global batch.

  Args:
    mask: which are tokens, and not padding.
    axis: mesh axis name(s) of the batch.
  """
  count = mask.sum()
  if axis is not None:
    count = jax.lax.psum(count, axis)
  return mask / jnp.maximum(1, count).astype(jnp.float32)


def each_caption(mask: Bool[Array, "b l"], axis: Axis = None) -> jax.Array:
  """Returns weights [b, l] of a mean over captions of means over their tokens.

  As in CapPa (arXiv:2306.07915): a token of a short caption weighs more.

  Args:
    mask: which are tokens, and not padding.
    axis: mesh axis name(s) of the batch.
  """
  count = jnp.maximum(1, mask.sum(-1, keepdims=True)).astype(jnp.float32)
  return mask / count / (len(mask) * _ring.size(axis))
