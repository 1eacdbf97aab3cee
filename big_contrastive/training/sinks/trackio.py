"""Trackio: wandb's calls, to a database of this machine or a Space."""

import uuid

import PIL.Image

from big_contrastive.training import sinks


class Sink(sinks.Sink):
  """Logs to a run of trackio.

  See config/fields/watching.py for the arguments.
  """

  def __init__(
    self, project: str, run: str | None = None, space_id: str | None = None
  ):
    self._trackio = sinks.library("trackio", "trackio")
    self._project, self._name, self._space = project, run, space_id

  def begin(self, start: sinks.Start) -> str:
    # It finds a run by its name alone, which another workdir may share.
    new = f"{self._name or start.name}-{uuid.uuid4().hex[:6]}"
    self._run = self._trackio.init(
      project=self._project,
      name=start.id or new,
      space_id=self._space,
      config=start.config,
      resume="allow",
      embed=False,
      auto_log_cpu=False,
      auto_log_gpu=False,
    )
    return self._run.name

  def write(self, step: int, numbers: dict[str, float]) -> None:
    self._run.log(numbers, step=step)

  def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
    self._run.log({name: self._trackio.Image(image)}, step=step)

  def close(self) -> None:
    self._run.finish()
