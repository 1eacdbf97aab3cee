"""The device mesh, and how a batch is split over it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from big_contrastive.config import errors, schema

# The axes over which the batch is split; "tensor" splits features.
BATCH = ("data", "fsdp")


def make_mesh(
  *,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Returns the mesh data x fsdp x tensor over all devices.

  Of several TPU slices each is a block of the data axis. So fsdp and tensor
  stay inside a slice, and the ring of the losses leaves each slice once.

  Args:
    fsdp: devices over which one copy of the weights is split.
    tensor: devices over which features are split.
    devices: all of them if None.

  Raises:
    UserError: unless fsdp x tensor divides the devices of a slice.
  """
  blocks = slices(jax.devices() if devices is None else devices)
  count = len(blocks[0])
  for name, size in (("fsdp", fsdp), ("tensor", tensor)):
    if size < 1 or count % (fsdp * max(1, tensor)):
      of = f", of each of {len(blocks)} slices" * (len(blocks) > 1)
      allowed = f"a divisor of the {count} devices{of}"
      remedy = "fsdp x tensor must divide them."
      raise errors.UserError(f"config.mesh.{name}", size, allowed, remedy)
  shape = (count // (fsdp * tensor), fsdp, tensor)
  axes = (*BATCH, "tensor")
  types = (AxisType.Auto,) * 3
  meshes = [
    jax.make_mesh(shape, axes, axis_types=types, devices=block)
    for block in blocks
  ]
  if len(meshes) == 1:
    return meshes[0]
  joined = np.concatenate([mesh.devices for mesh in meshes])
  return Mesh(joined, axes, axis_types=types)


def slices(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
  """Returns the devices of each TPU slice; all others are one slice.

  Chips of a slice are joined by their own links, slices by the data center's
  network (DCN).

  Raises:
    UserError: if slices differ in size.
  """
  found: dict[int, list[jax.Device]] = {}
  for device in devices:
    # GPUs have an index, too, that of their host. jax.devices() lists them by
    # host, and weights may well be split over hosts.
    tpu = device.platform == "tpu"
    index = getattr(device, "slice_index", 0) if tpu else 0
    found.setdefault(index, []).append(device)
  blocks = [found[index] for index in sorted(found)]
  sizes = [len(block) for block in blocks]
  if len(set(sizes)) > 1:
    remedy = "Take slices of one type."
    raise errors.UserError(
      "devices of the slices", sizes, "as many in each", remedy
    )
  return blocks


def ring_size(mesh: Mesh) -> int:
  """Returns the number of devices that the batch is split over."""
  return math.prod(mesh.shape[a] for a in BATCH)


def batch(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose leading axis is the batch."""
  return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())


def pin(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
  """Returns a function that splits an activation over the batch axes.

  In a block (blocks.run) over those that are left.
  """

  def split(x: jax.Array) -> jax.Array:
    here = jax.sharding.get_abstract_mesh()
    axes = tuple(a for a in BATCH if a not in here.manual_axes)
    if not axes:
      return x
    within = here if here.manual_axes else mesh
    where = NamedSharding(within, PartitionSpec(axes))
    return jax.lax.with_sharding_constraint(x, where)

  return split


def check_batch(size: int, mesh: Mesh, where: str) -> None:
  """Raises UserError unless a batch of that size divides over the mesh."""
  n = ring_size(mesh)
  if size < 1 or size % n:
    near = max(1, round(size / n)) * n
    raise errors.UserError(
      where, size, f"a multiple of the {n} devices", f"The nearest is {near}."
    )


def micro_batches(
  micro_batch: int | dict | None, batch_size: int, mesh: Mesh
) -> tuple[int, int]:
  """Returns the number of micro-batches of the image and of the text tower.

  Args:
    micro_batch: config.micro_batch: pairs in each, None for the full batch; or
      a dict with "image" and "text".
    batch_size: of the global batch.
    mesh: from `make_mesh`.
  """
  where = "config.micro_batch"
  if not isinstance(micro_batch, dict):
    micro_batch = {"image": micro_batch, "text": micro_batch}
  image, text = schema.call(_both, micro_batch, where)
  n = ring_size(mesh)
  for size in (image, text):
    if size is not None and (size < 1 or batch_size % size or size % n):
      allowed = f"a divisor of batch_size = {batch_size} and a multiple of {n}"
      remedy = f"{n} devices share each one. None is for no micro-batches."
      raise errors.UserError(where, size, allowed, remedy)
  return batch_size // (image or batch_size), batch_size // (text or batch_size)


def _both(
  *, image: int | None = None, text: int | None = None
) -> tuple[int | None, int | None]:
  return image, text


def local_rows(size: int, mesh: Mesh) -> np.ndarray:
  """Returns which rows of a global batch this process's devices hold."""
  indices = batch(mesh).addressable_devices_indices_map((size,)).values()
  rows = {r for (index,) in indices for r in range(*index.indices(size))}
  return np.array(sorted(rows))


def to_global(local: Any, size: int, mesh: Mesh) -> Any:
  """Returns global arrays on the mesh from this process's rows.

  Args:
    local: pytree of arrays [rows, ...], the rows of `local_rows(size, mesh)`.
    size: rows of the global batch.
    mesh: from `make_mesh`.
  """
  sharding = batch(mesh)

  def place(x: np.ndarray) -> jax.Array:
    shape = (size, *x.shape[1:])
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return jax.tree.map(place, local)


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Returns the sum of each process's counts; all processes must call it."""
  if jax.process_count() == 1:
    return counts
  return multihost_utils.process_allgather(counts).sum(0)


def split_batch(batch_: Any, count: int, mesh: Mesh) -> Any:
  """Returns arrays [B, ...] as [count, B / count, ...], without moving data.

  Each device splits its own rows, so each micro-batch lies on all devices; its
  rows are not neighbors in the batch.
  """

  def cut(x: jax.Array) -> jax.Array:
    return x.reshape(count, x.shape[0] // count, *x.shape[1:])

  specs = PartitionSpec(BATCH), PartitionSpec(None, BATCH)
  return _locally(cut, mesh, *specs)(batch_)


def join_batch(batches: Any, mesh: Mesh) -> Any:
  """Returns arrays [count, B / count, ...] as [B, ...]: undoes split_batch."""

  def join(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])

  specs = PartitionSpec(None, BATCH), PartitionSpec(BATCH)
  return _locally(join, mesh, *specs)(batches)


def _locally(
  f: Callable, mesh: Mesh, in_spec: PartitionSpec, out_spec: PartitionSpec
) -> Callable[[Any], Any]:
  def on_tree(arrays: Any) -> Any:
    return jax.tree.map(f, arrays)

  return jax.shard_map(on_tree, mesh=mesh, in_specs=in_spec, out_specs=out_spec)
