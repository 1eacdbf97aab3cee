"""Images per second, and model FLOPs utilization (MFU)."""

import time

import jax

# Dense bfloat16 FLOP/s of one device, as its vendor states them.
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
  """Returns a device's peak FLOP/s in bfloat16, None if unknown."""
  names = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
  return PEAK_FLOPS[max(names, key=len)] if names else None


class Speed:
  """Images per second and MFU since the last reading, without pauses.

  Args:
    batch_size: images per step, over all devices.
    flops: model FLOPs of training on one example, from Objective.flops; may
      be set where they change.
  """

  def __init__(self, batch_size: int, flops: float):
    self._batch_size, self.flops = batch_size, flops
    self._peak = peak_flops(jax.devices()[0].device_kind)
    self._began, self._steps = time.monotonic(), 0

  def step(self) -> None:
    self._steps += 1

  def restart(self) -> None:
    """Starts a new reading, after a compilation or a pause."""
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
      values["perf/mfu"] = rate * self.flops / peak
    return values
