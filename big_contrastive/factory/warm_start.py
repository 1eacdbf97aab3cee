"""Initial weights (config.init): whole models, or single towers."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from big_contrastive.checkpoints import checkpointer, compare, find
from big_contrastive.config import errors, finite, schema
from big_contrastive.interop import model_files, resample
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.formats import big_vision
from big_contrastive.models import build
from big_contrastive.storage.paths import Path

# The state's parameters -> the initial ones.
Load = Callable[[dict[str, Any]], dict[str, Any]]
_SIZE = ("width", "depth", "mlp", "heads", "layers")


# Fields of a tower that change what it computes, but no shape.
_COMPUTES = {
  "activation", "eps", "causal", "norm", "pool", "pad_id", "mean", "std",
}  # fmt: skip


def read(path: str, where: str = "config.init") -> ModelBundle:
  """Returns the model at a path; see model_files.read."""
  return model_files.read(path, where=where)


def model_with(
  bundle: ModelBundle, path: str, changes: dict[str, Any]
) -> dict[str, Any]:
  """Returns a bundle's config.model, updated with the fields of `changes`.

  Fields inside a tower or the decoder are updated one by one. If the variant
  changes, the bundle's sizes are dropped, so that the weights are found not to
  fit.

  Args:
    bundle: the initial model.
    path: config.init, for messages.
    changes: the section config.model.

  Raises:
    UserError: if `changes` has a text tower and the bundle has none.
  """
  if changes.get("text") is not None and "text" not in bundle.model:
    allowed = "a model with an image and a text tower"
    remedy = (
      'This is an image tower alone: write {"img": "PATH"}, '
      "or leave out config.model.text."
    )
    raise errors.UserError("config.init", path, allowed, remedy)
  merged = bundle.model | changes
  towers = {"image", "text", "decoder"} & bundle.model.keys() & changes.keys()
  if None in (changes.get("decoder"), bundle.model.get("decoder")):
    towers -= {"decoder"}  # Left out, or new.
  for tower in towers:
    ours = schema.section(changes[tower], f"config.model.{tower}")
    theirs = dict(bundle.model[tower])
    if ours.get("variant", theirs.get("variant")) != theirs.get("variant"):
      theirs = {k: v for k, v in theirs.items() if k not in _SIZE}
    for name in ours.keys() & theirs.keys():
      if ours[name] != theirs[name]:
        text = "config.model.%s.%s is %r; %s has %r"
        logging.info(text, tower, name, ours[name], path, theirs[name])
    merged[tower] = theirs | ours
  return merged


def tokenizer_with(
  bundle: ModelBundle, path: str, changes: dict[str, Any]
) -> dict[str, Any]:
  """Returns the bundle's config.tokenizer, updated with `changes`.

  The vocabulary's content is `bundle.blob`.
  """
  if not bundle.tokenizer:
    remedy = f"{path} holds no tokenizer: say which it was trained with."
    thing, expected = "config.tokenizer.kind", "a tokenizer's own kind"
    raise errors.UserError(thing, "init", expected, remedy)
  changes = {k: v for k, v in changes.items() if k != "kind"}
  return bundle.tokenizer | changes


def is_there(path: Any) -> bool:
  """Returns whether a file or directory of this machine exists at a path."""
  return isinstance(path, str) and path != "" and pathlib.Path(path).exists()


def part_names(abstract: dict[str, Any]) -> list[str]:
  """Returns the keys that config.init may have: towers, heads, and "all"."""
  return [*(k for k, v in abstract.items() if isinstance(v, dict)), "all"]


def loader(
  init: ModelBundle | dict[str, str],
  abstract: dict[str, Any],
  model: dict[str, Any],
  path: str = "config.init",
  long_texts: str | None = None,
) -> Load:
  """Returns params -> params with the weights that config.init names.

  Before it returns, it finds the files and checks their shapes.

  Args:
    init: a whole model; or paths: by "img" or "txt", of one tower, in any
      format that `read` takes; by "all", of a checkpoint of ours, all of whose
      parameters are used.
    abstract: the model's parameters: shapes, dtypes, shardings.
    model: config.model. It also applies to a single tower: if the tower was
      trained to compute something else with the same shapes, a warning says so.
    path: of the whole model, for messages.
    long_texts: see resample.fit.
  """
  if isinstance(init, ModelBundle):
    return _load_whole(init, path, abstract, long_texts)
  if not isinstance(init, dict):
    allowed = "a path, or a dict of paths by tower"
    remedy = 'Write "PATH" or {"img": "PATH"}.'
    raise errors.UserError("config.init", init, allowed, remedy)
  if long_texts is not None and not init:
    allowed = "None without config.init"
    remedy = "There are no positions to begin with."
    raise errors.UserError("config.long_texts", long_texts, allowed, remedy)
  readers = {}
  for name, path in init.items():
    errors.choice("config.init", name, part_names(abstract))
    readers[name] = _reader(name, path, abstract, model, long_texts)

  def load(params: dict[str, Any]) -> dict[str, Any]:
    for name, reader in readers.items():
      params = reader() if name == "all" else params | {name: reader()}
    return params

  return load


def _load_whole(
  bundle: ModelBundle,
  path: str,
  abstract: dict[str, Any],
  long_texts: str | None,
) -> Load:
  stored = dict(bundle.params)
  for part, name in (("b", "bias"), ("dec", "decoder")):
    if part in stored and part not in abstract:
      logging.warning("%s: its %s is left out: config.model", path, name)
      del stored[part]
  expected = {k: v for k, v in abstract.items() if k in stored or k != "b"}
  if expected.keys() != abstract.keys():
    logging.warning("%s has no bias: b is config.model.bias", path)
  fitted = resample.fit(stored, expected, path, long_texts)
  return lambda params: params | _put(fitted(), expected)


def _reader(
  name: str,
  path: str,
  abstract: dict[str, Any],
  model: dict[str, Any],
  long_texts: str | None,
) -> Callable:
  expected = {name: abstract[name]} if name in abstract else abstract
  where = f"config.init.{name}"
  there = model_files.place(path, where)
  if name == "img" and path.endswith(".npz"):
    bundle = big_vision.read_image_tower(there)
    finite.arrays(bundle.params, f"config.init.img = {path!r}", finite.ANOTHER)
  elif name == "all":
    directory = find.find(str(there), where)
    exported = checkpointer.read_meta(directory).get("exported")
    compare.params(directory, abstract, exported)
    return lambda: _read_all(directory, abstract)
  else:
    bundle = read(path, where)
    errors.choice(where, name, bundle.params)
  _warn(name, path, bundle.model, model)
  stored = {name: dict(bundle.params[name])}
  if "project" in stored[name] and "project" not in expected[name]:
    logging.warning("%s: its last linear layer is left out", path)
    del stored[name]["project"]
  fitted = resample.fit(stored, expected, path, long_texts)
  return lambda: _put(fitted(), expected)[name]


def _read_all(directory: Path, abstract: dict[str, Any]) -> Any:
  meta = checkpointer.read_meta(directory)
  if meta.get("exported") or meta.get("lora"):
    params = _put(checkpointer.read_exported(directory), abstract)
  else:
    params = checkpointer.read_params(directory, abstract)
  finite.arrays(params, f"config.init.all = {str(directory)!r}", finite.ANOTHER)
  return params


def _warn(
  name: str, path: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
  """Warns of fields with which a tower was trained and config.model differs."""
  section = {"img": "image", "txt": "text", "dec": "decoder"}.get(name)
  if section is None:  # Of a head.
    return
  towers = [m.get(section, {}) for m in (theirs, ours)]
  before, now = (build.defaults(section, tower) | tower for tower in towers)
  for field in sorted(_COMPUTES & before.keys() & now.keys()):
    their_value, our_value = before[field], now[field]
    if schema.plain(their_value) != schema.plain(our_value):
      message = "config.model.%s.%s is %r; %s was trained with %r"
      logging.warning(message, section, field, our_value, path, their_value)


def _put(tower: dict[str, Any], abstract: dict[str, Any]) -> dict[str, Any]:
  """Puts host arrays on the devices, with the shardings of `abstract`."""

  def put(x: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    x = x.astype(like.dtype)
    return jax.make_array_from_callback(x.shape, like.sharding, x.__getitem__)

  return jax.tree.map(put, tower, abstract)
