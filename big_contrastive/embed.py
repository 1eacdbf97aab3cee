"""Embeds the images and captions of a data set, and saves the vectors.

  python -m big_contrastive.embed --checkpoint runs/demo \\
    --data wds:shards/*.tar --out embedded

  OUT/images.npy       float32 [n, d], the images in the order of the source
  OUT/texts.npy        float32 [m, d], the captions, record by record
  OUT/records.parquet  of each record "id", "label" (-1: none) and "captions"
  OUT/about.json       the checkpoint, the data, "scale" and "bias": the logit
                       of a pair is scale * image . text + bias

All vectors have length 1; if the model yields one that cannot be normalized,
its input is named and the exit code is 3. All captions are read before anything
is embedded, and OUT appears once it is complete.
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
from big_contrastive.data.source import Source, as_source
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
  """Parses the flags, embeds the data set and writes the vectors."""
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
  embedded = embed(model, source)
  if out:
    write(out, embedded, about)


def embed(model: Model, source: Source) -> dict[str, Any]:
  """Returns the embeddings of a data set, on every process.

  Args:
    model: from inference.model.load.
    source: the records; one that can't be read is an error.

  Returns:
    "images" float32 [n, d], "texts" float32 [m, d], "id" and "label" int32
    [n], "captions", n lists with m strings in all, "scale" and "bias".
  """
  source = as_source(source)
  captions = [
    [_written(text, source.name(i)) for text in several]
    for i, several in enumerate(evaluation.captions(source))
  ]
  texts = [text for several in captions for text in several]
  # Texts first: a model without a text tower fails before the work on images.
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
  """The caption with half a surrogate pair replaced by "?", as files need."""
  if not isinstance(text, str):
    kind, remedy = type(text).__name__, "Fix it, or the name of its column."
    raise errors.UserError(f"caption of {name}", kind, "a string", remedy)
  return fields.clean(text)


def write(
  out: pathlib.Path, embedded: dict[str, Any], about: dict[str, Any]
) -> None:
  """Writes the files that the module's docstring lists, all or none.

  Args:
    out: from atomic.free.
    embedded: from `embed`.
    about: further entries of about.json.
  """
  with atomic.appears(out) as new:
    new.mkdir()
    for name in ("images", "texts"):
      np.save(new / f"{name}.npy", embedded[name])
      about[name], about["d"] = embedded[name].shape
    about |= {k: embedded[k] for k in ("scale", "bias")}
    columns = {k: embedded[k] for k in ("id", "label", "captions")}
    pq.write_table(pa.table(columns, _COLUMNS), new / "records.parquet")
    lines = json.dumps(about, indent=2, allow_nan=False)
    (new / "about.json").write_text(lines + "\n")


if __name__ == "__main__":
  cli.main(run)
