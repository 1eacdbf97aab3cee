"""SwAV (arXiv:2006.09882): views predict each other's cluster."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors
from big_contrastive.config.durations import Duration
from big_contrastive.losses.clustering import sinkhorn, swapped
from big_contrastive.models.heads import prototypes
from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _base, _crops, _views
from big_contrastive.parallel import sharding

_HEAD = "prototypes"


@dataclasses.dataclass(frozen=True)
class SwAV(_crops.Crops):
  """Each view predicts the codes of the global views other than itself.

  With unit vectors z of the projector, prototypes C and scores z C^T, the codes
  of a global view are those of losses.clustering.sinkhorn over the global
  batch, and the loss is that of losses.clustering.swapped. Prototypes have
  length 1 after each update. Scores take B V K numbers, split over the devices.

  With a queue, extra["queue"], float32 [2, length, B, d], has z of both global
  views, of the newest batch first; it is sharded over the batch and begins with
  zeros. From step `start` on each step puts its own in front. A queue that is
  full, of the steps before, counts in the shares of prototypes.

  Args:
    temperature: of the predictions.
    epsilon, iterations: see sinkhorn.codes.
    length: batches in the queue; 0 for none.
    start: the step from which on it is filled.
  """

  temperature: float = 0.1
  epsilon: float = 0.05
  iterations: int = 3
  length: int = 0
  start: int = 0

  @property
  def extra_rules(self):
    rows = None, None, sharding.BATCH, None
    return (("queue", rows), *super().extra_rules)

  def init_extra(self, params, key):
    extra = super().init_extra(params, key)
    if not self.length:
      return extra
    width = getattr(self.setting.model.abstract, self.heads[-1]).out_dim
    shape = 2, self.length, self.setting.batch_size, width
    return extra | {"queue": jnp.zeros(shape)}

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    z = unit(self.embed_crops(model, self.crops(batch), rng, self.heads))
    scores = _views.through(model, z, [_HEAD])
    of_global = jnp.swapaxes(scores[:, :2], 0, 1)
    codes = self._codes(model, of_global, extra.get("queue"))
    loss = swapped.loss(codes, scores, temperature=self.temperature)
    metrics = _views.metrics(loss, z[:, 0], z[:, 1])
    metrics["prototypes_used"] = _used(of_global)
    extra = model.extra(extra)
    if self.length:
      extra = extra | {"queue": self._pushed(extra["queue"], z, step)}
    return loss, (metrics, extra)

  def _codes(self, model, scores, queue):
    """The codes [B, 2, K] of scores [2, B, K]; queue: None without one."""
    samples, valid = scores[:, None], None
    if queue is not None:
      older = _views.through(model, queue, [_HEAD])
      samples = jnp.concatenate([samples, older], axis=1)
      full = jnp.any(queue[:, -1] != 0)
      valid = jnp.broadcast_to(full, samples.shape[1:3]).at[0].set(True)
    codes = [
      sinkhorn.codes(
        of_view, epsilon=self.epsilon, iterations=self.iterations, valid=valid
      )
      for of_view in samples
    ]
    return jnp.stack([of_view[0] for of_view in codes], axis=1)

  def _pushed(self, queue, z, step):
    """The queue with z, [B, V, d], of the global views in front."""
    first = jnp.swapaxes(jax.lax.stop_gradient(z[:, :2]), 0, 1)[:, None]
    pushed = jnp.concatenate([first, queue[:, :-1]], axis=1)
    return jnp.where(step >= self.start, pushed, queue)

  def after_update(self, params, extra, step):
    if f"{_HEAD}/kernel" not in self.frozen:
      params = params | {_HEAD: prototypes.normalized(params[_HEAD])}
    return params, extra

  @property
  def chance(self) -> float:
    return float(np.log(getattr(self.setting.model.abstract, _HEAD).out_dim))


def _used(scores: jax.Array) -> jax.Array:
  """Returns the share of prototypes that are the nearest of a global view.

  Of as many as there can be, where the batch has fewer views than prototypes.

  Args:
    scores: [2, B, K].
  """
  count = scores.shape[-1]
  nearest = scores.argmax(axis=-1)
  used = jnp.zeros(count).at[nearest].set(1).sum()
  return used / min(count, nearest.size)


def build(
  setting: Setting,
  *,
  temperature: float = 0.1,
  epsilon: float = 0.05,
  iterations: int = 3,
  queue: int | None = None,
  queue_start: Duration = "15 epochs",
) -> SwAV:
  """Returns the objective that config.objective describes.

  The model has the head "projector", and the head "prototypes" on it.

  Args:
    setting: see objectives.Setting.
    temperature: of the predictions.
    epsilon: temperature of the codes.
    iterations: of Sinkhorn-Knopp.
    queue: vectors of each global view in the queue, a multiple of the batch,
      for batches that are small beside the prototypes; None for none.
    queue_start: when it begins to be filled; it is used once it is full.
  """
  count = _crops.check(setting, "projector", _HEAD)
  _views.check_temperature(temperature)
  if not 0 < epsilon < float("inf"):
    allowed = "a finite number above 0"
    raise errors.UserError("epsilon", epsilon, allowed, "SwAV has 0.05.")
  if iterations < 1:
    allowed = "a whole number from 1 up"
    raise errors.UserError("iterations", iterations, allowed, "SwAV has 3.")
  length = start = 0
  if queue is not None:
    length, start = _queue(setting, queue, queue_start)
  return SwAV(
    setting, count=count, temperature=temperature, epsilon=epsilon,
    iterations=iterations, length=length, start=start,
  )  # fmt: skip


def _queue(setting: Setting, queue: int, begins: Duration) -> tuple[int, int]:
  """Returns the batches in the queue, and the step when it begins."""
  size = setting.batch_size
  if queue < size or queue % size:
    near = max(1, round(queue / size)) * size
    allowed = f"a multiple of the batch = {size}, or None"
    remedy = f"The nearest is {near}."
    raise errors.UserError("queue", queue, allowed, remedy)
  start = setting.steps(begins, "queue_start")
  if start >= setting.total:
    allowed = f"a duration below the run's {setting.total} steps"
    remedy = "Start earlier, or set queue = None."
    raise errors.UserError("queue_start", begins, allowed, remedy)
  return queue // size, start
