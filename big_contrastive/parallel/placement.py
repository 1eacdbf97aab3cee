"""Shardings of parameters, and of the state that belongs to them."""

import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_contrastive.config import errors
from big_contrastive.config.rules import (
  Rules,
  flatten,
  match,
  stacked,
  unflatten,
  whole,
)
from big_contrastive.parallel.sharding import replicated

# The default rules; without fsdp devices they replicate.
EVERYTHING = ((".*", "fsdp"),)


def params(shard: Rules, abstract: dict[str, Any], mesh: Mesh) -> Any:
  """Returns a NamedSharding for each parameter, by `config.shard` rules.

  Args:
    shard: (pattern, placement) rules. A placement is "replicate"; "fsdp",
      which splits the largest axis that divides over fsdp; or a list with one
      entry per axis, None, a mesh axis or a tuple of them: [None, "tensor"].
    abstract: nested dict of shapes.
    mesh: from `make_mesh`.
  """
  where = "config.shard"
  flat = flatten(abstract)
  placements = match(shard, flat, where)
  specs = {
    name: NamedSharding(mesh, _spec(placements[name], leaf.shape, mesh, name))
    for name, leaf in flat.items()
  }
  return unflatten(specs)


def _spec(
  placement: Any, shape: tuple[int, ...], mesh: Mesh, name: str
) -> PartitionSpec:
  if placement == "replicate":
    return PartitionSpec()
  if placement == "fsdp":
    return _fsdp(shape, mesh, int(stacked(name)))
  fits = isinstance(placement, list | tuple) and len(placement) == len(shape)
  axes = [_axes(a) for a in placement] if fits else []
  if not fits or any(a not in mesh.shape for of in axes for a in of):
    entries = f"{len(shape)} entries, each None or a mesh axis"
    allowed = f'"replicate", "fsdp" or {entries}'
    remedy = f"The parameter {name} has the shape {shape}."
    raise errors.UserError("config.shard", placement, allowed, remedy)
  for axis, length in zip(placement, shape, strict=True):
    devices = math.prod(mesh.shape[a] for a in _axes(axis))
    if length % devices:
      allowed = f"a mesh axis whose number of devices divides {length}"
      remedy = f"{axis} has {devices}; {name} has the shape {shape}."
      raise errors.UserError("config.shard", placement, allowed, remedy)
  return PartitionSpec(*placement)


def _axes(entry: Any) -> tuple[str, ...]:
  """Returns the mesh axes of one entry of a placement."""
  return entry if isinstance(entry, tuple) else (entry,) if entry else ()


def _fsdp(shape: tuple[int, ...], mesh: Mesh, first: int) -> PartitionSpec:
  # Not over the layer axis: the scan takes one layer of it at a time.
  n = mesh.shape["fsdp"]
  free = [i for i in range(first, len(shape)) if shape[i] % n == 0]
  if n == 1 or not free:
    return PartitionSpec()
  largest = max(free, key=lambda i: shape[i])
  return PartitionSpec(*(None,) * largest, "fsdp")


def like(shardings: dict[str, Any], abstract: Any, mesh: Mesh) -> Any:
  """Returns shardings for an optimizer state over a flat dict of parameters.

  A leaf stored under the name of a parameter, or of layers of it, takes that
  parameter's sharding where its rank and its sizes allow; everything else is
  replicated.

  Args:
    shardings: by flat parameter name.
    abstract: pytree of shapes, such as jax.eval_shape(tx.init, params).
    mesh: from `make_mesh`.
  """

  def place(path: tuple, leaf: Any) -> NamedSharding:
    names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    sharding = shardings.get(whole(names[-1])[0]) if names else None
    if sharding is None or len(sharding.spec) > leaf.ndim:
      return replicated(mesh)
    sizes = zip(sharding.spec, leaf.shape, strict=False)
    fits = all(a is None or size % mesh.shape[a] == 0 for a, size in sizes)
    return sharding if fits else replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, abstract)


def extra(
  rules: Rules, shardings: dict[str, Any], abstract: dict[str, Any], mesh: Mesh
) -> Any:
  """Returns a NamedSharding for each leaf of an objective's `extra`.

  Args:
    rules: (pattern, placement) over flat names; the first match counts. "like"
      copies the parameter whose name the leaf's name ends with, if there is
      one with as many axes; other placements are those of `params`.
    shardings: of the parameters, by flat name.
    abstract: nested dict of shapes.
    mesh: from `make_mesh`.
  """

  def place(path: tuple, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    placement = next((p for rule, p in rules if re.fullmatch(rule, name)), None)
    if placement != "like":
      spec = _spec(placement or "replicate", leaf.shape, mesh, name)
      return NamedSharding(mesh, spec)
    keys = name.split("/")
    ends = ("/".join(keys[i:]) for i in range(len(keys)))
    sharding = next((shardings[end] for end in ends if end in shardings), None)
    fits = sharding is not None and len(sharding.spec) <= leaf.ndim
    return sharding if fits else replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, abstract)
