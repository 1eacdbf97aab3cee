"""The symmetric softmax loss of CLIP (arXiv:2103.00020)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive import ring
from big_contrastive.ring import Axis

# The logit of a pair that is left out. Not -inf: where a whole block is left
# out, the gradient of logsumexp would be 0/0.
LEFT_OUT = -1e30


def loss(
  zimg: Float[Array, "b d"],
  ztxt: Float[Array, "b d"],
  *,
  scale: Float[Array, ""],
  bias: None = None,
  ids: Int[Array, "b"] | None = None,
  axis: Axis = None,
) -> Float[Array, ""]:
  """Returns the CLIP loss: image to text and text to image, averaged.

  With logits = scale zimg ztxt^T: mean_i of the cross entropy of row i and of
  column i, each with target i, both with the running-maximum log-sum-exp, so
  that nothing overflows at any scale.

  Args:
    zimg, ztxt: [b, d] unit embeddings of this device's pairs; pair i is
      (zimg[i], ztxt[i]). float32 or bfloat16; logits and sums are float32.
    scale: exp of the learned log-temperature.
    bias: must be None: a softmax is blind to it.
    ids: two pairs with the same id are not each other's negatives: their
      logits are left out of both log-sum-exps.
    axis: mesh axis name(s) inside shard_map, None for the whole batch at once.
  """
  if bias is not None:
    raise ValueError("softmax takes no bias: adding one changes nothing.")
  zimg, ztxt = zimg.astype(jnp.float32), ztxt.astype(jnp.float32)
  eye = jnp.eye(zimg.shape[0], dtype=bool)

  def block(carry, visitor, columns, hop):
    rows, positive = carry
    ztxt, their_ids = visitor
    cosine = jnp.einsum("id,jd->ij", zimg, ztxt, precision="highest")
    logits = scale * cosine
    own = eye & (hop == 0)  # Pairs lie on the diagonal of hop 0.
    positive += jnp.where(own, logits, 0.0).sum(axis=1)
    if ids is not None:
      negative = ids[:, None] != their_ids[None, :]
      logits = jnp.where(own | negative, logits, LEFT_OUT)
    rows = jnp.logaddexp(rows, jax.nn.logsumexp(logits, axis=1))
    columns = jnp.logaddexp(columns, jax.nn.logsumexp(logits, axis=0))
    return (rows, positive), columns

  zeros = jnp.zeros_like(zimg[:, 0])
  empty = zeros + LEFT_OUT
  (rows, positive), columns = ring.fold(
    block, (empty, zeros), (ztxt, ids), empty, axis
  )
  return ring.mean((rows + columns) / 2 - positive, axis)
