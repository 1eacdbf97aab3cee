"""The pairwise sigmoid loss of SigLIP (arXiv:2303.15343)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive import ring
from big_contrastive.ring import Axis


def loss(
  zimg: Float[Array, "b d"],
  ztxt: Float[Array, "b d"],
  *,
  scale: Float[Array, ""],
  bias: Float[Array, ""] | None = None,
  ids: Int[Array, "b"] | None = None,
  axis: Axis = None,
) -> Float[Array, ""]:
  """Returns the sigmoid loss, the mean over the global batch of images.

  sum_ij -log sigmoid(s_ij (scale zimg_i . ztxt_j + bias)) / B, s_ij = 1 for
  pairs and -1 for all others: divided by B, not by B^2, as in the paper.

  Args:
    zimg, ztxt: [b, d] unit embeddings of this device's pairs; pair i is
      (zimg[i], ztxt[i]). float32 or bfloat16; logits and sums are float32.
    scale: exp of the learned log-temperature.
    bias: the learned bias, 0 when None.
    ids: two pairs with the same id are not each other's negatives: their
      terms are left out of the sum.
    axis: mesh axis name(s) inside shard_map, None for the whole batch at once.
  """
  bias = 0.0 if bias is None else bias
  zimg = zimg.astype(jnp.float32)
  eye = jnp.eye(zimg.shape[0], dtype=bool)

  def block(total, visitor, luggage, hop):
    ztxt, their_ids = visitor
    own = eye & (hop == 0)  # Pairs lie on the diagonal of hop 0.
    cosine = jnp.einsum("id,jd->ij", zimg, ztxt, precision="highest")
    logits = scale * cosine + bias
    terms = jax.nn.softplus(jnp.where(own, -logits, logits))
    if ids is not None:
      negative = ids[:, None] != their_ids[None, :]
      terms = jnp.where(own | negative, terms, 0.0)
    return total + terms.sum(-1), luggage

  visitor = (ztxt.astype(jnp.float32), ids)
  total, _ = ring.fold(block, jnp.zeros_like(zimg[:, 0]), visitor, (), axis)
  return ring.mean(total, axis)
