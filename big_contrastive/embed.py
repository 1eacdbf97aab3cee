"""Embeds a data set's images and captions, and keeps the vectors.

  python -m big_contrastive.embed --checkpoint runs/demo \\
    --data wds:shards/*.tar --out embedded

OUT/images.npy, float32 [n, d], has the images in the source's order;
OUT/texts.npy, float32 [m, d], all captions, one record's after another's;
OUT/records.parquet, row by row, "id", "label" (-1 for none) and "captions";
OUT/about.json where they come from, exp(t) as "scale", and b as "bias": a
pair's logit is scale * image . text + bias. OUT appears when all is in it.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive import signals

  signals.end_at_once()

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive import command, sourcing, trained, whole
from big_contrastive.data import pipeline


def run() -> None:
  """Parses the flags, embeds and writes."""
  parser = command.model_parser(__doc__)
  parser.add_argument("--out", required=True, help="a new directory")
  flags = parser.parse_args()
  command.start(flags.distributed)
  out = whole.free(flags.out, "--out") if jax.process_index() == 0 else None
  source = sourcing.source(flags.data, "--data")
  model = trained.load(
    flags.checkpoint,
    tokenizer=flags.tokenizer,
    batch_size=flags.batch_size,
    where="--checkpoint",
  )
  about = {"checkpoint": flags.checkpoint, "data": flags.data}
  found = embed(model, source)
  if out:
    write(out, found, about)


def embed(model: trained.Model, source: pipeline.Source) -> dict[str, Any]:
  """Returns what `write` writes; every process gets all of it.

  Args:
    model: from trained.load.
    source: its records; one that can't be read is an error.

  Returns:
    "images" float32 [n, d], "texts" float32 [m, d], "id" and "label" int32
    [n], "captions", n lists with m strings in all, "scale" and "bias".
  """
  images = model.embedder.images(model.params, source)
  captions = list(pipeline.captions(source))
  texts = [text for several in captions for text in several]
  t, b = (float(model.params.get(k, 0.0)) for k in ("t", "b"))
  return {
    "images": images.zimg,
    "texts": model.encode_text(texts) if texts else images.zimg[:0],
    "id": images.id,
    "label": images.label,
    "captions": captions,
    "scale": math.exp(t),
    "bias": b,
  }


def write(
  out: pathlib.Path, found: dict[str, Any], about: dict[str, Any]
) -> None:
  """Writes the folder of the module's docstring, all of it or nothing.

  Args:
    out: from whole.free.
    found: from `embed`.
    about: more for about.json.
  """
  with whole.appears(out) as new:
    new.mkdir()
    for name in ("images", "texts"):
      np.save(new / f"{name}.npy", found[name])
      about[name], about["d"] = found[name].shape
    about |= {k: found[k] for k in ("scale", "bias")}
    columns = {k: found[k] for k in ("id", "label", "captions")}
    pq.write_table(pa.table(columns), new / "records.parquet")
    (new / "about.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
  command.main(run)
