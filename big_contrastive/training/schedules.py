"""Learning rates by step."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from big_contrastive.config import errors

Schedule = Callable[[Any], jax.Array]


def schedule(
  peak: float,
  total: int,
  *,
  decay: Literal["cosine", "rsqrt", "linear", "constant"],
  warmup: int,
  cooldown: int = 0,
  timescale: int = 10_000,
  end: float = 0.0,
) -> Schedule:
  """Returns step -> learning rate.

  Linear warm-up to `peak`, which step `warmup - 1` reaches (the first step's
  rate is peak / warmup, not 0), then the decay, then a linear cool-down to 0
  over the last steps.

  Args:
    peak: the highest learning rate.
    total: steps of the run.
    decay: "cosine" or "linear" to `end` at `total`; "rsqrt": 1/sqrt of the
      steps since warm-up over `timescale`; "constant".
    warmup, cooldown, timescale: in steps.
    end: the last rate as a fraction of the peak.
  """
  if warmup + cooldown > total:
    raise errors.UserError(
      "config.schedule.warmup",
      warmup,
      f"warm-up and cool-down ({cooldown}) within the run of {total} steps",
      "Shorten them or lengthen config.total.",
    )

  if not 0 <= end <= 1:
    allowed = "a number from 0 to 1"
    remedy = "It is a fraction of the highest rate."
    raise errors.UserError("config.schedule.end", end, allowed, remedy)

  def rate(step: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    done = jnp.clip((step - warmup) / max(1, total - warmup), 0, 1)
    if decay == "cosine":
      factor = end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    elif decay == "linear":
      factor = end + (1 - end) * (1 - done)
    elif decay == "rsqrt":
      since = jnp.maximum(step - warmup, 0)
      factor = jnp.sqrt(timescale / (timescale + since))
    else:
      factor = jnp.ones(())
    if warmup:
      factor *= jnp.minimum(1, (step + 1) / warmup)
    if cooldown:
      factor *= jnp.clip((total - step) / cooldown, 0, 1)
    return peak * factor

  return rate
