"""Embeds a data set's images and captions, and keeps the vectors.

  python -m big_contrastive.embed --checkpoint runs/demo \\
    --data wds:shards/*.tar --out embedded

OUT/images.npy, float32 [n, d], has the images in the source's order;
OUT/texts.npy, float32 [m, d], all captions, one record's after another's;
OUT/records.parquet, row by row, "id", "label" (-1 for none) and "captions";
OUT/about.json where they come from, exp(t) as "scale", and b as "bias": a
pair's logit is scale * image . text + bias. OUT appears when all is in it.
Captions are read, all of them, before anything is embedded. Vectors are unit
vectors; exit code 3 names what the model made none of.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.checkpoints import atomic
from big_contrastive.config import errors
from big_contrastive.data.build import build_source
from big_contrastive.data.files import fields
from big_contrastive.data.loader import evaluation
from big_contrastive.data.source import Source
from big_contrastive.factory import cli
from big_contrastive.inference.model import Model, load

_COLUMNS = pa.schema(
  {
    "id": pa.int32(),
    "label": pa.int32(),
    "captions": pa.list_(pa.string()),
  }
)


def run() -> None:
  """Parses the flags, embeds and writes."""
  parser = cli.model_parser(__doc__)
  parser.add_argument("--out", required=True, help="a new directory")
  flags = parser.parse_args()
  cli.start(flags.distributed)
  out = atomic.free(flags.out, "--out") if jax.process_index() == 0 else None
  source = build_source(flags.data, "--data")
  model = load(
    flags.checkpoint,
    tokenizer=flags.tokenizer,
    batch_size=flags.batch_size,
    where="--checkpoint",
  )
  about = {
    k: _written(getattr(flags, k), f"--{k}") for k in ("checkpoint", "data")
  }
  found = embed(model, source)
  if out:
    write(out, found, about)


def embed(model: Model, source: Source) -> dict[str, Any]:
  """Returns what `write` writes; every process gets all of it.

  Args:
    model: from trained.load.
    source: its records; one that can't be read is an error.

  Returns:
    "images" float32 [n, d], "texts" float32 [m, d], "id" and "label" int32
    [n], "captions", n lists with m strings in all, "scale" and "bias".
  """
  captions = [
    [_written(text, source.name(i)) for text in several]
    for i, several in enumerate(evaluation.captions(source))
  ]
  texts = [text for several in captions for text in several]
  # First: a model that embeds no texts is told before the work on images.
  ztxt = model.encode_text(texts) if texts else None
  images = model.embedder.images(model.params, source)
  t, b = (float(model.params.get(k, 0.0)) for k in ("t", "b"))
  return {
    "images": images.zimg,
    "texts": images.zimg[:0] if ztxt is None else ztxt,
    "id": images.id,
    "label": images.label,
    "captions": captions,
    "scale": math.exp(t),
    "bias": b,
  }


def _written(text: Any, name: str) -> str:
  """A caption as a file can hold it: half a surrogate pair is a "?"."""
  if not isinstance(text, str):
    told, allowed = type(text).__name__, "a text"
    thing, remedy = f"a caption of {name}", "Mend it, or its column's name."
    raise errors.UserError(thing, told, allowed, remedy)
  return fields.clean(text)


def write(
  out: pathlib.Path, found: dict[str, Any], about: dict[str, Any]
) -> None:
  """Writes the folder of the module's docstring, all of it or nothing.

  Args:
    out: from whole.free.
    found: from `embed`.
    about: more for about.json.
  """
  with atomic.appears(out) as new:
    new.mkdir()
    for name in ("images", "texts"):
      np.save(new / f"{name}.npy", found[name])
      about[name], about["d"] = found[name].shape
    about |= {k: found[k] for k in ("scale", "bias")}
    columns = {k: found[k] for k in ("id", "label", "captions")}
    pq.write_table(pa.table(columns, _COLUMNS), new / "records.parquet")
    lines = json.dumps(about, indent=2, allow_nan=False)
    (new / "about.json").write_text(lines + "\n")


if __name__ == "__main__":
  cli.main(run)
