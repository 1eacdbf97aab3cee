"""Ray as the engine, on two CPUs of this machine: the same bytes."""

import functools
import os
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from big_contrastive.config import errors
from big_contrastive.data.files import embedded as embedded_files
from big_contrastive.offline import ray_pool, tasks, worker
from big_contrastive.offline.embedding import Embedding, open_work
from big_contrastive.offline.map_batches import Embed

pytestmark = [pytest.mark.peers, pytest.mark.slow]

DATA = "shapes:split=heldout,train_size=512,size=32"


def tell(line):
  del line


def contents(folder):
  return [p.read_bytes() for p in embedded_files.parts(folder)]


class Dies(Embedding):
  """Ends its process at the second shard, once."""

  marker: str

  def __call__(self, task):
    if task.number == 1 and not os.path.exists(self.marker):
      pathlib.Path(self.marker).touch()
      os._exit(1)
    return super().__call__(task)


def dying(marker, **given):
  work = open_work(**given)
  work.__class__, work.marker = Dies, str(marker)
  return work


@pytest.mark.filterwarnings("ignore")  # Of Ray's own.
def test_an_actor_that_is_killed_costs_a_shard_and_no_byte_differs(
  ray, small, tmp_path
):
  given = dict(checkpoint=str(small), data=DATA, batch_size=2)
  expected, out = tmp_path / "expected", tmp_path / "out"
  expected.mkdir()
  out.mkdir()
  work = open_work(**given)
  worker.run_all(tasks.tasks(len(work.source), expected, 6), work, tell)
  shards = tasks.tasks(len(work.source), out, 6)
  make = functools.partial(dying, tmp_path / "died", **given)
  bad = ray_pool.run_all(shards, make, tell, 2, {"CPU": 1})
  assert (tmp_path / "died").exists() and not bad
  assert contents(out) == contents(expected) and len(shards) > 3
  # All is there: a second run does nothing.
  times = [p.stat().st_mtime_ns for p in embedded_files.parts(out)]
  ray_pool.run_all(shards, make, tell, 1, {"CPU": 1})
  assert times == [p.stat().st_mtime_ns for p in embedded_files.parts(out)]


@pytest.mark.filterwarnings("ignore")
def test_an_error_of_the_user_is_one(ray, small, tmp_path):
  make = functools.partial(open_work, checkpoint=str(small), data=DATA)
  shards = tasks.tasks(25, tmp_path, 6)
  worker.run(shards[0], make(dtype="float16"))
  with pytest.raises(errors.UserError, match="made with another dtype"):
    ray_pool.run_all(shards, make, tell, 1, {"CPU": 1})


@pytest.mark.filterwarnings("ignore")
def test_map_batches_adds_the_columns_of_embed(ray, small, loaded):
  from test_shuffle import png

  images = [png(20, 24, 30 * i) for i in range(5)]
  images[3] = b"no picture"
  texts = ["a", None, "b", "c", "d"]
  table = pa.table({"image": images, "text": texts, "uid": list(range(5))})
  found = (
    ray.data.from_arrow(table)
    .map_batches(
      Embed,
      fn_constructor_kwargs={
        "checkpoint": str(small), "text": "text", "batch_size": 8
      },
      batch_format="pyarrow", batch_size=2, concurrency=1,
    )
    .take_all()
  )  # fmt: skip
  rows = sorted(found, key=lambda row: row["uid"])
  assert [row["bad"] for row in rows] == [None, None, None, "image", None]
  expected = loaded.encode_image([images[i] for i in (0, 1, 2, 4)])
  kept = np.array([rows[i]["image_vector"] for i in (0, 1, 2, 4)])
  np.testing.assert_allclose(kept, expected, atol=1e-6)
  lengths = [len(row["text_vectors"]) for row in rows]
  assert lengths == [1, 0, 1, 0, 1]
  z = loaded.encode_text(["a", "b", "d"])
  ztxt = np.array([list(rows[i]["text_vectors"][0]) for i in (0, 2, 4)])
  np.testing.assert_allclose(ztxt, z, atol=1e-6)
