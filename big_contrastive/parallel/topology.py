"""TPU slices that are not here, as targets of libtpu's compiler."""

import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from big_contrastive.config import errors


def devices(topology: str, slices: int = 1) -> Sequence[jax.Device]:
  """Returns the devices of TPU slices, as targets of the compiler.

  Args:
    topology: of a slice, as libtpu names it: v5e:4x4.
    slices: how many of them are joined by the data center's network.

  Raises:
    UserError: if libtpu is missing, or does not know the slice.
  """
  errors.at_least("--slices", slices, 1)
  # Only libtpu's compiler is used; it must not look for a TPU host.
  jax.config.update("jax_platforms", "cpu")
  for variable, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):
    os.environ.setdefault(variable, value)
  try:
    description = topologies.get_topology_desc(
      platform="tpu", topology_name=topology, num_slices=slices
    )
  except Exception as e:  # libtpu's, of no common kind.
    first = next(iter(str(e).strip().splitlines()), type(e).__name__)
    raise errors.UserError(
      "--topology", topology,
      "a TPU slice that libtpu knows: v5e:4x4, v5p:4x4x4, v6e:16x16",
      "Without libtpu, run pip install 'jax[tpu]'. It says: "
      f"{first[:200].rstrip('.')}.",
    ) from e  # fmt: skip
  return description.devices
