"""Weights to begin with: from checkpoints of ours, or from other projects."""

from collections.abc import Callable
from typing import Any

import jax

from big_contrastive import checkpoint, errors, step, tree
from big_contrastive.interop import big_vision


def loader(
  init: dict[str, str], abstract: dict[str, Any]
) -> Callable[[step.State], step.State]:
  """Returns state -> state with the weights that config.init names.

  What is named is found, and its shapes are checked, before this returns.

  Args:
    init: path by "img" or "txt", one tower from a checkpoint of ours or, for
      img, from a big_vision .npz; or by "all", every parameter.
    abstract: the model's parameters: shapes, dtypes, shardings.
  """
  readers = {}
  for name, path in init.items():
    errors.choice("config.init", name, ("img", "txt", "all"))
    readers[name] = _reader(name, path, abstract)

  def load(state: step.State) -> step.State:
    params = state.params
    for name, read in readers.items():
      params = read() if name == "all" else params | {name: read()}
    return state._replace(params=params)

  return load


def _reader(name: str, path: str, abstract: dict[str, Any]) -> Callable:
  if name == "img" and path.endswith(".npz"):
    tower = big_vision.read_image_tower(path, tree.shapes(abstract["img"]))
    return lambda: _put(tower, abstract["img"])
  directory = checkpoint.find(path, f"config.init.{name}")
  if name == "all":
    checkpoint.check_shapes(directory, abstract)
    return lambda: checkpoint.read_params(directory, abstract)
  tower = checkpoint.read_tower(directory, name)
  shapes = [tree.shapes({name: part}) for part in (tower, abstract[name])]
  checkpoint.compare_shapes(str(directory), *shapes)
  return lambda: _put(tower, abstract[name])


def _put(tower: dict[str, Any], abstract: dict[str, Any]) -> dict[str, Any]:
  """Host arrays on the devices, under the shardings of abstract."""

  def put(x: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    x = x.astype(like.dtype)
    return jax.make_array_from_callback(x.shape, like.sharding, x.__getitem__)

  return jax.tree.map(put, tower, abstract)
