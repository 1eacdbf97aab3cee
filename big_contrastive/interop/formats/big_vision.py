"""big_vision's .npz files: two towers, or only an image tower.

The text tower is big_vision's own (SigLIP) or BERT (LiT). Names may have the
prefix "params/"; blocks are numbered (encoderblock_0, ...) or stacked
(encoderblock, of its scan=True). A file says nothing about the tokenizer.
"""

import logging
import math
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from big_contrastive.config import errors, rules
from big_contrastive.interop import mapping, sections
from big_contrastive.interop.big_vision import weights as big_vision_weights
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models import build

Arrays = dict[str, np.ndarray]

# Fixed in flaxformer's BERT and big_vision's model of it. The gelu is JAX's
# default, tanh, as in Google's BERT and unlike transformers'.
_BERT = {
  "norm": "post", "segments": 2, "pad_id": 0, "pool": "first",
  "causal": False, "eps": 1e-12, "activation": "gelu_tanh",
}  # fmt: skip
_HEAD_WIDTH, _MAX_PATCHES = 64, 256  # Of BERT, of NaFlex; in no file.

# Names before 2022: one counter for all modules, not one per kind.
_OLD = {
  "MultiHeadDotProductAttention_1/": "MultiHeadDotProductAttention_0/",
  "LayerNorm_2/": "LayerNorm_1/",
  "MlpBlock_3/": "MlpBlock_0/",
}

MAY_LACK: tuple[str, ...] = ("text", "tokenizer", "preprocessing")
SUFFIX = ".npz"


def recognize(path: pathlib.Path) -> bool:
  """Whether it is an .npz file."""
  return path.suffix == ".npz" and path.is_file()


def read(path: pathlib.Path, where: str = "path") -> ModelBundle:
  """Returns the model of a file; for a file of a ViT, only the image tower.

  Raises:
    UserError: for a broken file, and tensors that are missing, unknown or
      misshapen.
  """
  return _model(_load(path), path)


def read_image_tower(path: pathlib.Path) -> ModelBundle:
  """Returns only the image tower, whatever else a file contains."""
  arrays = _load(path)
  return _model({k: v for k, v in arrays.items() if k[:4] == "img/"}, path)


def write(
  model: ModelBundle,
  path: pathlib.Path,
  *,
  scanned: bool = False,
  prefix: str | None = None,
) -> None:
  """Writes a file that big_vision's two_towers.load reads.

  Args:
    model: towers as big_vision's are, a SigLIP's or a LiT's for instance.
    path: of the file.
    scanned: whether to stack blocks, for models with scan=True.
    prefix: of each name; None: "params/", but "" for a single ViT and for LiT,
      whose files have none.

  Raises:
    UserError: for a tower that big_vision does not have.
  """
  sections.no_decoder(model)
  sections.check_positions(model)
  shared = {"activation": "gelu_tanh", "eps": 1e-6}
  plain = {
    "pos": "learned", "pre_norm": False, "patch_bias": True, "cls_pos": False,
    "mean": [0.5] * 3, "std": [0.5] * 3,  # Not in the file.
  }  # fmt: skip
  sections.require_tower(model.model["image"], "vit")
  image = build.defaults("image") | model.model["image"]
  stats = {k: list(image[k]) for k in ("mean", "std")}
  sections.require("image", image | stats, plain | shared)
  _check_side(image)
  text = build.defaults("text") | model.model.get("text", {})
  if bert := text["norm"] == "post":
    size = sections.sizes(text)
    heads = {"heads": size["width"] // _HEAD_WIDTH}
    sections.require("text", text | size, _BERT | heads)
  else:
    # The file doesn't store the pool: any other would be read as "last".
    pools = {"pool": ("last", "map"), "causal": False}
    sections.require("text", text, sections.PLAIN_TEXT | pools | shared)
  flat = rules.flatten(model.params)
  rows = big_vision_weights.table(
    scanned, bert, image["max_patches"] is not None
  )
  arrays = mapping.write(rows, flat, "a big_vision model")
  if alone := not model.has_text:
    arrays = {k.removeprefix("img/"): v for k, v in arrays.items()}
  if prefix is None:
    prefix = "" if alone or bert else "params/"
  with path.open("wb") as file:  # savez would add .npz to another name.
    np.savez(file, **{prefix + k: v for k, v in arrays.items()})


def _check_side(image: dict[str, Any]) -> None:
  """Raises UserError for pixels past the last patch: files don't store them."""
  res, patch = image["res"], sections.patch(image)
  if res % patch and (res, patch) != (384, 14):
    allowed = f"a multiple of the patch side {patch} in this format"
    thing = "config.model.image.res"
    raise errors.UserError(thing, res, allowed, sections.ANOTHER)


def _model(arrays: Arrays, path: pathlib.Path) -> ModelBundle:
  """The model of arrays with present names."""
  scanned = any("/encoderblock/" in k for k in arrays)
  model: dict[str, Any] = {"image": _image(arrays, path)}
  vocab_size = length = 1
  has_text = any(k.startswith("txt/") for k in arrays)
  if bert := any(k.startswith(f"{big_vision_weights.BERT}/") for k in arrays):
    name = big_vision_weights.BERT_TABLE.format
    vocab_size, _ = _shape(arrays, name("token"), 2, path)
    length, _ = _shape(arrays, name("position"), 2, path)
    model["text"] = _bert(arrays, path) | {"positions": length}
  elif has_text:
    vocab_size, _ = _shape(arrays, "txt/Embed_0/embedding", 2, path)
    _, length, _ = _shape(arrays, "txt/pos_embedding", 3, path)
    model["text"] = _text(arrays, path)
  shapes = sections.shapes(model, vocab_size, length, bias="b" in arrays)
  if not has_text:
    shapes = {k: v for k, v in shapes.items() if k.startswith("img/")}
  most = model["image"].get("max_patches")
  rows = big_vision_weights.table(scanned, bert, most is not None)
  flat = mapping.read(rows, arrays, shapes, str(path))
  if has_text:
    model["text"]["vocab_size"] = vocab_size
  # TensorFlow's resize doesn't antialias, but other formats can only name
  # operations that do.
  ops: list = [
    ["resize", {"size": model["image"]["res"], "method": "bilinear"}]
  ]
  if most is not None:
    patch = sections.patch(model["image"])
    ops = [["naflex", {"patch": patch, "most": most, "method": "bilinear"}]]
  return sections.assembled(model, flat, image=ops)


def _image(arrays: Arrays, path: pathlib.Path) -> dict[str, Any]:
  kernel = arrays.get("img/embedding/kernel")
  if naflex := kernel is not None and kernel.ndim == 2:
    patch = math.isqrt(len(kernel) // 3)
    side, *_ = _shape(arrays, "img/pos_embedding", 3, path)
  else:
    patch, *_ = _shape(arrays, "img/embedding/kernel", 4, path)
    _, length, _ = _shape(arrays, "img/pos_embedding", 3, path)
    side = math.isqrt(length)
  section = _section(arrays, "img/Transformer", path)
  if naflex:
    section["max_patches"] = _MAX_PATCHES
  section["variant"] += f"/{patch}"
  section["res"] = side * patch
  if (patch, side) == (14, 27):  # So400m/14 at 384, not a multiple of 14.
    section |= {"res": 384, "remainder": True}
  has_map = "img/MAPHead_0/probe" in arrays
  without = "tok" if "img/cls" in arrays else "gap"
  section["pool"] = "map" if has_map else without
  return section | _project(arrays, "img")


def _text(arrays: Arrays, path: pathlib.Path) -> dict[str, Any]:
  section = _section(arrays, "txt/Encoder_0", path)
  pool = "map" if "txt/MAPHead_0/probe" in arrays else "last"
  return section | {"pool": pool} | _project(arrays, "txt")


def _bert(arrays: Arrays, path: pathlib.Path) -> dict[str, Any]:
  depth = 0
  layers = big_vision_weights.BERT_LAYERS
  while f"{layers}{depth}/mlp_block/layer_norm/scale" in arrays:
    depth += 1
  dense = f"{big_vision_weights.BERT_LAYERS}0/mlp_block/mlp/dense_layer/kernel"
  width, mlp = _shape(arrays, dense, 2, path)
  heads, left = divmod(width, _HEAD_WIDTH)
  if left:
    remedy = "The number of heads is not in the file, so it is a rule."
    allowed = f"a multiple of {_HEAD_WIDTH}, the width of a head"
    raise errors.UserError(f"width of BERT in {path}", width, allowed, remedy)
  size = sections.size(width, depth, mlp, heads)
  return size | _BERT | _project(arrays, "txt")


def _project(arrays: Arrays, tower: str) -> dict[str, Any]:
  kernel = arrays.get(f"{tower}/head/kernel")
  if kernel is None:
    return {"out_dim": None}
  bias = f"{tower}/head/bias" in arrays
  return {"out_dim": kernel.shape[-1], "out_bias": bias}


def _section(
  arrays: Arrays, encoder: str, path: pathlib.Path
) -> dict[str, Any]:
  """Width, depth, mlp and heads, from the first block."""
  block, skip, depth = f"{encoder}/encoderblock_0", 0, 0
  while f"{encoder}/encoderblock_{depth}/LayerNorm_0/scale" in arrays:
    depth += 1
  if f"{encoder}/encoderblock/LayerNorm_0/scale" in arrays:
    block, skip = f"{encoder}/encoderblock", 1
    depth = len(arrays[f"{block}/LayerNorm_0/scale"])
  query = f"{block}/MultiHeadDotProductAttention_0/query/kernel"
  width, heads, _ = _shape(arrays, query, 3 + skip, path)[skip:]
  dense = f"{block}/MlpBlock_0/Dense_0/kernel"
  _, mlp = _shape(arrays, dense, 2 + skip, path)[skip:]
  return sections.size(width, depth, mlp, heads)


def _shape(
  arrays: Arrays, name: str, axes: int, path: pathlib.Path
) -> tuple[int, ...]:
  array = arrays.get(name)
  if array is None or array.ndim != axes:
    actual = "missing" if array is None else array.shape
    allowed = f"an array of {axes} axes, as big_vision writes it"
    remedy = "Give a file with a ViT, or with two towers of big_vision's."
    raise errors.UserError(f"{name} of {path}", actual, allowed, remedy)
  return array.shape


def _load(path: pathlib.Path) -> Arrays:
  """The arrays with present names; those of a single ViT below img/."""
  allowed = "a complete .npz file of arrays"
  if not path.is_file():
    raise errors.UserError("weights", str(path), allowed, "No such file.")
  try:
    # Opened here, since np.load leaves a broken file open.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
      arrays = {k: _number(file[k]) for k in file.files}
  except (
    AttributeError, EOFError, KeyError, OSError, TypeError, ValueError,
    zipfile.BadZipFile, zlib.error,
  ) as e:  # fmt: skip
    remedy = f"Download it again; pickled objects are never read: {e}."
    raise errors.UserError("weights", str(path), allowed, remedy) from e
  below = {k[7:]: v for k, v in arrays.items() if k.startswith("params/")}
  _left_out(
    path, arrays.keys() - {f"params/{k}" for k in below} if below else ()
  )
  arrays = below or arrays
  if not any(k.startswith("img/") for k in arrays):
    classifier = {k for k in arrays if re.match("(head|pre_logits)/", k)}
    _left_out(path, classifier)
    arrays = {f"img/{k}": v for k, v in arrays.items() if k not in classifier}
  return _modern(arrays, path)


def _number(array: np.ndarray) -> np.ndarray:
  """The array; numpy stores bfloat16 as two untyped bytes."""
  return array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array


def _left_out(path: pathlib.Path, names: Iterable[str]) -> None:
  if names := sorted(names):
    message = "%s: %d arrays are left out, %s among them"
    logging.warning(message, path, len(names), names[0])


def _modern(arrays: Arrays, path: pathlib.Path) -> Arrays:
  """Converts arrays of earlier versions of big_vision to the present names."""
  if any("/MlpBlock_3/" in k for k in arrays):
    old = re.compile("|".join(map(re.escape, _OLD)))
    arrays = {old.sub(lambda m: _OLD[m[0]], k): v for k, v in arrays.items()}
  for place in ("posembed_input/pos_embedding", "pos_embedding"):
    if (name := f"img/Transformer/{place}") in arrays:
      arrays["img/pos_embedding"] = arrays.pop(name)
  pos, cls = arrays.get("img/pos_embedding"), arrays.get("img/cls")
  has_both = cls is not None and pos is not None and pos.ndim == 3
  if has_both and math.isqrt(pos.shape[1]) ** 2 == pos.shape[1] - 1:
    # The class token had a position, a constant: add it to the token.
    arrays |= {"img/cls": cls + pos[:, :1], "img/pos_embedding": pos[:, 1:]}
  if "txt/Encoder_0/pos_embedding" in arrays:
    # Some older files have a second table, added by mistake.
    twice = arrays.pop("txt/Encoder_0/pos_embedding")
    arrays["txt/pos_embedding"] = arrays["txt/pos_embedding"] + twice
  return arrays
