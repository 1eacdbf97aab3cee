"""Image to text and text to image with a teacher's soft targets and queues.

The ITC loss of ALBEF (arXiv:2107.07651) and BLIP (2201.12086), over the whole
batch: the authors' code compares with the texts of one device and the queue.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from big_contrastive.config import errors
from big_contrastive.losses import _lookup, _lse, _pairwise, _ring
from big_contrastive.losses._ring import Axis


def loss(
  zimg: Float[Array, "b d"],
  ztxt: Float[Array, "b d"],
  timg: Float[Array, "b d"],
  ttxt: Float[Array, "b d"],
  qimg: Float[Array, "q d"],
  qtxt: Float[Array, "q d"],
  *,
  scale: Float[Array, ""],
  alpha: Float[Array, ""],
  ids: Int[Array, " b"] | None = None,
  queue_ids: Int[Array, " q"] | None = None,
  axis: Axis = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns the mean of both directions' cross entropy with soft targets.

  Image i to the texts j, those of the teacher for the whole batch, then the
  queue: with s_ij = scale zimg_i . [ttxt | qtxt]_j and t_ij = scale timg_i .
  [ttxt | qtxt]_j it is

    -sum_j (alpha softmax(t_i)_j + (1 - alpha) u_ij) log softmax(s_i)_j,

  u_i one at j = i; with ids, the same for all j of equal id. Texts to images
  likewise. Only zimg, ztxt and, through s, the scale have gradients.

  Images and texts go round the devices with what they have summed; what they
  look up stays. Memory is O((b + q) d). In one pass, for K = B + Q columns on n
  devices: 16 B K d / n flops for value and gradients, 20 with ids, and 8 for
  the value. It can be differentiated once.

  Args:
    zimg, ztxt: [b, d] unit embeddings of this device's pairs, float32 or
      bfloat16; logits and sums are float32.
    timg, ttxt: those of the teacher for the same pairs: constants.
    qimg, qtxt: [Q / n, d], this device's part of the queues: constants. They
      may be empty.
    scale: 1 / temperature.
    alpha: share of the teacher's targets, 0 to 1: a constant.
    ids: int32 [b]; pairs with equal ids are each other's positives.
    queue_ids: those of the queues; an id that no pair has, such as -1, for
      rows that hold none.
    axis: mesh axis name(s) inside shard_map, None for one device.
    tile: rows of logits in memory at a time; None for that of _ring.side.

  Raises:
    UserError: for wrong shapes, or ids without those of the queue.
  """
  _check((zimg, ztxt, timg, ttxt), (qimg, qtxt), scale, alpha, ids, queue_ids)
  # Both parts of their gradients are summed in float32.
  zimg, ztxt, timg, ttxt, qimg, qtxt = (
    x.astype(jnp.float32) for x in (zimg, ztxt, timg, ttxt, qimg, qtxt)
  )
  key_ids = ids
  if ids is not None and queue_ids is not None:
    key_ids = jnp.concatenate([ids, queue_ids])
  direction = functools.partial(
    _cross_entropy,
    scale=jnp.asarray(scale, jnp.float32), alpha=alpha,
    ids=ids, key_ids=key_ids, axis=axis, tile=tile,
  )  # fmt: skip
  return (direction(zimg, timg, ttxt, qtxt)
          + direction(ztxt, ttxt, timg, qimg)) / 2  # fmt: skip


def chance(batch: int, queue: int) -> float:
  """Returns the loss of equal logits: that batch, that many in a queue."""
  return math.log(batch + queue)


def _check(
  pairs: tuple[jax.Array, ...], queues: tuple[jax.Array, ...],
  scale: jax.Array, alpha: jax.Array,
  ids: jax.Array | None, queue_ids: jax.Array | None,
) -> None:  # fmt: skip
  names = "zimg", "ztxt", "timg", "ttxt"
  for name, x in zip(names[1:], pairs[1:], strict=True):
    _lookup.check_pairs((names[0], name), pairs[0], x, scale)
  if jnp.shape(alpha) != ():
    remedy = "It is one number, the share of the teacher."
    raise errors.UserError(
      "the shape of alpha", jnp.shape(alpha), "(), a scalar", remedy
    )
  (b, d), q = pairs[0].shape, len(queues[0])
  for name, x in zip(("qimg", "qtxt"), queues, strict=True):
    if x.shape != (q, d):
      remedy = "Row i of both is the same pair."
      raise errors.UserError(
        f"the shape of {name}", x.shape, f"({q}, {d})", remedy
      )
  _lookup.check_ids("ids", ids, b)
  _lookup.check_ids("queue_ids", queue_ids, q)
  if (ids is None) != (queue_ids is None) and (q or ids is None):
    missing = "ids" if ids is None else "queue_ids"
    allowed = "an id for each row"
    remedy = "Give those of the batch and of the queue, or neither."
    raise errors.UserError(missing, None, allowed, remedy)


class _Constants(NamedTuple):
  """What has no gradient.

  taught: [b, d], the teacher's queries. own: [b, d], each query's own key.
  keys: [k, d]. alpha: a scalar. places, key_places: int32 [b] and [k], equal
  for a query and its own key. ids, key_ids: the same shapes; None for one
  positive a query.
  """

  taught: jax.Array
  own: jax.Array
  keys: jax.Array
  alpha: jax.Array
  places: jax.Array
  key_places: jax.Array
  ids: jax.Array | None
  key_ids: jax.Array | None


def _cross_entropy(
  z: jax.Array, taught: jax.Array, own: jax.Array, queue: jax.Array, *,
  scale: jax.Array, alpha: jax.Array, ids: jax.Array | None,
  key_ids: jax.Array | None, axis: Axis, tile: int | None,
) -> jax.Array:  # fmt: skip
  """Returns one direction's mean over the global batch."""
  (b, d), q = z.shape, len(queue)
  live = _LIVE + (ids is not None)
  tile = _ring.side(b + q, d, live) if tile is None else tile
  places = jnp.arange(b, dtype=jnp.int32) + _ring.index(axis) * b
  constants = _Constants(
    taught, own, jnp.concatenate([own, queue]),
    jnp.asarray(alpha, jnp.float32), places,
    jnp.concatenate([places, jnp.full(q, -1, jnp.int32)]), ids, key_ids,
  )  # fmt: skip
  constants = jax.lax.stop_gradient(constants)
  operands = _ring.varying((z, scale, constants), axis)
  return _ring.mean(_local((axis, tile), *operands), axis)


_LIVE = 4  # Two kinds of logits, and their exponentials.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _local(plan, z, scale, constants):
  """Returns the mean of this device's queries."""
  return _mean(plan, z, scale, constants, with_keys=False)[0]


def _forward(plan, z, scale, constants):
  value, pulls = _mean(plan, z, scale, constants, with_keys=True)
  dz = scale * pulls / len(z)
  dscale = jnp.vdot(z, pulls) / len(z)
  return value, _pairwise.only_once((dz, dscale))


def _backward(plan, residuals, cotangent):
  # `_ring.mean` follows, so the cotangent is the same on all devices.
  dz, dscale = residuals
  return dz * cotangent, dscale * cotangent, None


_local.defvjp(_forward, _backward)


def _mean(
  plan: tuple[Axis, int], z: jax.Array, scale: jax.Array, c: _Constants,
  with_keys: bool,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
  """Returns the mean, and if asked for each term's gradient by scale z.

  A query's own key is counted apart, with all logits relative to its: so a
  small loss is no difference of large numbers, nor is its gradient.
  """
  student, *targets = _pass(plan, z, scale, c, with_keys)
  shares = [c.alpha, 1 - c.alpha][: len(targets)]
  terms = jax.nn.softplus(_lse.minus(student[0], jnp.float32(0)))
  pulls = _toward(student, c.own) if with_keys else None
  for share, target in zip(shares, targets, strict=True):
    _, (logit, _) = _with_own(target)
    terms -= share * logit[0]
    if with_keys:
      pulls -= share * _toward(target, c.own)
  return terms.mean(), pulls


def _with_own(softmax: Any) -> tuple[jax.Array, Any]:
  """Adds the own key's logit of 0 to what a softmax is over.

  Returns:
    the probability [b] of all other keys, and their means times that.
  """
  (maximum, total), sums = softmax
  top = jnp.maximum(maximum, 0)
  scale = jnp.exp(maximum - top)
  scale /= jnp.exp(-top) + total * scale
  return total * scale, jax.tree.map(lambda x: x * scale[None], sums)


def _toward(softmax: Any, own: jax.Array) -> jax.Array:
  """Returns the mean key [b, d] under a softmax, minus the own key."""
  others, (_, mean) = _with_own(softmax)
  return mean.T - others[:, None] * own


def _pass(
  plan: tuple[Axis, int], z: jax.Array, scale: jax.Array, c: _Constants,
  with_keys: bool,
) -> list:  # fmt: skip
  """Returns sums over the other keys of each query, by three softmaxes.

  They are the student's, the teacher's and, with ids, the one that is uniform
  over the keys of its id; each of them (log-sum-exp, (sum of the student's
  logits [1, b], sum of keys [d, b])), with these weights. Logits are relative
  to that of the own key.
  """
  axis, tile = plan
  own, taught = (scale * _pairwise.inner(x, c.own) for x in (z, c.taught))

  def one(other, key, query, nothing, sums):
    keys, key_ids = key
    z, of_teacher, own, taught, ids = query
    student = scale * _pairwise.cosines(keys, z) - own[None]
    logits = [
      student,
      scale * _pairwise.cosines(keys, of_teacher) - taught[None],
    ]
    logits = [jnp.where(other, x, _lse.LEFT_OUT) for x in logits]
    if ids is not None:
      same = other & (key_ids[:, None] == ids[None])
      logits.append(jnp.where(same, 0.0, _lse.LEFT_OUT))
    added = [_sums(x, student, keys, with_keys) for x in logits]
    return nothing, _merge(sums, added)

  zeros = jnp.zeros(z.shape[:1], jnp.float32)
  start = (
    _lse.nothing(zeros),
    (zeros[None], jnp.zeros(z.shape[::-1], jnp.float32) if with_keys else None),
  )
  _, sums = _ring.sweep(
    one, c.key_places, (c.keys, c.key_ids),
    (z, c.taught, own, taught, c.ids), (), [start] * (2 + (c.ids is not None)),
    merge=_merge, axis=axis, side=tile, column_ids=c.places,
  )  # fmt: skip
  return sums


def _sums(
  logits: jax.Array, student: jax.Array, keys: jax.Array, with_keys: bool
) -> Any:
  lse = _lse.of(logits, 0)
  weights = jnp.exp(logits - lse[0][None])
  of_keys = None
  if with_keys:
    # Transposed first, it is a plain product; without that, CPUs are slow.
    transposed = jax.lax.optimization_barrier(keys.T)
    of_keys = jnp.einsum("dj,ji->di", transposed, weights, precision="highest")
  return lse, ((weights * student).sum(0, keepdims=True), of_keys)


def _merge(a: list, b: list) -> list:
  return [_lookup.merge(x, y) for x, y in zip(a, b, strict=True)]
