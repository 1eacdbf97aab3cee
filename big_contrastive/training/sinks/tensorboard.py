"""TensorBoard's event files, in the workdir."""

import numpy as np
import PIL.Image
import tensorboardX

from big_contrastive.training import sinks


class Sink(sinks.Sink):
  """Writes the workdir's folder tensorboard/."""

  rewinds = True

  def begin(self, start: sinks.Start) -> None:
    self._board = tensorboardX.SummaryWriter(
      str(start.workdir / "tensorboard"),
      purge_step=start.step + 1 if start.step else None,
    )

  def write(self, step: int, numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
      self._board.add_scalar(name, number, step)

  def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
    self._board.add_image(name, np.asarray(image), step, dataformats="HWC")

  def close(self) -> None:
    self._board.close()
