"""Counts in how many captions of a shard each synset is."""

import collections
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import pyarrow as pa

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.build import build_source
from big_contrastive.data.files import embedded, fields
from big_contrastive.data.labels import synsets, wordnet
from big_contrastive.offline.tasks import Task
from big_contrastive.storage import urls

_LABELS = -1  # In the column synset: a row of the histogram of labels.


class Counting:
  """The work of `synsets`: a table of (synset, captions that have it).

  In rows whose synset is -1, "labels" is how many a caption has.

  Args:
    data: the source.
    nouns: of WordNet.
    synonyms: which words are labels.
  """

  def __init__(
    self, data: str, nouns: wordnet.Nouns, synonyms: synsets.Synonyms
  ):
    self.source = build_source(data, "--data")
    self._labels = synsets.from_wordnet(nouns, synonyms)
    words = json.dumps(sorted(nouns.synset.items())).encode()
    self.made: dict[str, Any] = {
      "synonyms": synonyms,
      "wordnet": hashlib.blake2b(words, digest_size=16).hexdigest(),
    }

  def __call__(self, task: Task) -> tuple[pa.Table, dict[str, int]]:
    """Returns the rows of a part, and the number of bad records by kind."""
    bad: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    for captions in self._captions(task, bad):
      for caption in captions:
        found = self._labels(caption)
        counts.update((n, 0) for n in found)
        counts[_LABELS, len(found)] += 1
    rows = sorted((*key, count) for key, count in counts.items())
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    names = ("synset", "labels", "captions")
    return pa.table(dict(zip(names, map(pa.array, columns)))), dict(bad)

  def _captions(
    self, task: Task, bad: collections.Counter[str]
  ) -> Iterator[list[str]]:
    def read(index: int) -> list[str] | str:
      try:
        text = self.source[index].get("text", ())
        return fields.caption([text] if isinstance(text, str) else list(text))
      except (OSError, ValueError, SyntaxError) as e:
        return bad_records.kind(e)

    with futures.ThreadPoolExecutor(8) as pool:
      for found in pool.map(read, range(task.start, task.stop)):
        if isinstance(found, str):
          bad[found] += 1
        else:
          yield found


def total(
  shards: Sequence[Task], made: dict[str, Any], thing: str
) -> tuple[dict[int, int], dict[int, int]]:
  """Returns the counts of all parts: by synset, and by labels a caption.

  Args:
    shards: all of them.
    made: that of the work.
    thing: the argument that names the folder, for errors.

  Raises:
    UserError: if a part is missing, or another work made it.
  """
  counts: collections.Counter[int] = collections.Counter()
  labels: collections.Counter[int] = collections.Counter()
  for task in shards:
    with urls.reached(thing, str(task.path)):
      if not task.path.exists():
        remedy = "Give the same command, also to the other workers."
        raise errors.UserError(str(task.path), "missing", "all parts", remedy)
    table, note = embedded.using(
      task.path, lambda p: (p.read(), embedded.note(p.schema_arrow))
    )
    if note.get("made") != made:
      remedy = "Choose another folder."
      allowed = "a part of the same work"
      raise errors.UserError(str(task.path), "another", allowed, remedy)
    rows = zip(*(table[k].to_pylist() for k in table.column_names))
    for synset, number, captions in rows:
      which, key = (labels, number) if synset == _LABELS else (counts, synset)
      which[key] += captions
  return dict(counts), dict(labels)
