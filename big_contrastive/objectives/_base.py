"""What objectives share: example keys, micro-batches, a loss over the mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from big_contrastive.config import errors
from big_contrastive.models.build import Built
from big_contrastive.parallel import sharding


def require(model: Built, *parts: str) -> None:
  """Raises UserError for a part that is required and the model lacks."""
  fields = {"img": "image", "txt": "text", "t": "scale", "b": "bias"}
  for part in parts:
    if part not in model.parts:
      field = fields.get(part, f"heads.{part}")
      remedy = "Set it, or choose another objective."
      raise errors.UserError(
        f"config.model.{field}", None, "a part that the objective needs", remedy
      )


def example_keys(rng: jax.Array, size: int, mesh: Mesh) -> jax.Array:
  """Returns one key per example of the global batch, [size].

  A key depends on the position in the batch, so that an example draws the same
  numbers on any number of devices and in any micro-batch.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(size))
  return jax.lax.with_sharding_constraint(keys, sharding.batch(mesh))


def in_micro_batches(
  embed: Callable[..., jax.Array], count: int, mesh: Mesh
) -> Callable[..., jax.Array]:
  """Returns `embed` over one micro-batch after the other.

  It keeps all embeddings, but the activations of one micro-batch only: the
  backward pass recomputes them. Embeddings and gradients are the same. The
  inputs are [B, ...], B a multiple of count times sharding.ring_size.
  """
  if count == 1:
    return embed

  def one(inputs: tuple[jax.Array, ...]) -> jax.Array:
    return embed(*inputs)

  def every(*inputs: jax.Array) -> jax.Array:
    batches = sharding.split_batch(inputs, count, mesh)
    # Inside a loop XLA can't undo the recomputation (by CSE).
    embeddings = jax.lax.map(jax.checkpoint(one, prevent_cse=False), batches)
    return sharding.join_batch(embeddings, mesh)

  return every


def over_mesh(loss: Callable[..., jax.Array], mesh: Mesh) -> Callable:
  """Returns (zimg, ztxt, scale, bias, ids) -> the loss of the global batch."""
  axis = sharding.BATCH

  def local(zimg, ztxt, scale, bias, ids):
    value = loss(zimg, ztxt, scale=scale, bias=bias, ids=ids, axis=axis)
    if value is None or jnp.shape(value) != ():
      shape = "None" if value is None else f"of shape {jnp.shape(value)}"
      remedy = "Return the mean over the pairs of all devices."
      raise errors.UserError("the loss", shape, "a scalar", remedy)
    return value

  rows, replicated = PartitionSpec(axis), PartitionSpec()
  specs = (rows, rows, replicated, replicated, rows)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=replicated)
