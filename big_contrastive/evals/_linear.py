"""Linear classifiers over vectors: standardization, and how right they are."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_contrastive.evals import Embed, _cosines, retrieval
from big_contrastive.parallel import sharding

_CHUNK = 1024  # Rows at a time: memory is chunk x classes x classifiers.


class Classifiers(NamedTuple):
  """Of s classifiers: weight [s, w, c] and bias [s, c]."""

  weight: np.ndarray
  bias: np.ndarray


class Scale(NamedTuple):
  """Maps x to (x - mean) / std, of each feature: float32 [w]."""

  mean: np.ndarray
  std: np.ndarray

  @classmethod
  def of(cls, mean: np.ndarray, std: np.ndarray) -> "Scale":
    return cls(mean.astype(np.float32), std.astype(np.float32))

  def __call__(self, x: np.ndarray) -> np.ndarray:
    return (x - self.mean) / self.std


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean and the variance of each feature, float64 [w]."""
  mean, square = x.mean(axis=0, dtype=np.float64), np.zeros(x.shape[1])
  for start in range(0, len(x), _CHUNK):  # No copy of x in float64.
    square += np.square(x[start : start + _CHUNK] - mean).sum(axis=0)
  return mean, square / len(x)


def ranks(
  x: np.ndarray,
  label: np.ndarray,
  classifiers: Classifiers,
  embed: Embed,
) -> np.ndarray:
  """Returns how many other classes score as high as a row's own, int [s, n].

  A tie counts against the classifier. A score that is not finite ranks ahead
  of all others; if it is the label's own, the rank is retrieval.NEVER.

  Args:
    x: float32 [n, w].
    label: int [n].
    classifiers: s of them.
    embed: its devices share the rows.
  """
  size, parts = min(_CHUNK, len(x)), []
  weight, bias = (_everywhere(a, embed.mesh) for a in classifiers)
  for start in range(0, len(x), size):
    embed.check()
    chunk = slice(start, start + size)
    rows, own = x[chunk], np.asarray(label[chunk], np.int32)
    missing = size - len(rows)
    rows = _cosines.spread(np.pad(rows, ((0, missing), (0, 0))), embed.mesh)
    own = _cosines.spread(np.pad(own, (0, missing)), embed.mesh)
    found = _ranks(rows, own, weight, bias, embed.mesh)
    ahead, finite = (a[:, : size - missing] for a in jax.device_get(found))
    # NEVER is larger than the devices' int32.
    parts.append(np.where(finite, ahead.astype(np.int64), retrieval.NEVER))
  return np.concatenate(parts, axis=1)


def _everywhere(x: np.ndarray, mesh: Mesh) -> jax.Array:
  x, where = x.astype(np.float32), sharding.replicated(mesh)
  return jax.make_array_from_callback(x.shape, where, lambda index: x[index])


@functools.partial(jax.jit, static_argnames="mesh")
def _ranks(
  x: jax.Array,
  label: jax.Array,
  weight: jax.Array,
  bias: jax.Array,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  with jax.default_matmul_precision("highest"):
    score = jnp.einsum("nw,swc->snc", x, weight) + bias[:, None]
  own = jnp.take_along_axis(score, label[None, :, None], axis=2)
  finite = jnp.isfinite(score)
  ahead = jnp.sum(~(finite & (score < own)), axis=2) - 1
  return jax.lax.with_sharding_constraint(
    (ahead, jnp.isfinite(own[..., 0])), sharding.replicated(mesh)
  )
