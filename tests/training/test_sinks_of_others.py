"""wandb, trackio and MLflow without a network: each has every line once.

A run writes four steps, is killed, resumes from step 2 and ends at step 6.
"""

import json
import pathlib
import sqlite3

import PIL.Image
import pytest

from big_contrastive.factory import parts
from big_contrastive.training import delivery, metrics
from big_contrastive.training.sinks import Start

pytestmark = pytest.mark.peers

PICTURE = PIL.Image.new("RGB", (4, 4), "red")
LINES = {(step, 1.0 / step) for step in range(1, 7)}


def write(folder, name, section, begin, end):
  said = []
  sink = parts.sink(section, name, used=True)
  start = Start(folder, "mine", {"model": {"depth": 2}}, begin, None)
  to = delivery.Deliveries({name: sink}, start, said.append)
  writer = metrics.Writer(folder, begin, put=to.put)
  for step in range(begin + 1, end + 1):
    writer.write(step, {"train/loss": 1.0 / step})
  writer.write(end, {"eval/sheet": PICTURE})
  to.close(60)
  writer.close()
  assert said == [f"sink {name} goes on after step 4, which it has"] * (
    begin > 0
  )


def twice(folder, name, section):
  folder.mkdir(exist_ok=True)
  write(folder, name, section, 0, 4)
  write(folder, name, section, 2, 6)
  return json.loads((folder / delivery.FILE).read_text())[name]["id"]


def test_mlflow(tmp_path, monkeypatch):
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  uri = (tmp_path / "store").as_uri()
  run = twice(tmp_path / "w", "mlflow", {"uri": uri, "experiment": "x"})
  client = mlflow.MlflowClient(uri)
  found = client.get_run(run)
  assert found.info.run_name == "mine" and found.info.status == "FINISHED"
  rows = client.get_metric_history(run, "train/loss")
  assert len(rows) == 6 and {(m.step, m.value) for m in rows} == LINES
  (experiment,) = client.search_experiments(filter_string="name = 'x'")
  assert len(client.search_runs([experiment.experiment_id])) == 1
  assert [f.path for f in client.list_artifacts(run, "config.json")] == []
  assert {f.path for f in client.list_artifacts(run)} >= {"config.json"}
  assert client.list_artifacts(run, "images")


def test_trackio(tmp_path, monkeypatch):
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
  trackio = pytest.importorskip("trackio")
  assert pathlib.Path(trackio.utils.TRACKIO_DIR) == tmp_path / "store"
  run = twice(tmp_path / "w", "trackio", {"project": "x"})
  assert [r.name for r in trackio.Api().runs("x")] == [run]
  assert run.startswith("mine-")
  (file,) = (tmp_path / "store").glob("*.db")
  with sqlite3.connect(file) as db:
    rows = db.execute("select step, metrics from metrics").fetchall()
  rows = [(step, json.loads(text)) for step, text in rows]
  losses = [(s, r["train/loss"]) for s, r in rows if "train/loss" in r]
  assert len(losses) == 6 and set(losses) == LINES
  assert [s for s, r in rows if "eval/sheet" in r] == [4, 6]


def records(file):
  """The records of a .wandb file: LevelDB's log after 7 bytes."""
  from wandb.proto import wandb_internal_pb2

  data, at, parts_ = file.read_bytes(), 7, []
  while at + 7 <= len(data):
    if 2**15 - at % 2**15 < 7:
      at += 2**15 - at % 2**15  # A block's last bytes are empty.
      continue
    size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
    parts_.append(data[at + 7 : at + 7 + size])
    at += 7 + size
    if kind in (1, 4):  # Whole, or the last piece.
      yield wandb_internal_pb2.Record.FromString(b"".join(parts_))
      parts_ = []


def test_wandb(tmp_path, monkeypatch):
  pytest.importorskip("wandb")
  section = {"project": "x", "mode": "offline", "tags": ["a"]}
  run = twice(tmp_path / "w", "wandb", section)
  files = sorted((tmp_path / "w" / "wandb").glob(f"offline-run-*/*{run}.wandb"))
  assert len(files) in (1, 2)  # Both in one second, or not.
  found = [record for file in files for record in records(file)]
  begun = [r.run for r in found if r.HasField("run")]
  assert {(r.run_id, r.project, r.display_name) for r in begun} == {
    (run, "x", "mine")
  }
  rows = []
  for record in found:
    if record.HasField("history"):
      items = record.history.item
      keys = [i.key or "/".join(i.nested_key) for i in items]
      values = [json.loads(i.value_json) for i in items]
      rows.append(dict(zip(keys, values, strict=True)))
  losses = [(r["_step"], r["train/loss"]) for r in rows if "train/loss" in r]
  assert len(losses) == 6 and set(losses) == LINES
  sheets = [r["_step"] for r in rows if "eval/sheet/path" in r]
  assert sheets == [4, 6], rows
