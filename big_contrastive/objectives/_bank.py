"""A memory bank: a vector for each record of the training data.

InstDisc's (arXiv:1805.01978), of which CMC (1906.05849) has two.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from big_contrastive.config import errors
from big_contrastive.losses.bank import drawn, nce
from big_contrastive.losses.instance import queue
from big_contrastive.models.model import unit
from big_contrastive.objectives import Setting, _base, _views
from big_contrastive.parallel import sharding

State = dict[str, jax.Array]
Loss = Literal["softmax", "nce"]


@dataclasses.dataclass(frozen=True)
class Bank:
  """What a bank is, and the loss against it.

  Its state has "rows", float32 [R, d], R the records N rounded up to a multiple
  of the batch, so that any number of devices that share a batch share it, too.
  Rows from N on never count and never change. With "nce" it also has "log_z",
  0 before the first step.

  Args:
    setting: of the objective.
    scale: 1 / temperature.
    momentum: what an update keeps of a row.
    loss: "softmax" or "nce".
    negatives: K, the rows drawn for each image, uniformly over all records,
      with replacement; its own may be among them. None for all other rows.
    tile: rows of logits in memory at a time on a device; without draws.
  """

  setting: Setting
  scale: float
  momentum: float
  loss: Loss
  negatives: int | None
  tile: int | None

  rules = ((r"bank/.*rows", (sharding.BATCH, None)), (r"bank/.*", "replicate"))

  def init(self, width: int, key: jax.Array) -> State:
    """Returns the first state: uniform rows, whose mean square is 1 / d."""
    size, bound = self.setting.batch_size, float(np.sqrt(3 / width))
    shape = -(-self.setting.records // size) * size, width
    rows = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    state = {"rows": rows}
    if self.loss == "nce":
      state["log_z"] = jnp.zeros((), jnp.float32)
    return state

  def draws(self, rng: jax.Array, size: int) -> jax.Array | None:
    """Returns int32 [B, K] from the step's key, by position in the batch."""
    if self.negatives is None:
      return None
    # Keys of examples fold in small numbers.
    rng = jax.random.fold_in(rng, 2**31 - 1)
    shape, records = (self.negatives,), self.setting.records

    def one(key: jax.Array) -> jax.Array:
      return jax.random.randint(key, shape, 0, records)

    return jax.vmap(one)(_base.example_keys(rng, size, self.setting.mesh))

  def compared(
    self, z: jax.Array, record: jax.Array, state: State, draws: Any
  ) -> tuple[jax.Array, State]:
    """Returns the loss of unit vectors against the bank, and its new state.

    Args:
      z: [B, d]. Only they have a gradient.
      record: int32 [B], their rows.
      state: of the bank.
      draws: from `draws`.
    """
    if draws is None:
      return self._against_all(z, record, state["rows"]), state
    draws = jnp.concatenate([record[:, None], draws], axis=1)

    rows = PartitionSpec(sharding.BATCH)
    logits = self.scale * jax.shard_map(
      functools.partial(drawn.products, axis=sharding.BATCH),
      mesh=self.setting.mesh, in_specs=(rows, rows, rows), out_specs=rows,
    )(z, state["rows"], draws)  # fmt: skip
    if self.loss == "softmax":
      lse = jax.nn.logsumexp(logits, axis=1)
      return (lse - logits[:, 0]).mean(), state
    records, log_z = self.setting.records, state["log_z"]
    first = nce.log_z(jax.lax.stop_gradient(logits), records)
    log_z = jnp.where(log_z == 0, first, log_z)
    return nce.loss(logits, log_z, records), state | {"log_z": log_z}

  def _against_all(self, z, record, rows):
    own = jax.lax.stop_gradient(rows[record])
    ids = jnp.arange(len(rows), dtype=jnp.int32)
    ids = jnp.where(ids < self.setting.records, ids, -1)

    def local(z, own, record, rows, ids, axis):
      scale = jnp.float32(self.scale)
      return queue.loss(
        z, own, rows, scale=scale, ids=record, queue_ids=ids,
        axis=axis, tile=self.tile,
      )  # fmt: skip

    return _base.on_ring(local, self.setting.mesh)(z, own, record, rows, ids)

  def updated(self, z: jax.Array, record: jax.Array, state: State) -> State:
    """Returns the state with the rows of a batch moved towards its vectors.

    unit(momentum row + (1 - momentum) z). Of a record that comes twice, the
    last one counts.
    """
    rows, z = state["rows"], jax.lax.stop_gradient(z)
    new = unit(self.momentum * rows[record] + (1 - self.momentum) * z)
    at = jnp.where(_last(record), record, len(rows))
    return state | {"rows": rows.at[at].set(new, mode="drop")}

  @property
  def chance(self) -> float:
    """The loss of logits that say nothing."""
    records, draws = self.setting.records, self.negatives
    if self.loss == "nce":
      return nce.chance(records, draws)
    return float(np.log(records if draws is None else draws + 1))


def _last(record: jax.Array) -> jax.Array:
  """Returns bool [B]: whether no later place has the same number."""
  order = jnp.argsort(record, stable=True)
  ordered = record[order]
  ends = jnp.append(ordered[1:] != ordered[:-1], True)
  return jnp.zeros_like(ends).at[order].set(ends)


def build(
  setting: Setting,
  *,
  temperature: float,
  momentum: float,
  loss: Loss,
  negatives: int | None,
  tile: int | None,
) -> Bank:
  """Returns the bank of an objective's fields, checked; see `Bank`."""
  if not 0 <= momentum < 1:
    allowed = "a number from 0 to below 1"
    raise errors.UserError("momentum", momentum, allowed, "0.5 is usual.")
  if negatives is not None and negatives < 1:
    allowed = "a whole number from 1 up, or None for all other rows"
    raise errors.UserError("negatives", negatives, allowed, "4096 is usual.")
  if loss == "nce" and negatives is None:
    allowed = 'a whole number with loss = "nce"'
    raise errors.UserError("negatives", None, allowed, "4096 is usual.")
  if not 0 < (setting.records or 0) < 2**31 - setting.batch_size:
    allowed = "from 1 to 2**31: the bank has a row for each"
    remedy = "Choose an objective without a bank."
    thing = "the records of config.source"
    raise errors.UserError(thing, setting.records, allowed, remedy)
  return Bank(
    setting,
    scale=_views.check_temperature(temperature),
    momentum=momentum,
    loss=loss,
    negatives=negatives,
    tile=_base.check_tile(tile),
  )
