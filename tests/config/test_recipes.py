"""Where a recipe's pairs come from: data= and eval_data=, in each of them."""

import ast
import importlib
import pathlib

import jax
import pytest

import tiny
from big_contrastive.config import errors, files, registry, schema
from big_contrastive.data import spec
from big_contrastive.factory import experiment
from configs import parsing

RECIPES = ["siglip", "clip", "lit", "flip", "finetune"]
SOURCES = [*registry.names("data.sources"), "wds"]
TARS = "wds:shards/{000..127}.tar,caption=json:text,id=key"


def load(name, argument):
  return tiny.load(name, argument)


@pytest.mark.parametrize("name", RECIPES)
def test_a_tfds_name_is_still_one(name):
  for data in ("my_pairs", "coco/2014:1.1.0", "my_pairs:1.0.0", "/data/x"):
    config = load(name, f"data={data},eval_data={data}")
    tfds = {"name": "tfds", "dataset": data}
    assert config["source"] == tfds | {"split": "train"}
    (own,) = config["evals"].values()
    tfds["split"] = "validation"
    assert own == {"task": "retrieval", "source": tfds}
  assert load(name, "res=224")["source"]["dataset"] == "pairs"
  assert "evals" not in load(name, "res=224")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("source", SOURCES)
def test_any_source_is_taken_with_its_arguments(name, source):
  """All that is no argument of the recipe's own goes to the source."""
  given = f"{source}:some/where,caption=json:text,id=key,split=a,x=1"
  other = f"{source}:val.tar,b.tar,label=cls"
  config = load(name, f"res=32,data={given},eval_data={other}")
  assert config["source"] == given
  (own,) = config["evals"].values()
  assert own == {"task": "retrieval", "source": other}
  assert config["eval_every"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_own_arguments_end_a_source(name):
  own = {"finetune": ("init", "there")}.get(name, ("vocab", "v.model"))
  config = load(name, f"data={TARS},{own[0]}={own[1]},res=32")
  assert config["source"] == TARS
  path = config["init"] if own[0] == "init" else config["tokenizer"]["path"]
  assert path == own[1]
  assert config["model"]["image"]["res"] == 32
  # As a shell gives it: nothing but the order differs.
  assert load(name, f"res=32,{own[0]}={own[1]},data={TARS}") == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_argument_but_the_recipes_is_a_sources(name):
  """So no source has an argument that a recipe takes away from it."""
  path = tiny.CONFIGS / f"{name}.py"
  calls = [
    node for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call)
    and ast.unparse(node.func) == "parsing.arguments"
  ]  # fmt: skip
  (call,) = calls
  taken = {keyword.arg for keyword in call.keywords}
  for source in registry.names("data.sources"):
    module = registry.module("data.sources", source, "")
    assert not taken & schema.hints(module.source).keys()


def test_what_a_source_does_not_take_is_named_with_a_near_one():
  config = load("siglip", f"data={TARS},vocba=c4.model,smoke")
  with pytest.raises(errors.UserError, match="config.source.vocba"):
    experiment.build(config)


@pytest.mark.parametrize(
  "argument",
  [
    "data=my_pairs,caption=txt",
    "caption=txt,data=wds:a.tar",
    "data=wds:a.tar,smoke,caption=txt",
    "data=wds:a.tar,vocab=v.model,caption=txt",
    "vocab=wds:a.tar,caption=txt",
    "data=wbs:a.tar,caption=txt",
  ],
)
def test_an_argument_far_from_its_source_is_an_error(argument):
  said = "argument of .*siglip.py = 'caption=txt'; expected one of variant, "
  with pytest.raises(errors.UserError, match=said):
    files.load_config(f"{tiny.CONFIGS}/siglip.py:{argument}", [])


def test_own_data_gives_its_arguments_to_both_and_others_to_one():
  config = load(
    "own_data",
    "data=wds:a.tar,b.tar,label=cls,eval_data=wds:c.tar,classes=n.txt,id=json:k",
  )
  assert config["source"] == "wds:a.tar,b.tar,label=cls,id=json:k"
  own = {"task": "retrieval", "source": "wds:c.tar,classes=n.txt,id=json:k"}
  assert config["evals"] == {"own": own}
  assert spec.parse(config["source"], "x") == {
    "name": "webdataset", "urls": "a.tar,b.tar", "label": "cls", "id": "json:k",
  }  # fmt: skip


def test_a_path_with_an_equals_sign_goes_on():
  config = load("own_data", "images=/a/day=1,/a/day=2,captions=t.tsv")
  assert config["source"]["images"] == "/a/day=1,/a/day=2"


@pytest.mark.parametrize("name", RECIPES)
def test_smoke_reads_the_data_that_are_given(name):
  config = load(name, f"data={TARS},smoke")
  assert config["source"] == TARS
  assert config["evals"]["shapes"]["source"]["name"] == "shapes"
  config = load(name, f"eval_data={TARS},smoke")
  assert config["source"]["name"] == "shapes"
  assert config["evals"] == {"own": {"task": "retrieval", "source": TARS}}


@pytest.mark.parametrize("name", tiny.METHODS)
def test_smoke_of_images_alone_reads_the_data_that_are_given(name):
  task = {"task": "knn", "k": 5}
  config = load(name, f"data={TARS},eval_data=folder:a,smoke")
  assert config["source"] == TARS
  assert config["evals"]["knn"] == task | {"source": "folder:a", "train": TARS}
  config = load(name, f"data={TARS},smoke")
  assert config["source"] == TARS
  assert config["evals"]["knn"]["source"]["name"] == "shapes"
  config = load(name, "eval_data=folder:a,smoke")
  assert config["source"]["name"] == "shapes"
  assert config["evals"]["knn"] == task | {"source": "folder:a"}


@pytest.mark.parametrize("name", tiny.METHODS)
def test_quick_is_the_method_for_a_cpu(name):
  recipe, quick = load(name, ""), load(name, f"quick,data={TARS}")
  assert quick["objective"]["name"] == recipe["objective"]["name"]
  assert quick["model"]["heads"].keys() == recipe["model"]["heads"].keys()
  assert quick["views"].keys() == recipe["views"].keys()
  assert quick["source"] == TARS and "evals" not in quick
  vits = {"mae": "vit"}
  image = quick["model"]["image"]
  inner = image.get("patch", image.get("each", image))
  tower = inner.get("tower", "vit")
  assert tower == vits.get(name, "convnet")
  # In seconds, too; and none of its own values is put aside.
  assert load(name, "quick,smoke")["total"] == "8 steps"
  assert load(name, "quick,batch=64,epochs=2")["total"] == "2 epochs"
  assert load(name, f"quick=true,data={TARS}") == quick
  with pytest.raises(errors.UserError, match=r"small or quick.*Drop one"):
    load(name, "quick,small")


@pytest.mark.parametrize(
  ("name", "argument"),
  [("cifar10", "method=byol"), ("moco", "small"), ("simclr", "small")],
)
def test_small_recipes_are_of_cifar10_and_vote_as_published(name, argument):
  config = load(name, argument)
  train = {"name": "tfds", "dataset": "cifar10", "split": "train"}
  votes = {"task": "knn", "k": 200, "T": 0.1}
  test = votes | {"source": train | {"split": "test"}, "train": train}
  assert config["source"] == train and config["evals"] == {"knn": test}
  # As they are: no margin is cropped away.
  assert config["eval_image"] == [("resize", {"size": 32})]
  own = load(name, f"{argument},data={TARS},eval_data=folder:a")
  assert own["evals"]["knn"] == votes | {"source": "folder:a", "train": TARS}
  assert "evals" not in load(name, f"{argument},data={TARS}")


@pytest.mark.parametrize("method", ["byol", "moco", "simclr", "simsiam"])
def test_lightlys_decay_of_a_step_is_the_same_in_each_method(method):
  """Whatever the scale of the loss: 5e-4 of its rate, 0.06 for 128."""
  for batch, scale in ((128, 1), (512, 1 if method == "simsiam" else 4)):
    config = load("cifar10", f"method={method},batch={batch}")
    optimizer = config["optimizer"]
    shrunk = optimizer["lr"] * optimizer["weight_decay"]
    assert shrunk == pytest.approx(scale * 0.06 * 5e-4)


def test_a_method_that_lightlys_benchmark_lacks_is_named():
  with pytest.raises(errors.UserError, match="'mocco'; expected one of simclr"):
    load("cifar10", "method=mocco")


@pytest.mark.parametrize("argument", ["smoke", "smoke,loss=softmax"])
def test_finetune_is_tried_without_weights(argument):
  config = load("finetune", argument)
  assert "init" not in config
  assert experiment.build(config).batch_size == 16


def test_finetune_trains_the_last_blocks_or_adapters():
  config = load("finetune", "smoke,unlock=1")
  config["model"]["image"]["depth"] = 3
  table = experiment.build(config, jax.devices()[:1]).table.splitlines()
  frozen = {row.split()[0]: row.split("  ")[-1].strip() for row in table[1:-1]}
  assert frozen["img/encoder/blocks/mlp/fc1/kernel"] == "2 of 3 layers"
  assert frozen["img/pos"] == frozen["img/embed/kernel"] == "True"
  assert frozen["img/encoder/norm/scale"] == frozen["txt/pos"] == "False"
  config = load("finetune", "smoke,lora=4")
  made = experiment.build(config, jax.devices()[:1])
  trained = made.placed.checked[3:]
  assert len(trained) == 2 * len(made.objective.adapters) + 2
  assert set(made.objective.adapters.values()) == {2.0}
  with pytest.raises(errors.UserError, match="unlock of .* = 1; .*beside lora"):
    load("finetune", "unlock=1,lora=4")


def test_recipes_are_found_where_the_package_is(tmp_path, monkeypatch):
  """Not by the folder of the config: a user's own lie elsewhere."""
  monkeypatch.chdir(tmp_path)
  path = pathlib.Path(tiny.CONFIGS).resolve() / "clip.py"
  assert files.load_config(f"{path}:data={TARS}", [])["source"] == TARS


# What a recipe needs, and what has an effect only beside another argument.
NEEDED = {"own_data": "images=a,captions=b,"}
IDLE = {
  ("capfilt", "threshold"), ("catlip", "classes"), ("finetune", "crop"),
  ("lit", "width"),
}  # fmt: skip


@pytest.mark.parametrize("flag", ["smoke", "quick"])
@pytest.mark.parametrize(
  "name", sorted({p.stem for p in tiny.CONFIGS.glob("*.py")} - tiny.SHARED)
)
def test_an_argument_changes_the_config_or_is_an_error(name, flag, monkeypatch):
  """Whoever asks for a size gets it, or is told that it has no effect."""
  recipe = importlib.import_module(f"configs.{name}")
  taken, arguments = {}, parsing.arguments

  def record(argument, *fixed, **defaults):
    if not taken:  # A recipe may ask another one.
      taken.update(defaults)
    return arguments(argument, *fixed, **defaults)

  with monkeypatch.context() as patch:
    patch.setattr(parsing, "arguments", record)
    first = NEEDED.get(name, "")
    recipe.get_config(f"{first}smoke")
  if flag not in taken:
    return
  before = recipe.get_config(first + flag)
  others = {"variant": "S/16", "tower": "S/16"}
  for key, default in taken.items():
    if isinstance(default, tuple):
      other = default[1]
    elif type(default) in (int, float):
      other = default * 3 + 1
    else:
      other = others.get(key)
    if other is None or (name, key) in IDLE:
      continue
    try:
      config = recipe.get_config(f"{first}{flag},{key}={other}")
    except ValueError as e:
      assert e.args[0] in (key, "captions", "init", "kept")
    else:
      assert config.to_dict() != before.to_dict(), key
