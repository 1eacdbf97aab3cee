"""Wrong inputs: one line, exit code 2, nothing compiled, nothing written."""

import pathlib

import jax
import numpy as np
import pytest

from big_contrastive import command, train

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
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
    f"{CONFIGS}/siglip.py:smoek", [], "'smoek'.*Did you mean 'smoke'"
  ),
  "argument of another type": (
    f"{CONFIGS}/siglip.py:res=big", [], "res='big'.*int"
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
    command.main(train.run)
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
  assert err.startswith("error: ") and "allowed is" in err
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
  from big_contrastive import experiment, loop

  small = command.load_config(SIGLIP, ["--config.total=2", "--config.evals={}"])
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
    and "img/cls = 'missing'" in err
    and not (tmp_path / "work").exists()
  )
