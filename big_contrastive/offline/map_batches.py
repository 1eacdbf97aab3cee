"""A class for ray.data's map_batches, or anything that maps Arrow tables."""

import pathlib
from typing import Any

import pyarrow as pa

from big_contrastive.data.source import Records
from big_contrastive.inference.model import load
from big_contrastive.offline.embedding import Embedding
from big_contrastive.offline.tasks import Task


class Embed:
  """Adds the columns of `embed` to tables with images, and maybe captions.

    dataset.map_batches(
      Embed, fn_constructor_kwargs={"checkpoint": "runs/demo"},
      batch_format="pyarrow", batch_size=1024, concurrency=4, num_gpus=1,
    )

  A picture that can't be read has null vectors, and its fault in "bad".

  Args:
    checkpoint: what inference.model.load takes.
    image: the column of encoded images, binary.
    text: the column of captions, strings or lists of them; None for none.
    dtype: of the vectors, see embed.
    options: further arguments of inference.model.load.
  """

  def __init__(
    self,
    checkpoint: str,
    *,
    image: str = "image",
    text: str | None = None,
    dtype: str = "float32",
    **options: Any,
  ):
    self._model = load(checkpoint, **options)
    self._image, self._text, self._dtype = image, text, dtype

  def __call__(self, table: pa.Table) -> pa.Table:
    """Returns the table with "image_vector", "text_vectors" and "bad"."""
    records = [
      {"image": data, "id": 0} for data in table[self._image].to_pylist()
    ]
    if self._text:
      for record, text in zip(records, table[self._text].to_pylist()):
        record["text"] = [] if text is None else text
    work = Embedding(self._model, Records(records), self._dtype)
    found, _ = work(Task(0, 0, len(records), pathlib.Path()))
    columns = {"image_vector": "image", "text_vectors": "texts", "bad": "bad"}
    for name, column in columns.items():
      if column in found.column_names and (
        name != "text_vectors" or self._text
      ):
        table = table.append_column(name, found[column])
    return table
