"""MoCo v1 (arXiv:1911.05722) and v2 (2003.04297): a queue of keys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from big_contrastive.config import errors
from big_contrastive.losses.instance import queue as queues
from big_contrastive.models import norms
from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _base, _teacher, _views
from big_contrastive.parallel import sharding


@dataclasses.dataclass(frozen=True)
class MoCo(_teacher.Taught):
  """Each query finds its key among the keys of batches before.

  CE([q k, q Q^T] / temperature, 0), mean over the batch, for unit vectors: q of
  the first view, k of the second by the teacher, and Q a queue of the newest K
  keys. Then the batch's keys replace the oldest ones. Symmetric: the sum of
  both directions; both views' keys enter the queue.

  extra["queue"], float32 [K / B, B, d], begins with random unit vectors; it is
  sharded over the batch. extra["at"], int32, is the oldest row of it. Where
  the tower normalizes in groups of the batch, the teacher's images are shuffled
  (the paper's "shuffling BN"), anew in each step.

  Args:
    scale: 1 / temperature.
    length: rows K / B of the queue.
    symmetric: whether each view is query and key.
    tile: rows of logits in memory at a time on a device.
  """

  scale: float = 1.0
  length: int = 1
  symmetric: bool = False
  tile: int | None = None

  @property
  def extra_rules(self):
    rows = None, sharding.BATCH, None
    return (("queue", rows), ("at", "replicate"), *super().extra_rules)

  def init_extra(self, params, key):
    of_teacher, of_queue = jax.random.split(key)
    width = getattr(self.setting.model.abstract, self.heads[-1]).out_dim
    size = self.setting.batch_size
    queue = jax.random.normal(of_queue, (self.length, size, width))
    return super().init_extra(params, of_teacher) | {
      "queue": unit(queue), "at": jnp.zeros((), jnp.int32)
    }  # fmt: skip

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    teacher = self.teacher(params, extra)
    images = self.images(batch)
    loss, queue, at = 0.0, extra["queue"], extra["at"]
    for i in range(2 if self.symmetric else 1):
      of_view = jax.random.fold_in(rng, i)
      keys = self.keys(of_view, len(images[0]))
      q = unit(self.embed(model, images[i], keys, self.heads))
      k = self._keys_of(teacher, images[1 - i], keys, of_view)
      # Neither direction sees the other's keys of this step.
      loss += self._cross_entropy(q, k, extra["queue"])
      queue = jax.lax.dynamic_update_index_in_dim(queue, k, at, axis=0)
      at = (at + 1) % self.length
    metrics = _views.metrics(loss, q, k)
    new = {"queue": queue, "at": at}
    return loss, (metrics, model.extra(extra) | new)

  def _keys_of(self, teacher, image, keys, rng):
    """The teacher's unit vectors, normalized in groups at random."""
    if norms.groups(self.setting.model.abstract.img) <= {None}:
      k = self.embed(teacher, image, keys, self.heads)
    else:
      # Groups lie by position, and the query's positive lies at its own: the
      # statistics would give it away.
      rng = jax.random.fold_in(rng, 2**31 - 1)
      places = jax.random.permutation(rng, len(image))
      k = self.embed(teacher, image[places], keys, self.heads)
      k = jnp.zeros_like(k).at[places].set(k)
    return jax.lax.stop_gradient(unit(k))

  def _cross_entropy(self, q, k, queue):
    def loss_of(q, k, queue, axis):
      return queues.loss(
        q, k, queue.reshape(-1, queue.shape[-1]),
        scale=jnp.float32(self.scale), axis=axis, tile=self.tile,
      )  # fmt: skip

    columns = PartitionSpec(None, sharding.BATCH)
    ring = _base.on_ring(loss_of, self.setting.mesh, {2: columns})
    return ring(q, k, queue)

  @property
  def passes(self):
    return super().passes[: 2 if self.symmetric else 1]

  @property
  def chance(self) -> float:
    directions = 2 if self.symmetric else 1
    keys = self.length * self.setting.batch_size
    return directions * float(np.log(keys + 1))

  def flops(self):
    return super().flops() / (1 if self.symmetric else 2)


def build(
  setting: Setting,
  *,
  temperature: float = 0.2,
  queue: int = 65_536,
  momentum: float = 0.999,
  symmetric: bool = False,
  tile: int | None = None,
) -> MoCo:
  """Returns the objective that config.objective describes.

  The model has the head "projector": one linear layer in v1, two in v2.

  Args:
    setting: see objectives.Setting.
    temperature: of the logits: 0.07 in v1, 0.2 in v2.
    queue: keys in the queue, a multiple of the batch.
    momentum: of the teacher.
    symmetric: whether each view is query and key, as in the authors' notebook
      for CIFAR-10.
    tile: rows of logits in memory at a time on a device; None for that of
      _ring.side.
  """
  size = setting.batch_size
  per_step = size * (2 if symmetric else 1)
  if queue < per_step or queue % per_step:
    near = max(1, round(queue / per_step)) * per_step
    each = "two batches" if symmetric else "the batch"
    allowed = f"a multiple of {each} = {per_step}"
    remedy = f"The nearest is {near}."
    raise errors.UserError("queue", queue, allowed, remedy)
  return MoCo(
    setting,
    count=_views.check(setting, "projector"),
    rate=_teacher.rate(momentum, setting.total, "constant"),
    scale=_views.check_temperature(temperature),
    length=queue // size,
    symmetric=symmetric,
    tile=_base.check_tile(tile),
  )
