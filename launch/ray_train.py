"""Trains by Ray Train's JaxTrainer, whose workers are the processes.

  python launch/ray_train.py --workers 4 --gpus 8 \\
    --config siglip:data=... --workdir gs://my-bucket/siglip

On TPUs, --topology 4x4 --accelerator TPU-V6E with a worker a host; with neither
these nor --gpus, workers train on CPUs. All else goes to big_contrastive.train.
A worker that dies is started again, up to --restarts times, and resumes; a
wrong input is not tried again. Needs pip install -e '.[ray]'.
"""

import argparse
import sys

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.train.v2.jax import JaxConfig, JaxTrainer


def train(config: dict) -> None:
  """Runs on each worker, once Ray has joined them."""
  from big_contrastive import train

  sys.argv = ["train", "--distributed", *config["flags"]]
  train.run()


def trainer(flags: argparse.Namespace, rest: list[str]) -> JaxTrainer:
  """Returns what trains; `fit` starts it."""
  if flags.topology:
    platform, resources = "tpu", {"TPU": flags.chips}
  elif flags.gpus:
    platform, resources = "cuda", {"GPU": flags.gpus}
  else:
    platform, resources = "cpu", {"CPU": 1}
  tpu = platform == "tpu"
  return JaxTrainer(
    train,
    train_loop_config={"flags": rest},
    # Of CPUs, Ray joins the workers only if it takes them for GPUs.
    jax_config=JaxConfig(use_tpu=tpu, use_gpu=not tpu),
    scaling_config=ScalingConfig(
      num_workers=flags.workers,
      use_tpu=tpu,
      use_gpu=platform == "cuda",
      resources_per_worker=resources,
      topology=flags.topology,
      accelerator_type=flags.accelerator,
    ),
    run_config=RunConfig(
      failure_config=FailureConfig(max_failures=0),
      worker_runtime_env={"env_vars": {"JAX_PLATFORMS": platform}},
    ),
  )


def main() -> None:
  """Trains, again after a failure that may have been a machine's."""
  parser = argparse.ArgumentParser(
    description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--gpus", type=int, default=0, help="of a worker")
  parser.add_argument("--topology", help="of a TPU slice: 4x4")
  parser.add_argument("--accelerator", help="of Ray: TPU-V6E, H100")
  parser.add_argument("--chips", type=int, default=4, help="of a TPU host")
  parser.add_argument("--restarts", type=int, default=100)
  flags, rest = parser.parse_known_args()
  ray.init(ignore_reinit_error=True)
  for again in range(flags.restarts + 1):
    try:
      trainer(flags, rest).fit()
      return
    except WorkerGroupError as e:
      if "UserError: " in str(e):
        wrong = str(e).rpartition("UserError: ")[2].splitlines()[0]
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(2)
      if again == flags.restarts:
        raise
      print(f"starting again ({again + 1} of at most {flags.restarts})")


if __name__ == "__main__":
  main()
