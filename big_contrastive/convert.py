"""Converts a model between our checkpoints and the files of other projects.

  python -m big_contrastive.convert --from runs/siglip --to exported

Reads and writes our checkpoints, Hugging Face directories, OpenCLIP
directories, big_vision .npz files, torchvision's ResNets and timm's ViTs
(DINO); reads OpenAI's .pt files. As a check, random images and texts are
embedded by the source, by the result, and by transformers or OpenCLIP where
they are installed. DST appears only if all of them agree. A warning names what
DST lacks: a tokenizer, a text tower or preprocessing. With --average OTHER the
weights are averaged, as of a model and of what it was fine-tuned to; with
--image OTHER the tower that made the vectors of LiT takes their place.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import errors, files, schema
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.data.transforms import operations
from big_contrastive.factory import cli
from big_contrastive.inference.no_tokenizer import NoTokenizer
from big_contrastive.interop import formats, model_files, reference
from big_contrastive.interop.average import averaged
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.interop.image_tower import with_tower
from big_contrastive.models import naflex
from big_contrastive.models.build import defaults
from big_contrastive.models.captioning import captioner
from big_contrastive.models.model import merge
from big_contrastive.offline import vectors
from big_contrastive.storage import atomic
from big_contrastive.storage.paths import Path

_PAIRS = 4
_WORDS = (
  "a",
  "photo of",
  "the",
  "red",
  "Dog's",
  "2 small",
  "cats,",
  "(grass)!",
)
# Unit embeddings by "image" and "text", "logits" over exp(t), "captions".
Embedded = dict[str, np.ndarray]
_OURS = "checkpoint"


def convert(
  source: str,
  target: str,
  format: str | None = None,
  from_format: str | None = None,
  tokenizer: dict[str, Any] | None = None,
  tolerance: float = 1e-5,
  average: str | None = None,
  share: float = 0.5,
  image: str | None = None,
) -> dict[str, float]:
  """Converts a model, and returns the largest differences.

  Args:
    source: its file or directory; also of a bucket or of the Hugging Face Hub,
      hf://OWNER/NAME.
    target: a path that does not exist yet, or an empty directory; also of a
      bucket, gs://... or s3://...
    format: of the target, one of interop/formats/; None: big_vision for
      *.npz, torchvision for *.safetensors, else checkpoint from other projects
      and hugging_face from ours.
    from_format: of the source; None detects it from the files.
    tokenizer: like config.tokenizer, in place of the source's.
    tolerance: the largest difference allowed.
    average: another model, whose weights are averaged with the source's.
    share: of the other in the average.
    image: of a source that was trained on stored vectors (LiT), the model that
      made them, whose image tower takes their place.

  Returns:
    For each comparison, the largest difference of unit embeddings and of
    logits over exp(t).

  Raises:
    UserError: for a source that can't be read, a model that the target's
      format can't hold, or a difference above the tolerance.
  """
  path = atomic.free(target, "--to")
  there = model_files.place(source, "--from")
  from_format = from_format or model_files.recognize(there)
  model = model_files.read(source, from_format)
  format = format or _default(path, from_format)
  if tokenizer is not None:
    model = _with_tokenizer(model, tokenizer, source)
  if average is not None:
    other = model_files.read(average, where="--average")
    model = averaged(model, other, share, "--average")
  if image is not None:
    other = model_files.read(image, where="--image")
    model = with_tower(model, other, "--image")
    meta = checkpointer.read_meta(find.find(str(there), "--from"))
    trained_on = meta["config"].get("source", {})
    vectors.check_made_by(trained_on, image, "--image")
  alone = average is None and image is None
  sides = [(from_format, there)] if alone else []
  with atomic.appears(path) as new:
    model_files.write(model, new, format)
    images, tokens = _inputs(model)
    ours = _embed(model, images, tokens)
    again = _embed(model_files.read(new, format), images, tokens)
    others = {f"{format}, read back": again}
    if tokens is not None or "hugging_face" in (from_format, format):
      arguments = _arguments(model, images)
      for name, place in (*sides, (format, new)):
        embedded = reference.embed(name, place, arguments, tokens)
        if embedded is not None:
          which = "source" if place != new else "target"
          others[f"{which}, in its own library"] = embedded
    differences = {
      f"{thing}: {part}": float(np.abs(ours[part] - z[part]).max())
      for thing, z in others.items()
      for part in ours
    }
    _check(differences, tolerance)
  for line in _lacks(model, format):
    logging.warning("%s %s", target, line)
  return differences


def _with_tokenizer(
  model: ModelBundle, section: dict[str, Any], source: str
) -> ModelBundle:
  if not model.needs_tokenizer:
    NoTokenizer(source, has_text=False).rows([])
  spec = {"length": model.text_sizes.length} | schema.section(
    section, "--tokenizer"
  )
  tokenizer = schema.call(build_tokenizer, spec, "--tokenizer")
  model.build(tokenizer)  # Raises if it does not fit the text tower.
  return dataclasses.replace(
    model, tokenizer=tokenizer.spec, blob=tokenizer.blob
  )


def _lacks(model: ModelBundle, format: str) -> list[str]:
  """What the written files lack, and the remedy."""
  lines, lacking = [], formats.module(format).MAY_LACK
  if not model.needs_tokenizer:
    lines.append("holds an image tower alone: it embeds images only.")
  elif "tokenizer" in lacking or not model.tokenizer:
    lines.append(
      "holds no tokenizer: it embeds images only. For texts, give the one that "
      "the model was trained with: load(path, tokenizer={...}) or --tokenizer."
    )
  if "preprocessing" in lacking:
    lines.append(
      "holds no preprocessing: images are resized to the tower's resolution, "
      "and their values scaled to [-1, 1]."
    )
  return lines


def _default(path: Path, from_format: str | None) -> str:
  suffixes = {formats.module(name).SUFFIX: name for name in formats.names()}
  if path.suffix and path.suffix in suffixes:
    return suffixes[path.suffix]
  return "hugging_face" if from_format == _OURS else _OURS


def _inputs(model: ModelBundle) -> tuple[np.ndarray, np.ndarray | None]:
  """Random uint8 images, and ids of random texts."""
  r = np.random.default_rng(0)
  section = model.model["image"]
  if section.get("max_patches") is None:
    takes = model.build().abstract.img.takes
    images = r.integers(0, 256, (_PAIRS, *takes, 3)).astype(np.uint8)
  else:
    res = section["res"]
    images = r.integers(0, 256, (_PAIRS, res, res, 3)).astype(np.uint8)
    prepare = operations.parse(model.image, "image", train=False)
    images = np.stack(
      [prepare(x[: (i + 1) * res // 4]) for i, x in enumerate(images)]
    )
  if not model.needs_tokenizer:
    return images, None
  sizes = model.text_sizes
  if not model.tokenizer:
    last = sizes.vocab_size - 1 if sizes.eos_id is None else sizes.eos_id
    ids = r.integers(0, last, (_PAIRS, sizes.length)).astype(np.int32)
    ids[:, -1] = last
    return images, ids
  texts = [" ".join(r.choice(_WORDS, n)) for n in (1, 5, 9, 40)]
  return images, model.make_tokenizer().rows(texts)


def _embed(
  model: ModelBundle, images: np.ndarray, tokens: np.ndarray | None
) -> Embedded:
  """Embeddings by our towers, in float32."""
  shared = {"dtype": "float32", "remat": "none"}
  graph = model.build(**shared).graph

  @jax.jit
  def embed(params, images, tokens):
    towers = merge(graph, params)
    found = {"image": towers.embed_image(images)}
    if tokens is not None and model.embeds_text:
      found["text"] = towers.embed_text(tokens)
    if tokens is not None and model.tells_captions:
      found["captions"] = captioner.told(towers, images, tokens[:, :-1])
    return found

  with jax.default_matmul_precision("highest"):
    found = dict(jax.device_get(embed(model.params, images, tokens)))
  if "captions" in found:
    found["captions"] = reference.relative(found["captions"])
  if "text" in found:
    over = np.exp(-model.params.get("t", 0)) * model.params.get("b", 0.0)
    found["logits"] = found["image"] @ found["text"].T + over
  return found


def _arguments(model: ModelBundle, images: np.ndarray) -> dict[str, np.ndarray]:
  """The arguments of transformers for images as our towers take them."""
  if model.model["image"].get("max_patches") is None:
    pixels = _normalized(model, images).transpose(0, 3, 1, 2)
    return {"pixel_values": pixels}
  patches, grid = naflex.unpack(jnp.asarray(images))
  mask = naflex.real(grid, patches.shape[1])
  pixels = _normalized(model, np.asarray(patches)).reshape(*mask.shape, -1)
  return {
    "pixel_values": pixels,
    "pixel_attention_mask": np.asarray(mask, np.int32),
    "spatial_shapes": np.asarray(grid, np.int64),
  }


def _normalized(model: ModelBundle, images: np.ndarray) -> np.ndarray:
  image = model.model["image"]
  settings = defaults("image", image) | image
  mean, std = np.float32(settings["mean"]), np.float32(settings["std"])
  return ((images / np.float32(255) - mean) / std).astype(np.float32)


def _check(differences: dict[str, float], tolerance: float) -> None:
  name, worst = max(
    differences.items(), key=lambda item: np.nan_to_num(item[1], nan=np.inf)
  )
  if not worst <= tolerance:
    raise errors.UserError(
      f"largest difference, {name}",
      worst,
      f"at most {tolerance:g}",
      "Nothing was written. Check the activation that it was trained with.",
    )


def run() -> None:
  """Parses the flags, converts, and prints the differences."""
  parser = cli.parser(__doc__)
  parser.add_argument("--from", required=True, dest="source", metavar="SRC")
  parser.add_argument("--to", required=True, dest="target", metavar="DST")
  listed = ", ".join(formats.names())
  parser.add_argument("--format", help=f"of DST: {listed}")
  parser.add_argument("--from_format", help="of SRC, if it can't be detected")
  parser.add_argument(
    "--tokenizer", type=files.literal,
    help="like config.tokenizer, for a SRC without one: "
    "\"{'kind': 'sentencepiece', 'path': ...}\"",
  )  # fmt: skip
  parser.add_argument(
    "--tolerance", type=cli.number, default=1e-5,
    help="largest difference of unit embeddings, and of logits over exp(t)",
  )  # fmt: skip
  parser.add_argument("--average", help="another model, of the same shapes")
  parser.add_argument("--share", type=cli.number, default=0.5, help="of it")
  parser.add_argument("--image", help="whose vectors SRC was trained on (LiT)")
  flags = vars(parser.parse_args())
  flags.pop("distributed")
  differences = convert(**flags)
  print(f"{flags['source']} -> {flags['target']}: largest differences")
  for name, value in differences.items():
    print(f"  {name:45} {value:.1e}")


if __name__ == "__main__":
  cli.main(run)
