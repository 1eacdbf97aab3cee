"""Wrong inputs: one line, exit code 2, nothing compiled, nothing written."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mutate
from big_contrastive import train
from big_contrastive.config import errors, files, schema
from big_contrastive.factory import cli, experiment

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
compilations: list[str] = []


def _count(event: str, duration: float, **kwargs) -> None:
  if event == "/jax/core/compile/backend_compile_duration":
    compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(_count)

SIGLIP = f"{CONFIGS}/siglip.py:smoke"
LIT = f"{CONFIGS}/lit.py:smoke"
OWN = f"{CONFIGS}/own_data.py:smoke,images=photos,captions="

# (--config, other flags, what the line must say)
WRONG = {
  "no such config": (f"{CONFIGS}/siglop.py", [], "siglop.py"),
  "unknown argument": (
    f"{CONFIGS}/siglip.py:smoek", [],
    "argument of .*siglip.py = 'smoek'; .*Did you mean 'smoke'"
  ),
  "argument of another type": (
    f"{CONFIGS}/siglip.py:res=big", [],
    "res of .*siglip.py = 'big'; expected an integer from 1. The default is 224"
  ),
  "argument that is too small": (
    f"{CONFIGS}/own_data.py:data=x,batch=0", [],
    "batch of .*own_data.py = '0'; expected an integer from 1"
  ),
  "flag that is neither true nor false": (
    f"{CONFIGS}/siglip.py:smoke=yes", [], "smoke of .* = 'yes'; .*true or false"
  ),
  "data beside images": (
    f"{CONFIGS}/own_data.py:data=wds:x.tar,images=photos", [],
    "data of .* = 'wds:x.tar'; expected data or images"
  ),
  "neither data nor images": (
    f"{CONFIGS}/own_data.py:smoke", [], "images of .*own_data.py is missing"
  ),
  "images without captions": (
    f"{CONFIGS}/own_data.py:images=photos", [], "captions of .* is missing"
  ),
  "misspelt field": (
    SIGLIP, ["--config.batchsize=32"], "config.batchsize.*'batch_size'"
  ),
  "misspelt field inside": (
    SIGLIP, ["--config.model.image.pol=gap"], "config.model.image.pol.*'pool'"
  ),
  "wrong type": (
    SIGLIP, ["--config.batch_size=many"], "config.batch_size = 'many'.*int"
  ),
  "batch that does not divide": (
    SIGLIP, ["--config.batch_size=30"], "config.batch_size = 30.*nearest is 32"
  ),
  "micro-batch that does not divide": (
    SIGLIP, ["--config.micro_batch=6"], "config.micro_batch = 6.*divisor of"
  ),
  "micro-batch of no tower": (
    SIGLIP, ["--config.micro_batch.img=8"], "micro_batch.img.*'image'"
  ),
  "empty tile": (
    SIGLIP, ["--config.objective.tile=0"], "config.objective.tile = 0"
  ),
  "unknown loss": (
    SIGLIP, ["--config.objective.loss=sigmoyd"], "Did you mean 'sigmoid'"
  ),
  "unknown objective": (
    SIGLIP, ["--config.objective.name=pair"], "Did you mean 'pairs'"
  ),
  "unknown source": (
    SIGLIP, ["--config.source.name=shape"], "Did you mean 'shapes'"
  ),
  "unknown split": (
    SIGLIP, ["--config.source.split=trian"], "'trian'.*Did you mean 'train'"
  ),
  "unknown optimizer": (
    SIGLIP, ["--config.optimizer.name=adam"], "config.optimizer.name = 'adam'"
  ),
  "optimizer without a rate": (
    SIGLIP, ["--config.optimizer.lr=None"], "config.optimizer.lr"
  ),
  "duration without a unit": (
    SIGLIP, ["--config.total='10 hours'"], "config.total = '10 hours'"
  ),
  "warm-up longer than the run": (
    SIGLIP, ["--config.schedule.warmup=100"], "config.schedule.warmup = 100"
  ),
  "dead rule": (
    SIGLIP,
    ["--config.freeze=[('image/.*', True), ('.*', False)]"],
    "config.freeze.*image",
  ),
  "everything frozen": (
    SIGLIP, ["--config.freeze=[('.*', True)]"], "config.freeze"
  ),
  "unknown placement": (
    SIGLIP, ["--config.shard=[('.*', 'fdsp')]"], "config.shard = 'fdsp'"
  ),
  "mesh that does not divide": (
    SIGLIP, ["--config.mesh.fsdp=3"], "config.mesh.fsdp = 3"
  ),
  "unknown preprocessing": (
    SIGLIP, ["--config.train_image=[('resise', {'size': 32})]"], "'resize'"
  ),
  "preprocessing of another size": (
    SIGLIP, ["--config.eval_image=[('resize', {'size': 48})]"],
    "config.eval_image.*48.*32",
  ),
  "random preprocessing in evaluation": (
    SIGLIP,
    ["--config.eval_image=[('resize', {'size': 32}), ('flip_lr', {})]"],
    "config.eval_image",
  ),
  "resolution that the patch does not divide": (
    SIGLIP, ["--config.model.image.res=30"], "config.model.image.res = 30"
  ),
  "unknown size": (
    SIGLIP, ["--config.model.image.variant=XL/8"], "'XL'"
  ),
  "towers of different width": (
    SIGLIP, ["--config.model.text.out_dim=64"], "config.model.text.out_dim = 64"
  ),
  "softmax with a bias": (
    SIGLIP, ["--config.objective.loss=softmax"], "config.model.bias"
  ),
  "what the code itself passes": (
    SIGLIP, ["--config.loading.batch_size=8"], "config.loading.batch_size"
  ),
  "a tower's own dtype": (
    SIGLIP, ["--config.model.image.dtype=bfloat16"], "config.model.image.dtype"
  ),
  "a schedule's own peak": (
    SIGLIP, ["--config.schedule.peak=5.0"], "config.schedule.peak = 5.0"
  ),
  "clip that turns gradients round": (
    SIGLIP, ["--config.optimizer.clip=-1.0"], "optimizer.clip = -1.0.*above 0"
  ),
  "decay that grows": (
    SIGLIP, ["--config.optimizer.weight_decay=-1.0"], "weight_decay = -1.0"
  ),
  "moment that never forgets": (
    SIGLIP, ["--config.optimizer.b2=1.0"], "config.optimizer.b2 = 1.0.*below 1"
  ),
  "rule for adaptation without LARS": (
    SIGLIP, ["--config.adapt=[('.*', True)]"], "config.adapt = .*with.* adamw"
  ),
  "schedule of its own, misspelt": (
    SIGLIP, ["--config.schedules=[('.*', {'decay': 'cosin'})]"],
    r"config.schedules\[0\].decay = 'cosin'.*'cosine'"
  ),
  "factor that is no number": (
    SIGLIP, ["--config.lr_mult=[('.*','a')]"], "config.lr_mult = 'a'"
  ),
  "last rate above the highest": (
    SIGLIP, ["--config.schedule.end=1.5"], "config.schedule.end = 1.5"
  ),
  "duration without a number": (
    SIGLIP, ["--config.total='_ steps'"], "config.total = '_ steps'"
  ),
  "filter that is no section": (
    SIGLIP, ["--config.source.filter=5"], "config.source.filter = 5"
  ),
  "part of a mixture that is no source": (
    SIGLIP, ["--config.source={'mixture':[1]}"], r"mixture\[0\] = 1"
  ),
  "unknown remat policy": (
    SIGLIP, ["--config.model.remat=all"], "config.model.remat = 'all'"
  ),
  "unknown tokenizer": (
    SIGLIP, ["--config.tokenizer.kind=gpt2"], "config.tokenizer.kind = 'gpt2'"
  ),
  "missing tokenizer file": (
    SIGLIP,
    ["--config.tokenizer={'kind': 'bert', 'path': 'no.txt', 'length': 16}"],
    "config.tokenizer.path = 'no.txt'",
  ),
  "unknown evaluator": (
    SIGLIP, ["--config.evals.shapes.task=retreival"], "'retrieval'"
  ),
  "evaluator's unknown argument": (
    SIGLIP, ["--config.evals.shapes.k=5"], "config.evals.shapes.k"
  ),
  "missing weights": (
    LIT, ["--config.init.img=nowhere"], "config.init.img = 'nowhere'"
  ),
  "missing .npz": (
    LIT, ["--config.init.img=no.npz"], "no.npz"
  ),
  "masking a frozen tower": (
    LIT, ["--config.model.image.keep=0.5"], "config.model.image.keep = 0.5"
  ),
  "missing table": (OWN + "nowhere.tsv", [], "nowhere.tsv"),
  "not a flag": (SIGLIP, ["--batch_size=3"], "--batch_size=3"),
}  # fmt: skip


def run(monkeypatch, capsys, config, flags, workdir):
  """Returns exit code and standard error of the training command."""
  argv = ["train", "--config", config, "--workdir", str(workdir), *flags]
  monkeypatch.setattr("sys.argv", argv)
  with pytest.raises(SystemExit) as e:
    cli.main(train.run)
  return e.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_one_line_and_leaves_nothing(
  name, monkeypatch, capsys, tmp_path
):
  config, flags, said = WRONG[name]
  compilations.clear()
  code, err = run(monkeypatch, capsys, config, flags, tmp_path / "work")
  assert code == 2
  assert len(err.strip().splitlines()) == 1, err
  assert err.startswith("error: ") and "; expected " in err
  assert __import__("re").search(said, err), err
  assert not compilations
  assert not (tmp_path / "work").exists()


def test_a_table_without_the_column_is_named(monkeypatch, capsys, tmp_path):
  (tmp_path / "photos").mkdir()
  table = tmp_path / "t.tsv"
  table.write_text("image\ttitle\na.png\ta cat\n")
  config = (
    f"{CONFIGS}/own_data.py:smoke,images={tmp_path}/photos,captions={table}"
  )
  code, err = run(monkeypatch, capsys, config, [], tmp_path / "work")
  assert code == 2 and "'caption'" in err and "title" in err
  assert not (tmp_path / "work").exists()


def test_a_checkpoint_of_another_shape_is_named(monkeypatch, capsys, tmp_path):
  from big_contrastive.training import loop

  small = files.load_config(SIGLIP, ["--config.total=2", "--config.evals={}"])
  loop.fit(experiment.build(small), tmp_path / "work")
  flags = ["--config.model.image.depth=3", "--config.evals={}"]
  code, err = run(monkeypatch, capsys, SIGLIP, flags, tmp_path / "work")
  assert code == 2 and "img/encoder/blocks" in err and "another workdir" in err
  flags = ["--config.seed=3", "--config.evals={}"]
  code, err = run(monkeypatch, capsys, SIGLIP, flags, tmp_path / "work")
  assert code == 2 and "config.seed = 3" in err


def test_weights_of_another_shape_are_named(monkeypatch, capsys, tmp_path):
  file = tmp_path / "vit.npz"
  np.savez(file, **{"embedding/kernel": np.zeros((8, 8, 3, 768), np.float32)})
  config = f"{LIT},init={file}"
  code, err = run(monkeypatch, capsys, config, [], tmp_path / "work")
  assert (
    code == 2
    and "img/pos_embedding" in err
    and "'missing'" in err
    and not (tmp_path / "work").exists()
  )


def sweep():
  """Every field of a config: misspelt, and of a type that no field has."""
  optional = {
    "micro_batch": None, "mesh": {"fsdp": 1, "tensor": 1}, "init": {},
    "seed": 0, "keep": 2, "keep_every": 0, "save_minutes": 30.0,
    "eval_every": 0, "skip_nonfinite": False, "freeze": [[".*", False]],
    "lr_mult": [[".*", 1.0]], "decay": [[".*", 1.0]], "shard": [[".*", "fsdp"]],
    "adapt": None, "schedules": [[".*", None]], "start": [[".*", 0]],
    "sinks": {"tensorboard": {}}, "profile": {"first": 1, "steps": 2},
  }  # fmt: skip
  config = schema.plain(optional | files.load_config(SIGLIP, []))
  for i, path in enumerate(mutate.fields(config)):
    if path != ("evals", "shapes"):  # An evaluator's name is its user's.
      yield ".".join(path), "misspelt", mutate.misspelt(config, path)
    value = mutate.NEVER[i % len(mutate.NEVER)]
    yield ".".join(path), value, mutate.changed(config, path, value)


@pytest.mark.slow
def test_every_field_misspelt_or_of_another_type_is_a_users_error(
  tmp_path, monkeypatch
):
  """Nothing but a UserError, which names the field; nothing is written."""
  experiment.build(files.load_config(SIGLIP, []))  # Draws the data set.
  monkeypatch.chdir(tmp_path)
  compilations.clear()
  tried, wrong = 0, []
  for field, value, config in sweep():
    tried += 1
    try:
      experiment.build(config)
      wrong.append((field, value, "was taken"))
    except errors.UserError as e:
      section = field.split(".")[0]
      if f"config.{section}" not in str(e) and value != "misspelt":
        wrong.append((field, value, str(e)))
      if "\n" in str(e) or "; expected " not in str(e):
        wrong.append((field, value, str(e)))
    except Exception as e:
      wrong.append((field, value, f"{type(e).__name__}: {e}"))
  assert not wrong
  assert tried >= 100
  assert not compilations and not list(tmp_path.iterdir())


ODD = [
  ("batch_size", 0), ("batch_size", -16), ("batch_size", 16.0),
  ("batch_size", True), ("total", 0), ("total", "-3 steps"), ("total", []),
  ("total", float("nan")), ("log_every", 0), ("keep", 0), ("keep", -1),
  ("save_minutes", -1), ("save_minutes", float("nan")),
  ("save_every", "10 parsecs"), ("skip_nonfinite", "yes"),
  ("mesh.tensor", 0), ("mesh.fsdp", -1), ("optimizer.lr", float("nan")),
  ("optimizer.lr", float("inf")), ("optimizer.lr", True),
  ("optimizer.lr", "1e-3"), ("model.scale", 0), ("model.scale", float("inf")),
  ("model.text.out_dim", 0), ("model.text.out_dim", -1),
  ("model.image.width", 0), ("model.image.depth", -1),
  ("model.text.heads", 0), ("model.image.mlp", 0), ("model.image.res", 0),
  ("model.image.dropout", 1.0), ("model.text.dropout", -0.1),
  ("model.image.variant", "mu/0"), ("model.image.variant", ""),
  ("source.name", None), ("evals", []), ("evals", {"a": None}),
  ("evals", {"a": {"task": "retrieval", "source": None}}),
  ("freeze", [[".*"]]), ("freeze", [["(", True]]), ("decay", []),
  ("shard", [[".*", ["data"]]]), ("schedule.warmup", "200%"),
  ("adapt", [[".*", True]]), ("schedules", []), ("schedules", [[".*", []]]),
  ("start", []), ("start", [[".*", "0.5"]]), ("start", [[".*", -1]]),
  ("start", [["img/x", 3], [".*", 0]]), ("start", [[".*", 8]]),
  ("schedule.every", 0), ("schedule.milestones", ["1 epoch"]),
  ("tokenizer.length", 0), ("objective.loss", "../secret"),
  ("objective.name", ""), ("train_image", []), ("train_image", [None]),
  ("eval_image", [["resize", {"size": -1}]]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), ODD)
def test_an_odd_value_is_a_users_error_that_names_its_field(field, value):
  path = tuple(field.split("."))
  config = files.load_config(SIGLIP, [])
  config = mutate.changed({"mesh": {}} | config, path, value)
  with pytest.raises(errors.UserError, match="config") as e:
    experiment.build(config)
  assert f"config.{path[0]}" in str(e.value)


def test_a_step_that_a_device_has_no_memory_for_is_one_line(capsys):
  def run():
    jax.block_until_ready(jax.jit(lambda: jnp.zeros(2**44))())

  with pytest.raises(SystemExit) as end:
    cli.main(run)
  assert end.value.code == 2
  said = capsys.readouterr().err.strip()
  assert "\n" not in said and "Out of memory" in said
  assert "config.micro_batch" in said and "big_contrastive.plan" in said
