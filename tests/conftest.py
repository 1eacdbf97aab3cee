"""Eight virtual CPU devices, strict shapes, one temporary home per session."""

import collections
import gc
import os
import sys
from importlib import metadata

# Before jax starts, for this process and for those that tests start.
_ENVIRONMENT = {
  # jax 0.9.2-0.10.2 hangs over several virtual devices on few cores when its
  # thread pool is smaller than twice their number.
  "PJRT_NPROC": "16",
  "JAX_PLATFORMS": "cpu",
  # Compiling is most of the time of the tests.
  "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
  # Only with a bound is the cache locked, and fit for several processes.
  "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**34),
}
if metadata.version("jaxlib").startswith("0.10."):
  # Saves another third; later versions have no such choice.
  # And one part to compile in place of 32 a tenth: there are as many workers
  # as cores.
  _ENVIRONMENT["XLA_FLAGS"] = (
    "--xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
  )
for _name, _value in _ENVIRONMENT.items():
  os.environ.setdefault(_name, _value)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Tracing makes millions of objects, few of them garbage: looking for it as
# often as usual takes a tenth of the tests' time.
gc.set_threshold(100_000, 20, 20)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes in signatures are checked in tests only.
_hook = jaxtyping.install_import_hook(
  [
    "big_contrastive.losses",
    "big_contrastive.models.cudnn",
    "big_contrastive.models.image",
    "big_contrastive.models.text",
    "big_contrastive.models.heads",
    "big_contrastive.models.layers",
    "big_contrastive.models.model",
    "big_contrastive.models.naflex",
    "big_contrastive.models.norms",
    "big_contrastive.models.pooling",
  ],
  "beartype.beartype",
)


def pytest_addoption(parser):
  parser.addoption(
    "--refresh-golden",
    action="store_true",
    help="write tests/golden anew instead of comparing with it",
  )


@pytest.fixture
def golden(request):
  """Compares with what is kept in tests/golden, or writes it anew."""
  import golden_files

  return golden_files.Golden(request.config.getoption("--refresh-golden"))


def pytest_collection_modifyitems(items):
  """The longest files first: a worker that begins one last works alone."""
  slow = collections.Counter(
    item.path for item in items if item.get_closest_marker("slow")
  )
  # Processes are started and killed there: longer than their number tells.
  slow.update({p: 1000 for p in slow if p.stem == "test_kill"})
  items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  """A test without its library fails unless `make test-peers` will run it."""
  report = yield
  unmarked = report.skipped and not item.get_closest_marker("peers")
  if unmarked and "could not import" in str(report.longrepr):
    report.outcome = "failed"
    report.longrepr = f"{report.longrepr[-1]}: mark it pytest.mark.peers"
  return report


@pytest.fixture
def mesh():
  """mesh(4) or mesh(2, 2): a mesh data x fsdp x tensor on CPU devices."""
  from big_contrastive.parallel import sharding

  def make(data: int, fsdp: int = 1, tensor: int = 1):
    devices = jax.devices()[: data * fsdp * tensor]
    return sharding.make_mesh(fsdp=fsdp, tensor=tensor, devices=devices)

  return make


@pytest.fixture
def one_device(monkeypatch):
  """For what is not about devices: a step on eight takes twice the time."""
  one = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda: one)


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request, tmp_path_factory):
  """The URL of an empty bucket, of a server that runs while a module does."""
  import buckets

  from big_contrastive.data.files import tar_index
  from big_contrastive.storage import paths

  cache = str(tmp_path_factory.mktemp("cache"))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(paths, "_CACHE", cache)
    patch.setattr(tar_index, "_CACHE", cache)
    with buckets.served(request.param, patch) as server:
      yield server.url


@pytest.fixture(scope="module", autouse=True)
def _room():
  """Drops what has been compiled before Linux ends the process for it.

  Each program takes mappings of memory. A process may have 65,530 of them,
  and the next one is a segmentation fault.
  """
  yield
  with open("/proc/self/maps") as maps:
    if sum(1 for _ in maps) > 30_000:
      jax.clear_caches()
      gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory):
  """One data set, and what has been compiled, for all workers of a session.

  BIG_CONTRASTIVE_COMPILED is where the latter lies for several sessions. What
  tests start, and kill while it writes, has a place of its own.
  """
  home = tmp_path_factory.getbasetemp()
  if os.environ.get("PYTEST_XDIST_WORKER"):
    home = home.parent
  os.environ.setdefault("BIG_CONTRASTIVE_DATA", str(home / "data"))
  compiled = os.environ.get("BIG_CONTRASTIVE_COMPILED", str(home / "compiled"))
  jax.config.update("jax_compilation_cache_dir", compiled)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{compiled}-by-others"


@pytest.fixture(scope="session")
def small(tmp_path_factory):
  """A checkpoint of a small model, far from its initial values: its path."""
  import test_convert

  from big_contrastive.interop import model_files

  path = tmp_path_factory.mktemp("small") / "model"
  model_files.write(test_convert.model(), path, "checkpoint")
  return path


@pytest.fixture(scope="session")
def loaded(small):
  """The same model, loaded once: what it compiles is compiled once."""
  import big_contrastive

  return big_contrastive.load(small)


@pytest.fixture(scope="module")
def ray():
  """Ray on two CPUs of this machine."""
  module = pytest.importorskip("ray")
  # What is pickled there is found here by its name.
  env = {"PYTHONPATH": os.pathsep.join(sys.path)}
  module.init(
    num_cpus=2,
    include_dashboard=False,
    log_to_driver=False,
    runtime_env={"env_vars": env},
  )
  yield module
  module.shutdown()
