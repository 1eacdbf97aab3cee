"""The same losses as others compute them: for tests and benchmarks only.

Each function has the arguments of those in big_contrastive/losses, without
ids and tile: zimg, ztxt [b, d], scale, bias, axis. DENSE_VIEWS has those of
big_contrastive/losses/instance, without tile.
"""

import functools

import jax
import jax.numpy as jnp

from big_contrastive.losses import _ring


def _logits(zimg, ztxt, scale, bias):
  zimg, ztxt = zimg.astype(jnp.float32), ztxt.astype(jnp.float32)
  cosine = jnp.einsum("id,jd->ij", zimg, ztxt, precision="highest")
  return scale * cosine + (0.0 if bias is None else bias)


def dense(kind, zimg, ztxt, *, scale, bias=None, axis=None):
  """All B x B logits on every device: what the formula says."""
  if axis is not None:
    zimg, ztxt = (jax.lax.all_gather(z, axis, tiled=True) for z in (zimg, ztxt))
  logits = _logits(zimg, ztxt, scale, bias)
  if kind == "sigmoid":
    sign = 2 * jnp.eye(logits.shape[0]) - 1
    value = -jax.nn.log_sigmoid(sign * logits).sum() / logits.shape[0]
  else:
    rows, columns = (jax.nn.logsumexp(logits, axis=k) for k in (1, 0))
    value = ((rows + columns) / 2 - jnp.diag(logits)).mean()
  return _ring.mean(value, axis)


def gathered(kind, zimg, ztxt, *, scale, bias=None, axis=None):
  """Strips b x B of the local rows against all that was gathered.

  One strip for sigmoid, one each way for softmax: OpenCLIP with local_loss and
  gather_with_grad, DisCo-CLIP (arXiv:2304.08480).
  """
  b = zimg.shape[0]
  first = _ring.index(axis) * b
  diagonal = jnp.arange(b), first + jnp.arange(b)

  def gather(z):
    return z if axis is None else jax.lax.all_gather(z, axis, tiled=True)

  def strip(z, others):
    return _logits(z, gather(others), scale, bias)

  logits = strip(zimg, ztxt)
  if kind == "sigmoid":
    sign = jnp.full(logits.shape, -1.0).at[diagonal].set(1.0)
    return _ring.mean(-jax.nn.log_sigmoid(sign * logits).sum() / b, axis)
  back = strip(ztxt, zimg)
  lse = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(back, axis=1)
  return _ring.mean((lse / 2 - logits[diagonal]).mean(), axis)


def around(kind, zimg, ztxt, *, scale, bias=None, axis=None, recompute=False):
  """A ring of text chunks, differentiated by JAX: every hop's block is kept.

  With `recompute`, jax.checkpoint drops the block and keeps the chunks.
  """
  b, n = zimg.shape[0], _ring.size(axis)
  eye = jnp.eye(b, dtype=bool)

  def block(carry, ztxt, columns, hop):
    rows, positive = carry
    logits = _logits(zimg, ztxt, scale, bias)
    own = eye & (hop == 0)
    if kind == "sigmoid":
      terms = jax.nn.softplus(jnp.where(own, -logits, logits))
      return (rows + terms.sum(axis=1), positive), columns
    positive += jnp.where(own, logits, 0.0).sum(axis=1)
    rows = jnp.logaddexp(rows, jax.nn.logsumexp(logits, axis=1))
    columns = jnp.logaddexp(columns, jax.nn.logsumexp(logits, axis=0))
    return (rows, positive), columns

  if recompute:
    block = jax.checkpoint(block, prevent_cse=False)

  def send(tree):
    if axis is None:
      return tree
    to_next = [(i, (i + 1) % n) for i in range(n)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, to_next), tree)

  def hop(state, index):
    carry, ztxt, columns = state
    carry, columns = block(carry, ztxt, columns, index)
    return (carry, send(ztxt), send(columns)), None

  zeros = jnp.zeros_like(zimg[:, 0], jnp.float32)
  start = zeros if kind == "sigmoid" else zeros - 1e30
  state = ((start, zeros), ztxt, start)
  ((rows, positive), _, columns), _ = jax.lax.scan(hop, state, jnp.arange(n))
  if kind == "sigmoid":
    return _ring.mean(rows.mean(), axis)
  return _ring.mean(((rows + columns) / 2 - positive).mean(), axis)


BASELINES = {
  "dense": dense,
  "gathered strips": gathered,
  "ring, all kept": around,
  "ring, checkpoint": functools.partial(around, recompute=True),
}


def _gather(z, axis):
  return z if axis is None else jax.lax.all_gather(z, axis, tiled=True)


def _mean_of_rows(logits, target, axis):
  own = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
  return _ring.mean((jax.nn.logsumexp(logits, axis=1) - own).mean(), axis)


def dense_nt_xent(z1, z2, *, scale, axis=None):
  """The rows of this device's views against all 2B that were gathered."""
  b = z1.shape[0]
  others = jnp.concatenate([_gather(z1, axis), _gather(z2, axis)])
  logits = _logits(jnp.concatenate([z1, z2]), others, scale, None)
  first = jnp.arange(b) + _ring.index(axis) * b
  second = first + others.shape[0] // 2
  itself, target = (
    jnp.concatenate(places) for places in ((first, second), (second, first))
  )
  logits = logits.at[jnp.arange(2 * b), itself].set(-1e9)
  return _mean_of_rows(logits, target, axis)


def dense_info_nce(q, k, *, scale, axis=None):
  """The queries of this device against all keys, gathered."""
  b = q.shape[0]
  logits = _logits(q, _gather(k, axis), scale, None)
  return _mean_of_rows(logits, jnp.arange(b) + _ring.index(axis) * b, axis)


def dense_queue(q, k, queue, *, scale, axis=None):
  """The queries of this device against the whole queue, gathered."""
  own = scale * (q * jax.lax.stop_gradient(k)).sum(axis=1, keepdims=True)
  queue = jax.lax.stop_gradient(_gather(queue, axis))
  logits = jnp.concatenate([own, _logits(q, queue, scale, None)], axis=1)
  return _mean_of_rows(logits, jnp.zeros(q.shape[0], jnp.int32), axis)


DENSE_VIEWS = {
  "nt_xent": dense_nt_xent, "info_nce": dense_info_nce, "queue": dense_queue,
}  # fmt: skip
