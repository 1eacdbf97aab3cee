"""State-dict mappings: another project's tensor names and axes, and ours.

A format is a list of rows, which both read and write it. A row applies to
models that have its parameters, so one list serves models with and without a
class token, a projection or a bias.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from big_contrastive.config import errors

Shapes = Mapping[str, tuple[int, ...]]


class Row(NamedTuple):
  """One of their tensors.

  Args:
    ours: flat names; several are concatenated in theirs.
    theirs: its name; "{i}" stands for the number of a block.
    kind: the layout of axes, see `KINDS`.
  """

  ours: tuple[str, ...]
  theirs: str
  kind: str = "copy"


class Kind(NamedTuple):
  """Both directions of a layout; `read` also gets our shape."""

  write: Callable[[np.ndarray], np.ndarray]
  read: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def _patch(x: np.ndarray) -> np.ndarray:
  side = round((x.shape[0] // 3) ** 0.5)
  return x.reshape(side, side, 3, x.shape[1])


def _reshape(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  return x.reshape(shape)


KINDS = {
  "copy": Kind(lambda x: x, _reshape),
  "leading": Kind(lambda x: x[None], _reshape),  # An axis of 1 in front.
  # A table of positions to its square grid.
  "square": Kind(
    lambda x: x.reshape(math.isqrt(len(x)), -1, x.shape[1]), _reshape
  ),
  "two_leading": Kind(lambda x: x[None, None], _reshape),
  "flat": Kind(lambda x: x.reshape(-1), _reshape),  # Biases of heads.
  # (in, heads, out) or (heads, in, out) to two axes.
  "heads_out": Kind(lambda x: x.reshape(x.shape[0], -1), _reshape),
  "heads_in": Kind(lambda x: x.reshape(-1, x.shape[-1]), _reshape),
  # (in, out) or (in, heads, out) to torch's (out, in).
  "linear": Kind(
    lambda x: x.reshape(x.shape[0], -1).T, lambda y, s: y.T.reshape(s)
  ),
  # (heads, in, out) to torch's (out, in).
  "merge": Kind(
    lambda x: x.reshape(-1, x.shape[-1]).T, lambda y, s: y.T.reshape(s)
  ),
  # (rows x columns x rgb, out) to a convolution, of JAX and of torch.
  "patch_jax": Kind(_patch, _reshape),
  "patch_torch": Kind(
    lambda x: _patch(x).transpose(3, 2, 0, 1),
    lambda y, s: y.transpose(2, 3, 1, 0).reshape(s),
  ),
  # (height, width, in, out) to torch's (out, in, height, width).
  "convolution": Kind(
    lambda x: x.transpose(3, 2, 0, 1), lambda y, s: y.transpose(2, 3, 1, 0)
  ),
}
# PyTorch's batch norms count their batches; none of their results needs it.
_COUNTER = "num_batches_tracked"


class _Slot(NamedTuple):
  """A row of one model: index is the block's, None outside of blocks."""

  ours: tuple[str, ...]
  index: int | None
  kind: str
  shape: tuple[int, ...]


def norm(ours: str, theirs: str) -> list[Row]:
  """Returns the rows of PyTorch's layer norm."""
  return [
    Row((f"{ours}/scale",), f"{theirs}.weight"),
    Row((f"{ours}/bias",), f"{theirs}.bias"),
  ]


def batch_norm(ours: str, theirs: str) -> list[Row]:
  """Returns the rows of PyTorch's batch norm, its running statistics too."""
  return [
    *norm(ours, theirs),
    Row((f"{ours}/mean",), f"{theirs}.running_mean"),
    Row((f"{ours}/var",), f"{theirs}.running_var"),
  ]


def without_counters(stored: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the tensors without the counters of PyTorch's batch norms."""
  return {k: v for k, v in stored.items() if not k.endswith(f".{_COUNTER}")}


def with_counters(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the tensors with a counter, 0, for each of their batch norms."""
  prefixes = [
    k.removesuffix("running_mean") for k in arrays if k.endswith("running_mean")
  ]
  return {
    **arrays,
    **{f"{k}{_COUNTER}": np.zeros((), np.int64) for k in prefixes},
  }


def linear(ours: str, theirs: str, kind: str = "linear") -> list[Row]:
  """Returns the rows of PyTorch's linear layer."""
  return [
    Row((f"{ours}/kernel",), f"{theirs}.weight", kind),
    Row((f"{ours}/bias",), f"{theirs}.bias"),
  ]


def heads(ours: str, parts: str, weight: str, bias: str) -> list[Row]:
  """Returns the rows of projections to heads; "query key" is two in one."""
  names = [f"{ours}/{part}" for part in parts.split()]
  return [
    Row(tuple(f"{name}/kernel" for name in names), weight, "linear"),
    Row(tuple(f"{name}/bias" for name in names), bias, "flat"),
  ]


def read(
  rows: Sequence[Row],
  stored: Mapping[str, np.ndarray],
  shapes: Shapes,
  source: str,
) -> dict[str, np.ndarray]:
  """Returns our parameters by flat name, float32.

  Args:
    rows: the format's table.
    stored: their tensors; all of them must have a row.
    shapes: of our parameters.
    source: the file, for the error.

  Raises:
    UserError: naming every tensor that is missing, unknown or has another
      shape.
  """
  slots = _slots(rows, shapes, source)
  _check_numbers(stored, source)
  stored_shapes = {name: tuple(x.shape) for name, x in stored.items()}
  compare(stored_shapes, {k: slot.shape for k, slot in slots.items()}, source)
  flat = {k: np.empty(shape, np.float32) for k, shape in shapes.items()}
  for theirs, slot in slots.items():
    parts = (
      np.split(np.asarray(stored[theirs]), len(slot.ours))
      if len(slot.ours) > 1
      else [stored[theirs]]
    )
    for name, part in zip(slot.ours, parts, strict=True):
      at = ... if slot.index is None else slot.index
      target = flat[name][at]
      flat[name][at] = KINDS[slot.kind].read(part, target.shape)
  return flat


def _check_numbers(stored: Mapping[str, np.ndarray], source: str) -> None:
  """Raises UserError for quantized tensors, which are not parameter values."""
  for name, x in stored.items():
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize == 1:
      allowed = "floating point of two bytes or more"
      remedy = "Is it quantized? Take the original."
      tensor = f"{name}, {x.dtype}"
      raise errors.UserError(f"tensors of {source}", tensor, allowed, remedy)


def write(
  rows: Sequence[Row], flat: Mapping[str, np.ndarray], target: str
) -> dict[str, np.ndarray]:
  """Returns their tensors by name, from which `read` would return `flat`.

  Raises:
    UserError: for parameters that have no place in this format.
  """
  shapes = {k: tuple(x.shape) for k, x in flat.items()}
  slots = _slots(rows, shapes, target)
  return {k: _write(slot, flat) for k, slot in slots.items()}


def names(rows: Sequence[Row], shapes: Shapes) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of their tensors by name, from those of ours."""
  return {k: s.shape for k, s in _slots(rows, shapes, "the format").items()}


def _slots(rows: Sequence[Row], shapes: Shapes, where: str) -> dict[str, _Slot]:
  slots, placed = {}, set()
  for row in rows:
    if not set(row.ours) <= shapes.keys():
      continue
    placed |= set(row.ours)
    each = "{i}" in row.theirs
    indices = range(shapes[row.ours[0]][0]) if each else [None]
    cut = {k: shapes[k][1:] if each else shapes[k] for k in row.ours}
    # One byte per element, which is never written.
    empty = {k: np.empty(shape, np.bool_) for k, shape in cut.items()}
    shape = _write(_Slot(row.ours, None, row.kind, ()), empty).shape
    for i in indices:
      theirs = row.theirs.replace("{i}", str(i))
      slots[theirs] = _Slot(row.ours, i, row.kind, shape)
  if homeless := sorted(shapes.keys() - placed):
    allowed = "parameters that this format has a place for"
    remedy = "Choose another format: the model is not one of that project's."
    raise errors.UserError(where, _listed(homeless), allowed, remedy)
  return slots


def _write(slot: _Slot, flat: Mapping[str, np.ndarray]) -> np.ndarray:
  at: Any = ... if slot.index is None else slot.index
  parts = [KINDS[slot.kind].write(flat[name][at]) for name in slot.ours]
  return (
    np.ascontiguousarray(np.concatenate(parts))
    if len(parts) > 1
    else (parts[0] if not parts[0].ndim else np.ascontiguousarray(parts[0]))
  )


def compare(stored: Shapes, expected: Shapes, source: str) -> None:
  """Raises a UserError that lists all tensors that are not as expected."""
  missing = [
    f"{k} {expected[k]}" for k in sorted(expected.keys() - stored.keys())
  ]
  unknown = [
    f"{k} {stored[k]}" for k in sorted(stored.keys() - expected.keys())
  ]
  misshapen = [
    f"{k} {stored[k]} for {expected[k]}"
    for k in sorted(stored.keys() & expected.keys())
    # A scalar is stored as () or as (1,), depending on the version.
    if stored[k] != expected[k] and {stored[k], expected[k]} != {(), (1,)}
  ]
  parts = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
  problems = [f"{name}: {_listed(x)}" for name, x in parts.items() if x]
  if problems:
    allowed = f"the {len(expected)} tensors that its config asks for"
    remedy = "Check that weights and config belong together."
    raise errors.UserError(
      f"tensors of {source}", "; ".join(problems), allowed, remedy
    )


def _listed(lines: Iterable[str]) -> str:
  """Joins the lines; those that differ only in a block's number are one."""
  groups: dict[str, list[str]] = {}
  for line in lines:
    groups.setdefault(re.sub(r"([._/])\d+([./])", r"\1*\2", line), []).append(
      line
    )
  return ", ".join(
    x[0] if len(x) == 1 else f"{k} ({len(x)} of these)"
    for k, x in groups.items()
  )
