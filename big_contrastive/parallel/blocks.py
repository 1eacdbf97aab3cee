"""Loops that each block of the mesh's data axis runs by itself.

XLA sums the gradients of a loop over micro-batches in each of its iterations.
A block that runs the loop alone has one sum to share, behind it.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

_AXIS = "data"


def run(f: Callable[[Any, Any], tuple[Any, Any, Any]], mesh: Mesh) -> Callable:
  """Returns f as a function of all blocks.

  The gradients of what is shared cross the data axis once. f itself has no
  shard_map: JAX 0.10 gives what it keeps of one inside another wrong shapes.

  Args:
    f: (shared, rows) -> (rows, sums, means), of one block, all of them trees:
      float arrays that are the same everywhere; arrays [count, b, ...]; what
      is summed over blocks, and what is averaged.
    mesh: from `make_mesh`. If it has one block, f stays as it is.
  """
  if mesh.shape[_AXIS] == 1:
    return f

  def block(shared: Any, rows: Any) -> tuple[Any, Any, Any]:
    # Gradients are summed where arrays are marked: here, before the loop.
    shared = jax.lax.pcast(shared, _AXIS, to="varying")
    rows, sums, means = f(shared, rows)
    return rows, jax.lax.psum(sums, _AXIS), jax.lax.pmean(means, _AXIS)

  rows, same = PartitionSpec(None, _AXIS), PartitionSpec()
  # custom_partitioning, and so cuDNN's attention, fails where all of the axes
  # that are left to XLA have one device.
  taken = {a for a, size in mesh.shape.items() if a == _AXIS or size == 1}
  return jax.shard_map(
    block, mesh=mesh, axis_names=taken, in_specs=(same, rows),
    out_specs=(rows, same, same),
  )  # fmt: skip


def inside() -> bool:
  """Returns whether this is traced for one block, by `run`."""
  return _AXIS in jax.sharding.get_abstract_mesh().manual_axes
