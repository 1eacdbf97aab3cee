"""Every tile of a matrix of logits, each on one device, none kept.

A device keeps its rows, b = B/n of them. The columns, in n chunks, go round the
ring of devices; at each hop a device walks over the tiles of its block. Sums
over columns stay with the rows, sums over rows travel with the chunk and come
home.
Memory is O(b d), time is that of the B x b products. The only ppermute.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Axis = str | tuple[str, ...] | None

# The most rows of a tile, by backend. Larger tiles mean larger products and
# fewer memory accesses; beyond these sizes they make no difference.
TILE = {"cpu": 4096, "gpu": 4096, "tpu": 2048}


def size(axis: Axis) -> int:
  """Returns the number of devices on the ring, 1 when axis is None."""
  return 1 if axis is None else jax.lax.axis_size(axis)


def index(axis: Axis) -> jax.Array | int:
  """Returns this device's place on the ring."""
  return 0 if axis is None else jax.lax.axis_index(axis)


def side(b: int, d: int, live: int, backend: str | None = None) -> int:
  """Returns the rows of a tile that takes the memory of embeddings [b, d].

  Args:
    b, d: pairs on this device, their width.
    live: arrays of a tile's size in memory at a time.
    backend: to compile for; None for that of the mesh in use, or JAX's default
      if there is no mesh.
  """
  limit = TILE.get(backend or _backend(), 1024)
  return min(limit, max(1, math.isqrt(b * d // live)))


def _backend() -> str:
  # A pod's step may be compiled on a machine without TPUs.
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def mean(value: jax.Array, axis: Axis) -> jax.Array:
  """Returns the mean of a scalar over the devices."""
  return value if axis is None else jax.lax.pmean(value, axis)


def varying(tree: Any, axis: Axis) -> Any:
  """Returns the arrays, marked as different on each device.

  An array that was the same on every device gets its gradient summed over the
  devices.
  """
  if axis is None:
    return tree
  axes = (axis,) if isinstance(axis, str) else axis

  def mark(x: jax.Array) -> jax.Array:
    marked = jax.typeof(x).manual_axis_type.varying
    missing = tuple(a for a in axes if a not in marked)
    return jax.lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(mark, tree)


def sweep(
  tile: Callable[[jax.Array, Any, Any, Any, Any], tuple[Any, Any]],
  ids: jax.Array,
  rows: Any,
  columns: Any,
  row_sums: Any,
  column_sums: Any,
  *,
  merge: Callable[[Any, Any], Any],
  axis: Axis,
  side: int,
  column_ids: jax.Array | None = None,
) -> tuple[Any, Any]:
  """Shows each tile of the global matrix of pairs to `tile`, once.

  The matrix need not be square: a device has b rows and k columns.

  Args:
    tile: (negative, rows, columns, row_sums, column_sums) -> (row_sums,
      column_sums), all of them slices of c rows and of c columns; negative is
      bool [c, c]: an entry that is False must not count. A row may come a
      second time, with negative False.
    ids: int32 [b], of this device's rows. Rows and columns with equal ids are
      not negatives.
    rows: arrays [b, ...] that stay.
    columns: arrays [k, ...] that visit every device.
    row_sums: arrays [b, ...] that start at these values, and stay.
    column_sums: arrays [..., k] that travel. They start at these values, the
      identity of `merge`.
    merge: (column_sums, column_sums) -> column_sums, from different devices.
    axis: mesh axis name(s) inside shard_map; None for one device.
    side: largest number of rows, and of columns, of a tile.
    column_ids: int32 [k], of this device's columns; None for those of its rows.

  Returns:
    row_sums and column_sums over all columns and rows.
  """
  column_ids = ids if column_ids is None else column_ids

  def block(row_sums: Any, visitor: Any) -> tuple[Any, Any]:
    return _tiles(tile, (ids, rows), visitor, row_sums, column_sums, side)

  row_sums, column_sums = varying((row_sums, column_sums), axis)
  n = size(axis)
  if n == 1:
    return block(row_sums, (column_ids, columns))

  def hop(state: Any, _: None) -> tuple[Any, None]:
    row_sums, visitor, waiting = state
    # Both transfers overlap with the block: the chunk goes to the next device,
    # and the previous device's sums for the chunk that is here arrive.
    following, arriving = _send(visitor, axis), _send(waiting, axis)
    row_sums, added = block(row_sums, visitor)
    return (row_sums, following, merge(arriving, added)), None

  state = (row_sums, (column_ids, columns), column_sums)
  (row_sums, _, waiting), _ = jax.lax.scan(hop, state, length=n)
  return row_sums, _send(waiting, axis)


def visit(look: Callable[[Any], Any], visitor: Any, axis: Axis) -> Any:
  """Returns a visitor that has been on every device, and is home again.

  Args:
    look: visitor -> the visitor with what a device adds to it.
    visitor: arrays that are sent round, marked as `varying`.
    axis: mesh axis name(s) inside shard_map; None for one device.
  """
  if size(axis) == 1:
    return look(visitor)

  def hop(visitor: Any, _: None) -> tuple[Any, None]:
    return _send(look(visitor), axis), None

  return jax.lax.scan(hop, visitor, length=size(axis))[0]


def _send(tree: Any, axis: Axis) -> Any:
  """Sends arrays to the next device."""
  n = size(axis)
  to_next = [(i, (i + 1) % n) for i in range(n)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, to_next), tree)


def _tiles(
  tile: Callable[..., tuple[Any, Any]],
  rows: Any,
  columns: Any,
  row_sums: Any,
  column_sums: Any,
  side: int,
) -> tuple[Any, Any]:
  """Walks over the tiles of one block, all of the same size."""
  down = _spread(rows[0].shape[0], side)
  across = _spread(columns[0].shape[0], side)
  if len(down.places) == len(across.places) == 1:
    negative = rows[0][:, None] != columns[0][None, :]
    return tile(negative, rows[1], columns[1], row_sums, column_sums)

  def cut(tree: Any, start: jax.Array, size: int, dim: int = 0) -> Any:
    def slice_(x: jax.Array) -> jax.Array:
      return jax.lax.dynamic_slice_in_dim(x, start, size, dim % x.ndim)

    return jax.tree.map(slice_, tree)

  def paste(tree: Any, part: Any, start: jax.Array, dim: int = 0) -> Any:
    def put(x: jax.Array, y: jax.Array) -> jax.Array:
      return jax.lax.dynamic_update_slice_in_dim(x, y, start, dim % x.ndim)

    return jax.tree.map(put, tree, part)

  def row_of_tiles(sums: Any, place: jax.Array) -> tuple[Any, None]:
    row_sums, column_sums = sums
    i, new_i = place
    row_ids, row = cut(rows, i, down.size)

    def one(sums: Any, place: jax.Array) -> tuple[Any, None]:
      row_sum, column_sums = sums
      j, new_j = place
      column_ids, column = cut(columns, j, across.size)
      negative = row_ids[:, None] != column_ids[None, :]
      if down.overlaps or across.overlaps:
        at_i, at_j = jnp.arange(down.size), jnp.arange(across.size)
        negative &= (i + at_i >= new_i)[:, None] & (j + at_j >= new_j)[None, :]
      row_sum, column_sum = tile(
        negative, row, column, row_sum, cut(column_sums, j, across.size, -1)
      )
      return (row_sum, paste(column_sums, column_sum, j, -1)), None

    inside = (cut(row_sums, i, down.size), column_sums)
    (row_sum, column_sums), _ = jax.lax.scan(one, inside, across.places)
    return (paste(row_sums, row_sum, i), column_sums), None

  return jax.lax.scan(row_of_tiles, (row_sums, column_sums), down.places)[0]


class _Tiles(NamedTuple):
  """How one side of a block is cut into tiles.

  size: rows of each. places: int32 [tiles, 2], where each begins, and which of
  its rows is the first that no tile before it has.
  """

  size: int
  places: np.ndarray
  overlaps: bool


def _spread(b: int, side: int) -> _Tiles:
  """Returns tiles of at most `side` of b rows."""
  count = math.ceil(b / side)
  c = math.ceil(b / count)
  # The last tile begins early instead of reaching beyond the block, and its
  # overlap with the tile before is masked. So nothing is padded.
  new = np.arange(count, dtype=np.int32) * c
  places = np.stack([np.minimum(new, b - c), new], axis=1)
  return _Tiles(c, places, count * c != b)
