"""The folder of Parquet parts that `caption` writes, as a reader sees it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.config import errors
from big_contrastive.data.files import embedded
from big_contrastive.storage.paths import Path

# Of the column "captions".
KIND = pa.list_(
  pa.struct({"text": pa.string(), "source": pa.string(), "score": pa.float32()})
)
_SCORE = "captions.list.element.score"
_ROWS = 2**16  # At a time.
# By what the scores are: the least and the largest.
_RANGES = {"match": (0.0, 1.0), "cosine": (-1.0, 1.0)}
_USUAL = 0.5  # Of a match.


class Folder(embedded.Whole):
  """All parts of a folder, of one captioner and one filter; see Whole.

  Raises:
    UserError: also for a folder of another command.
  """

  def __init__(self, path: Path, flag: str):
    super().__init__(path, flag, "caption")
    if "captioner" not in self.about["made"]:
      allowed = "a folder that caption has written"
      raise errors.UserError(flag, str(path), allowed, "Embed has this one.")

  def threshold(self, value: float | None, flag: str, where: str) -> float:
    """Returns the least score of captions, checked.

    Args:
      value: None for BLIP's.
      flag: its name in errors.
      where: the folder's name in errors.
    """
    by = self.about["made"]["by"]
    if by not in _RANGES:
      remedy = "Caption anew with a --filter, into another folder."
      allowed = "captions with scores"
      raise errors.UserError(where, str(self.path), allowed, remedy)
    low, high = _RANGES[by]
    allowed = f"a number from {low:g} to {high:g}, a {by}"
    if value is None and by != "match":
      raise errors.UserError(flag, None, allowed, "Look at the scores.")
    value = _USUAL if value is None else value
    if not low <= value <= high:
      raise errors.UserError(flag, value, allowed, "BLIP has 0.5.")
    return value

  def good(self, threshold: float) -> tuple[np.ndarray, int]:
    """Returns which records have a caption that scores so, and the bad ones.

    Args:
      threshold: the least score.

    Returns:
      the numbers of the records, int64, ascending; how many could not be read.
    """
    kept, first, lost = [], 0, 0

    def of(part: pq.ParquetFile) -> None:
      nonlocal first, lost
      for batch in part.iter_batches(_ROWS, columns=["bad", _SCORE]):
        lists = batch.column("captions")
        scores = lists.flatten().field("score")
        # A blank caption has no score: null becomes NaN, which is not kept.
        fine = np.asarray(scores.cast(pa.float64())) >= threshold
        places = np.asarray(lists.value_parent_indices())[fine]
        kept.append(first + np.unique(places).astype(np.int64))
        first += len(batch)
        lost += len(batch) - batch.column("bad").null_count

    for file in self.files:
      embedded.using(file, of)
    return np.concatenate(kept), lost

  def read(self, block: int) -> pa.Table:
    """Returns the captions of a block.

    Raises:
      BadRecord: if it can't be read.
    """
    return self.table(block, ["captions"])
