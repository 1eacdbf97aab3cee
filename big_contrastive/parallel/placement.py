"""Where parameters, and what belongs to them, lie on the mesh."""

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
)
from big_contrastive.parallel.sharding import replicated

# The rules when none are given; without fsdp devices they replicate.
EVERYTHING = ((".*", "fsdp"),)


def params(shard: Rules, abstract: dict[str, Any], mesh: Mesh) -> Any:
  """Returns a NamedSharding for each parameter, by `config.shard` rules.

  Args:
    shard: (pattern, placement): "replicate"; "fsdp": the largest axis that
      divides is split over fsdp; or a list with one entry an axis, each None
      or a mesh axis: [None, None, "tensor", None].
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
  if not fits or any(a is not None and a not in mesh.shape for a in placement):
    allowed = f'"replicate", "fsdp" or {len(shape)} of None and mesh axes'
    remedy = f"The parameter {name} has the shape {shape}."
    raise errors.UserError("config.shard", placement, allowed, remedy)
  for axis, length in zip(placement, shape, strict=True):
    if axis is not None and length % mesh.shape[axis]:
      allowed = f"an axis that divides {length}"
      remedy = f"Of {name} {shape}; {axis} has {mesh.shape[axis]} devices."
      raise errors.UserError("config.shard", placement, allowed, remedy)
  return PartitionSpec(*placement)


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

  A leaf that is kept under a parameter's name takes the parameter's sharding
  where that fits its rank; everything else is replicated.

  Args:
    shardings: by flat parameter name.
    abstract: pytree of shapes, such as jax.eval_shape(tx.init, params).
    mesh: from `make_mesh`.
  """

  def place(path: tuple, leaf: Any) -> NamedSharding:
    names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    found = shardings.get(names[-1]) if names else None
    if found is None or len(found.spec) > leaf.ndim:
      return replicated(mesh)
    sizes = zip(found.spec, leaf.shape, strict=False)
    fits = all(a is None or size % mesh.shape[a] == 0 for a, size in sizes)
    return found if fits else replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, abstract)


def extra(
  rules: Rules, shardings: dict[str, Any], abstract: dict[str, Any], mesh: Mesh
) -> Any:
  """Returns a NamedSharding for each leaf that a method carries.

  Args:
    rules: (pattern, placement) over flat names, the first that matches: "like"
      for that of the parameter whose name the leaf's name ends with, if there
      is one of as many axes; else as in `params`.
    shardings: of the parameters, by flat name.
    abstract: nested dict of shapes.
    mesh: from `make_mesh`.
  """

  def place(path: tuple, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    chosen = next((p for rule, p in rules if re.fullmatch(rule, name)), None)
    if chosen != "like":
      spec = _spec(chosen or "replicate", leaf.shape, mesh, name)
      return NamedSharding(mesh, spec)
    pieces = name.split("/")
    ends = ("/".join(pieces[i:]) for i in range(len(pieces)))
    same = next((shardings[end] for end in ends if end in shardings), None)
    fits = same is not None and len(same.spec) <= leaf.ndim
    return same if fits else replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, abstract)
