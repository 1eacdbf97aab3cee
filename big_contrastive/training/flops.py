"""Images a second, and how much of the hardware that is (MFU)."""

import time

import jax

# Dense bfloat16 FLOP/s of one device, as its maker states them.
PEAK_FLOPS = {
  "TPU v3": 123e12 / 2,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU7x": 2307e12 / 2,
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Returns a device's peak FLOP/s in bfloat16, None if it isn't known."""
  known = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
  return PEAK_FLOPS[max(known, key=len)] if known else None


class Speed:
  """Images a second and MFU since the last reading, pauses left out.

  Args:
    batch_size: images a step, over all devices.
    flops: model FLOPs of training on one pair, from TwoTower.flops.
  """

  def __init__(self, batch_size: int, flops: float):
    self._batch_size, self._flops = batch_size, flops
    self._peak = peak_flops(jax.devices()[0].device_kind)
    self._began, self._steps = time.monotonic(), 0

  def step(self) -> None:
    self._steps += 1

  def restart(self) -> None:
    """Forgets what came before: after a compilation or a pause."""
    self._began, self._steps = time.monotonic(), 0

  def read(self) -> dict[str, float]:
    """Returns perf/images_per_s and, where the peak is known, perf/mfu."""
    seconds = time.monotonic() - self._began
    if not self._steps or not seconds:
      return {}
    rate = self._steps * self._batch_size / seconds
    self.restart()
    values = {"perf/images_per_s": rate}
    if self._peak:
      peak = self._peak * jax.device_count()
      values["perf/mfu"] = rate * self._flops / peak
    return values
