"""DINO (arXiv:2104.14294): a teacher's distributions over prototypes."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from big_contrastive.config import durations, errors
from big_contrastive.config.durations import Duration
from big_contrastive.losses.classes import distillation
from big_contrastive.losses.classes.distillation import Distillation
from big_contrastive.models import norms
from big_contrastive.models.heads.dino import Dino
from big_contrastive.objectives import Setting, _base, _crops, _teacher, _views
from big_contrastive.parallel import sharding

_HEAD = "projector"
_COLLAPSED = 1e-3  # A divergence, in nats.


@dataclasses.dataclass(frozen=True)
class DINO(_teacher.Teaching, _crops.Crops):
  """Each view predicts the teacher's distributions of the other global views.

  losses.classes.distillation, over all of an image's views for the student and
  its two global ones for the teacher, which is evaluated but for its batch
  norms. The heads see all views at once. Then extra["center"], float32 [K],
  becomes m center + (1 - m) mean, the mean of the teacher's logits over the
  global batch and both views: the next step's center. extra["statistics"] are
  the teacher's. The teacher is what is exported.

  Args:
    temperature: of the student.
    teacher_temperature: step -> that of the teacher.
    center_momentum: m.
    tile: rows of logits in memory at a time on a device.
  """

  temperature: float = 0.1
  teacher_temperature: Callable[[jax.Array], jax.Array] = None
  center_momentum: float = 0.9
  tile: int | None = None

  @property
  def extra_rules(self):
    return (("center", "replicate"), *super().extra_rules)

  @property
  def head(self) -> Dino:
    """The head, without arrays."""
    return getattr(self.setting.model.abstract, _HEAD)

  def init_extra(self, params, key):
    center = jnp.zeros(self.head.out_dim)
    return super().init_extra(params, key) | {"center": center}

  def __call__(self, params, extra, batch, rng, step):
    model = _base.Applied(self.setting, params, extra.get("statistics", {}))
    teacher, center = self.teacher(params, extra), extra["center"]
    crops = self.crops(batch)
    x, kernel = self._meeting(model, crops, rng)
    # Keys draw nothing where they are for batch norms.
    normed = norms.groups(self.setting.model.abstract.img)
    y, of_teacher = jax.lax.stop_gradient(
      self._meeting(teacher, crops[:1], rng if normed else None)
    )
    temperature = self.teacher_temperature(step)
    found = self._distill(x, kernel, y, of_teacher, center, 1 / temperature)
    # The mean of logits is the logits of the mean.
    mean = jnp.matmul(y.mean((0, 1)), of_teacher, precision="highest")
    new = {"center": center + (1 - self.center_momentum) * (mean - center)}
    most = min(self.head.out_dim, y.shape[0] * y.shape[1])
    metrics = _views.metrics(found.loss, x[:, 0], x[:, 1]) | {
      "entropy": found.entropy,
      "divergence": jax.lax.stop_gradient(found.loss) - found.entropy,
      "prototypes_used": found.used.sum() / most,
      "teacher_temperature": temperature,
      "momentum": 1 - self.rate(step),
    }
    return found.loss, (metrics, teacher.extra(extra) | new)

  def _meeting(self, model, crops, rng):
    """Returns unit vectors [B, v, d] and the prototypes [d, K]."""
    x = self.embed_crops(model, crops, rng, ())
    flat = model.embed(
      lambda m, x: getattr(m, _HEAD).vectors(x), x.reshape(-1, x.shape[-1])
    )
    prototypes = model.embed(lambda m: getattr(m, _HEAD).prototypes())
    return flat.reshape(*x.shape[:2], -1), prototypes

  def _distill(self, x, kernel, y, of_teacher, center, scale) -> Distillation:
    """The loss of the global batch; prototypes may lie on devices in parts."""
    mesh, axis = self.setting.mesh, sharding.BATCH
    split = _base.split_of(mesh, self.head.out_dim)
    rows, columns = PartitionSpec(axis), PartitionSpec(None, split)
    one, each = PartitionSpec(), PartitionSpec(split)

    def local(*arrays):
      return distillation.loss(
        *arrays[:-1], scale=jnp.float32(1 / self.temperature),
        teacher_scale=arrays[-1], axis=axis, split=split, tile=self.tile,
      )  # fmt: skip

    return jax.shard_map(
      local, mesh=mesh, in_specs=(rows, columns, rows, columns, each, one),
      out_specs=Distillation(one, one, each),
    )(x, kernel, y, of_teacher, center, scale)  # fmt: skip

  def exported(self, params, extra):
    return super().exported(_teacher.taught(params, extra), extra)

  @property
  def chance(self) -> float:
    return math.log(self.head.out_dim)

  def flops(self):
    """Returns also those of the teacher's forward passes, and prototypes."""
    forward = 2 * self.setting.model.abstract.img.flops(False)
    rows = 6 * self.views + 2 * 2
    each = self.head.bottleneck * self.head.out_dim
    return super().flops() + forward + rows * each

  def signs(self, values, batch):
    line = (
      "the teacher's distributions are the student's: they diverge by "
      f"{values['divergence']:.2g} nats, and have an entropy of "
      f"{values['entropy']:.2g} of at most {self.chance:.3g}. All images have "
      "the same output. Lower the teacher's temperature or the learning rate."
    )
    collapsed = values["divergence"] < _COLLAPSED
    return {"collapse": line if collapsed else None}


def build(
  setting: Setting,
  *,
  temperature: float = 0.1,
  teacher_temperature: float = 0.04,
  final_teacher_temperature: float | None = None,
  temperature_warmup: Duration = "30 epochs",
  momentum: float = 0.996,
  schedule: Literal["cosine", "constant"] = "cosine",
  center_momentum: float = 0.9,
  tile: int | None = None,
) -> DINO:
  """Returns the objective that config.objective describes.

  The model has the head "projector", of name dino.

  Args:
    setting: see objectives.Setting.
    temperature: of the student.
    teacher_temperature: at first.
    final_teacher_temperature: after its rise; None for no rise.
    temperature_warmup: of that linear rise; in epochs, all steps of an epoch
      have the same temperature.
    momentum: of the teacher at the first step.
    schedule: of the momentum: "cosine" rises to 1 at the end of the run.
    center_momentum: of the center of the teacher's logits.
    tile: rows of logits in memory at a time on a device; None for what 4
      million logits are.
  """
  count = _crops.check(setting, _HEAD)
  head = getattr(setting.model.abstract, _HEAD)
  if not isinstance(head, Dino):
    where = f"config.model.heads.{_HEAD}.name"
    kind = type(head).__name__.lower()
    raise errors.UserError(where, kind, "dino", 'Set it to "dino".')
  _views.check_temperature(temperature)
  _views.check_temperature(teacher_temperature, "teacher_temperature")
  temperatures = np.full(1, teacher_temperature, np.float32)
  starts = np.zeros(0, int)
  if final_teacher_temperature is not None:
    name = "final_teacher_temperature"
    _views.check_temperature(final_teacher_temperature, name)
    starts = _starts(setting, temperature_warmup)
    first, last = teacher_temperature, final_teacher_temperature
    temperatures = np.append(np.linspace(first, last, len(starts)), last)
  if not 0 <= center_momentum < 1:
    allowed = "a number from 0 to below 1"
    remedy = "DINO has 0.9."
    raise errors.UserError("center_momentum", center_momentum, allowed, remedy)
  return DINO(
    setting, count=count, temperature=temperature, tile=_base.check_tile(tile),
    rate=_teacher.rate(momentum, setting.total, schedule),
    teacher_temperature=functools.partial(_at, starts, temperatures),
    center_momentum=center_momentum,
  )  # fmt: skip


def _starts(setting: Setting, warmup: Duration) -> np.ndarray:
  """Returns the first steps of the second temperature, the third, ..."""
  steps, each = setting.steps(warmup, "temperature_warmup"), 1.0
  if durations.in_epochs(warmup):
    each = setting.records / setting.batch_size
  return np.ceil(np.arange(1, round(steps / each) + 1) * each).astype(int)


def _at(starts: np.ndarray, values: np.ndarray, step: jax.Array) -> jax.Array:
  """Returns values[i], where i of the starts are not above the step."""
  return jnp.asarray(values, jnp.float32)[(step >= starts).sum()]
