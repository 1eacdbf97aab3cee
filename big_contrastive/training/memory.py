"""Memory in use: of the devices, and of this process."""

import os
import pathlib

import jax

_STATM = pathlib.Path("/proc/self/statm")


def used() -> dict[str, float]:
  """Returns perf/..._gib: of this process's fullest device, and of the host.

  CPUs have no memory of their own, and not every system has /proc: what can't
  be known is left out.
  """
  values = {}
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  for name, key in (
    ("perf/device_memory_gib", "bytes_in_use"),
    ("perf/device_memory_peak_gib", "peak_bytes_in_use"),
  ):
    if known := [s[key] for s in stats if key in s]:
      values[name] = max(known) / 2**30
  if _STATM.exists():
    pages = int(_STATM.read_text().split()[1])
    size = os.sysconf("SC_PAGE_SIZE")
    values["perf/host_memory_gib"] = pages * size / 2**30
  return values
