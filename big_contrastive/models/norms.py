"""Batch normalization (arXiv:1502.03167), the same on any number of devices."""

from collections.abc import Callable
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Statistic(nnx.Variable):
  """A running statistic: no parameter, kept in the state's `extra`."""


class BatchNorm(nnx.Module):
  """Normalizes each feature over a batch and, in training, its running mean.

  In training it normalizes by the mean and variance of the global batch, or of
  groups of neighbors in it; those of a group depend on the positions in the
  batch alone, not on devices. It replaces its running statistics by
  `decay * old + (1 - decay) * new`, the variance unbiased and both averaged
  over groups, as PyTorch does (whose momentum is 1 - decay). In evaluation it
  normalizes by the running statistics. All of that is in float32.

  Args:
    width: number of features.
    group: examples that share statistics; None for all of the batch.
    scale, bias: whether it has them; they begin with 1 and 0.
    zero: whether the scale begins with 0, for the last norm of a residual
      branch.
    running: whether it keeps running statistics; without them it normalizes by
      the batch in evaluation, too.
    decay: of the running statistics.
    eps: added to the variance.
    dtype: of the result.
  """

  def __init__(
    self,
    width: int,
    *,
    group: int | None = None,
    scale: bool = True,
    bias: bool = True,
    zero: bool = False,
    running: bool = True,
    decay: float = 0.9,
    eps: float = 1e-5,
    dtype: Any = jnp.float32,
  ):
    first = jnp.zeros if zero else jnp.ones
    self.scale = nnx.Param(first(width)) if scale else None
    self.bias = nnx.Param(jnp.zeros(width)) if bias else None
    self.mean = Statistic(jnp.zeros(width)) if running else None
    self.var = Statistic(jnp.ones(width)) if running else None
    self.group, self.decay, self.eps, self.dtype = group, decay, eps, dtype

  def __call__(
    self, x: Float[Array, "b *n w"], train: bool
  ) -> Float[Array, "b *n w"]:
    """Returns the normalized batch; training replaces the statistics."""
    x = x.astype(jnp.float32)
    if train or self.mean is None:
      mean, var, of_example = self._statistics(x)
      if self.mean is not None:
        self._update(mean, var, x.size // x.shape[-1] // len(mean))
      mean, var = of_example(mean), of_example(var)
    else:
      mean, var = self.mean[...][None], self.var[...][None]
    gain = jax.lax.rsqrt(var + self.eps)
    if self.scale is not None:
      gain *= self.scale[...][None]
    y = (x - _like(mean, x)) * _like(gain, x)
    if self.bias is not None:
      y += _like(self.bias[...][None], x)
    return y.astype(self.dtype)

  def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, Callable]:
    """Returns means and variances [groups, w], and a function of them.

    That function gives each example those of its group: [b or 1, w].
    """
    axes = tuple(range(1, x.ndim - 1))
    size = x.shape[0] if self.group is None else self.group
    count, rest = divmod(x.shape[0], size)
    if rest or not count:
      text = f"{x.shape[0]} examples; expected a multiple of group = {size}."
      raise ValueError(text)
    if count == 1:
      mean = x.mean((0, *axes))[None]
      var = jnp.square(x - _like(mean, x)).mean((0, *axes))
      return mean, var[None], lambda v: v
    # Products with a membership matrix, where a reshape of the batch into
    # groups would move examples between devices.
    member = jnp.repeat(jnp.eye(count), size, axis=0)
    exact = jax.lax.Precision.HIGHEST

    def of_group(v: jax.Array) -> jax.Array:
      return jnp.matmul(member.T, v.mean(axes), precision=exact) / size

    def of_example(v: jax.Array) -> jax.Array:
      return jnp.matmul(member, v, precision=exact)

    mean = of_group(x)
    var = of_group(jnp.square(x - _like(of_example(mean), x)))
    return mean, var, of_example

  def _update(self, mean: jax.Array, var: jax.Array, count: int) -> None:
    mean, var = jax.lax.stop_gradient((mean.mean(0), var.mean(0)))
    unbiased = var * (count / max(1, count - 1))
    self.mean[...] = self.decay * self.mean[...] + (1 - self.decay) * mean
    self.var[...] = self.decay * self.var[...] + (1 - self.decay) * unbiased


def _like(v: jax.Array, x: jax.Array) -> jax.Array:
  """Returns [b or 1, w] as [b or 1, 1, ..., w], with as many axes as x."""
  return jnp.expand_dims(v, tuple(range(1, x.ndim - 1)))


def groups(module: nnx.Module) -> set[int | None]:
  """Returns the groups that the batch norms of a module normalize over.

  Empty for a module without any; None stands for the global batch.
  """
  return {
    m.group for _, m in nnx.iter_graph(module) if isinstance(m, BatchNorm)
  }
