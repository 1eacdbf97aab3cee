"""Weights to begin with: from checkpoints of ours, or from other projects."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import errors, finite, schema
from big_contrastive.interop import bundle, resample
from big_contrastive.interop.formats import big_vision
from big_contrastive.training.state import State

Load = Callable[[State], State]
PARTS = ("img", "txt", "all")  # What config.init may name.
_SIZE = ("width", "depth", "mlp", "heads")


# Fields of a tower that change what it computes, and no shape.
_COMPUTES = {
  "activation", "eps", "causal", "norm", "pool", "pad_id", "mean", "std",
}  # fmt: skip


class Whole(NamedTuple):
  """A whole model to begin with.

  Args:
    path: as config.init has it.
    model: the section config.model that it was made with.
    params: nested, numpy.
    tokenizer, blob: see restore_tokenizer; {} where the file holds none.
  """

  path: str
  model: dict[str, Any]
  params: dict[str, Any]
  tokenizer: dict[str, Any]
  blob: bytes

  def model_with(self, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns its config.model with the fields that changes has.

    Fields inside image and text are changed one by one. Of another variant
    no size is taken over, so that the weights are found not to fit.

    Raises:
      UserError: for an image tower alone.
    """
    if "txt" not in self.params:
      allowed = "a model with an image and a text tower"
      remedy = 'This is an image tower alone: write {"img": "PATH"}.'
      raise errors.UserError("config.init", self.path, allowed, remedy)
    merged = self.model | changes
    for tower in {"image", "text"} & self.model.keys() & changes.keys():
      ours = schema.section(changes[tower], f"config.model.{tower}")
      theirs = dict(self.model[tower])
      if ours.get("variant", theirs.get("variant")) != theirs.get("variant"):
        theirs = {k: v for k, v in theirs.items() if k not in _SIZE}
      for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
          said = "config.model.%s.%s is %r; %s has %r"
          logging.info(said, tower, name, ours[name], self.path, theirs[name])
      merged[tower] = theirs | ours
    return merged

  def tokenizer_with(self, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a config.tokenizer: its own, with the fields of changes.

    The vocabulary's content is `blob`.
    """
    if not self.tokenizer:
      remedy = f"{self.path} holds no tokenizer: say which it was trained with."
      thing, allowed = "config.tokenizer.kind", "a tokenizer's own kind"
      raise errors.UserError(thing, "init", allowed, remedy)
    changes = {k: v for k, v in changes.items() if k != "kind"}
    return self.tokenizer | changes


def whole(path: str, where: str = "config.init") -> Whole:
  """Returns the model at a path, in whatever format it is.

  Args:
    path: of a checkpoint of ours, or what interop.portable reads.
    where: the config field that has it, for the error.

  Raises:
    UserError: for what is not there, in no known format, or broken.
    RunError: for parameters that are not finite.
  """
  _check_there(path, where)
  directory = find.search(path)
  if directory is None:
    found = bundle.read(path, where=where)
  else:
    found = checkpointer.read_model(directory)
  finite.arrays(found.params, f"{where} = {path!r}", finite.ANOTHER)
  return Whole(path, found.model, found.params, found.tokenizer, found.blob)


def _check_there(path: str, where: str) -> None:
  if not path or not is_there(path):
    allowed = "a checkpoint, a Hugging Face or OpenCLIP directory, or an .npz"
    remedy = "No such file or directory." if path else "It is not given."
    raise errors.UserError(where, path, allowed, remedy)


def is_there(path: Any) -> bool:
  """Returns whether a file or directory of that name exists."""
  return isinstance(path, str) and path != "" and pathlib.Path(path).exists()


def loader(
  init: Whole | dict[str, str], abstract: dict[str, Any], model: dict[str, Any]
) -> Load:
  """Returns state -> state with the weights that config.init names.

  What is named is found, and its shapes are checked, before this returns.

  Args:
    init: a whole model; or path by "img" or "txt", one tower, from whatever
      `whole` takes; or by "all", every parameter of a checkpoint of ours.
    abstract: the model's parameters: shapes, dtypes, shardings.
    model: config.model. One tower brings no section of its own: where it was
      made to compute something else of the same shapes, a warning says so.
  """
  if isinstance(init, Whole):
    return _load_whole(init, abstract)
  if not isinstance(init, dict):
    allowed = "a path, or a dict of paths by tower"
    remedy = 'Write "PATH" or {"img": "PATH"}.'
    raise errors.UserError("config.init", init, allowed, remedy)
  readers = {}
  for name, path in init.items():
    errors.choice("config.init", name, PARTS)
    readers[name] = _reader(name, path, abstract, model)

  def load(state: State) -> State:
    params = state.params
    for name, read in readers.items():
      params = read() if name == "all" else params | {name: read()}
    return state._replace(params=params)

  return load


def _load_whole(source: Whole, abstract: dict[str, Any]) -> Load:
  given = dict(source.params)
  if "b" in given and "b" not in abstract:
    logging.warning("%s: its bias is left out: config.model", source.path)
    del given["b"]
  wanted = {k: v for k, v in abstract.items() if k in given or k != "b"}
  if wanted.keys() != abstract.keys():
    logging.warning("%s has no bias: b is config.model.bias", source.path)
  read = resample.fit(given, wanted, source.path)
  return lambda state: state._replace(
    params=state.params | _put(read(), wanted)
  )


def _reader(
  name: str, path: str, abstract: dict[str, Any], model: dict[str, Any]
) -> Callable:
  wanted = {name: abstract[name]} if name in abstract else abstract
  _check_there(path, f"config.init.{name}")
  if name == "img" and path.endswith(".npz"):
    found = big_vision.read_image_tower(pathlib.Path(path))
    finite.arrays(found.params, f"config.init.img = {path!r}", finite.ANOTHER)
  elif name == "all":
    directory = find.find(path, f"config.init.{name}")
    checkpointer.check_shapes(directory, abstract)
    return lambda: _read_all(directory, abstract)
  else:
    found = whole(path, f"config.init.{name}")
    errors.choice(f"config.init.{name}", name, found.params)
  _warn(name, path, found.model, model)
  stored = {name: dict(found.params[name])}
  if "project" in stored[name] and "project" not in wanted[name]:
    logging.warning("%s: its last linear layer is left out", path)
    del stored[name]["project"]
  read = resample.fit(stored, wanted, path)
  return lambda: _put(read(), wanted)[name]


def _read_all(directory: pathlib.Path, abstract: dict[str, Any]) -> Any:
  found = checkpointer.read_params(directory, abstract)
  finite.arrays(found, f"config.init.all = {str(directory)!r}", finite.ANOTHER)
  return found


def _warn(
  name: str, path: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
  """Tells what a tower computes with that config.model has otherwise."""
  section = {"img": "image", "txt": "text"}[name]
  usual = bundle.defaults(section)
  for field in sorted(_COMPUTES & usual.keys()):
    given, own = (
      m.get(section, {}).get(field, usual[field]) for m in (theirs, ours)
    )
    if schema.plain(given) != schema.plain(own):
      said = "config.model.%s.%s is %r; %s was trained with %r"
      logging.warning(said, section, field, own, path, given)


def _put(tower: dict[str, Any], abstract: dict[str, Any]) -> dict[str, Any]:
  """Host arrays on the devices, under the shardings of abstract."""

  def put(x: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    x = x.astype(like.dtype)
    return jax.make_array_from_callback(x.shape, like.sharding, x.__getitem__)

  return jax.tree.map(put, tower, abstract)
