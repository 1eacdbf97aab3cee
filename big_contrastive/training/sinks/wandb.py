"""Weights & Biases."""

import os

import PIL.Image

from big_contrastive.config import errors
from big_contrastive.training import sinks

_PATIENCE = 5  # Seconds for the last lines, when a run ends.
_BEGIN = 15  # Seconds to begin in; Python can't end before.


class Sink(sinks.Sink):
  """Logs to a run of wandb; offline, to the workdir's folder wandb/.

  See config/fields/watching.py for the arguments.
  """

  def __init__(
    self,
    project: str | None = None,
    entity: str | None = None,
    run: str | None = None,
    tags: list | None = None,
    mode: str | None = None,
  ):
    self._wandb = sinks.library("wandb", "wandb")
    self._given = {"project": project, "entity": entity, "tags": tags}
    self._name, self._mode = run, mode
    if mode is not None:
      errors.choice("mode", mode, ("online", "offline"))
    used = mode or os.environ.get("WANDB_MODE", "online")
    # Or else it would ask in the middle of the run.
    if used == "online" and not self._wandb.login(prompt=False):
      allowed = "an account: WANDB_API_KEY, or what wandb login stores"
      remedy = "Or set config.sinks.wandb.mode = 'offline'."
      raise errors.UserError("mode", used, allowed, remedy)

  def begin(self, start: sinks.Start) -> str:
    settings = self._wandb.Settings(
      console="off", silent=True, init_timeout=_BEGIN, finish_timeout=_PATIENCE
    )
    self._run = self._wandb.init(
      **self._given,
      name=self._name or start.name,
      mode=self._mode,
      id=start.id,
      reinit="create_new",  # Another one may be at work.
      resume="allow",
      config=start.config,
      dir=str(start.workdir),
      settings=settings,
    )
    return self._run.id

  def write(self, step: int, numbers: dict[str, float]) -> None:
    self._run.log(numbers, step=step)

  def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
    self._run.log({name: self._wandb.Image(image)}, step=step)

  def close(self) -> None:
    self._run.finish()
