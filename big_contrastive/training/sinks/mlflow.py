"""MLflow, by its client: no state of the module is touched."""

import os
import time

import PIL.Image

from big_contrastive.config import errors
from big_contrastive.training import sinks

_URI = "MLFLOW_TRACKING_URI"


class Sink(sinks.Sink):
  """Logs to a run of an MLflow experiment.

  See config/fields/watching.py for the arguments.
  """

  def __init__(
    self,
    experiment: str = "big_contrastive",
    run: str | None = None,
    uri: str | None = None,
  ):
    self._mlflow = sinks.library("mlflow", "mlflow")
    self._experiment, self._name = experiment, run
    where = uri or os.environ.get(_URI)
    allowed = "the address of a server or a store that MLflow can open"
    if not where:
      raise errors.UserError("uri", None, allowed, f"Or set {_URI}.")
    try:
      self._client = self._mlflow.MlflowClient(where)
    except Exception as e:  # Each store raises its own.
      raise errors.UserError("uri", where, allowed, f"It says: {e}") from e

  def begin(self, start: sinks.Start) -> str:
    self._id = start.id or self._new(start)
    return self._id

  def _new(self, start: sinks.Start) -> str:
    known = self._client.get_experiment_by_name(self._experiment)
    experiment = (
      known.experiment_id
      if known
      else self._client.create_experiment(self._experiment)
    )
    name = self._name or start.name
    run = self._client.create_run(experiment, run_name=name).info.run_id
    self._client.log_dict(run, start.config, "config.json")
    return run

  def write(self, step: int, numbers: dict[str, float]) -> None:
    now, metric = int(1000 * time.time()), self._mlflow.entities.Metric
    rows = [metric(name, x, now, step) for name, x in numbers.items()]
    self._client.log_batch(self._id, metrics=rows)

  def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
    self._client.log_image(self._id, image, key=name, step=step)

  def close(self) -> None:
    self._client.set_terminated(self._id)
