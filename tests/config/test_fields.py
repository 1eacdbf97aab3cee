"""What the code itself passes is no field of a config; nor of a flag."""

import functools

import jax
import jax.numpy as jnp
import pytest

import mutate
import tiny
from big_contrastive import losses
from big_contrastive.config import errors, registry
from big_contrastive.factory import experiment, parts

# By section: what the functions behind it are passed besides its fields.
PASSED = {
  "": ["devices", "reading", "blob"],
  "mesh": ["devices"],
  "source": ["where", "opened"],
  "source.filter": ["source"],
  "tokenizer": ["captions", "blob"],
  "model": ["shared", "pin", "rngs"],
  "model.image": ["dtype", "remat", "pin", "rngs"],
  "model.text": ["length", "dtype", "remat", "pin", "rngs"],
  "objective": ["setting"],
  "optimizer": ["direction", "rate", "decay", "lr_mult", "start", "total"],
  "schedule": ["peak", "total"],
  "loading": ["examples", "batch_size", "rows", "seed", "gather"],
  "evals.shapes": ["where", "read"],
  "evals.shapes.source": ["where", "opened"],
}
FIELDS = [(s, field) for s, fields in PASSED.items() for field in fields]


def config():
  empty = {"mesh": {}}
  made = empty | tiny.load("siglip", "smoke")
  made["source"]["filter"] = {}
  return made


@pytest.mark.parametrize(("section", "field"), FIELDS)
@pytest.mark.parametrize("value", [None, "x", [0]])
def test_what_the_code_passes_is_refused(section, field, value):
  path = tuple(filter(None, f"{section}.{field}".split(".")))
  with pytest.raises(errors.UserError) as e:
    experiment.build(mutate.changed(config(), path, value))
  said = str(e.value)
  assert said.startswith(f"config.{'.'.join(path)} = {value!r}; ")
  assert field not in said.partition("expected one of ")[2].split(". ")[0]


@pytest.mark.parametrize("part", ["where", "opened"])
def test_nor_does_a_mixture_take_it(part):
  shapes = config()["source"]
  for mixed, said in (
    ({"mixture": [shapes], part: "x"}, f"config.source.{part}"),
    (
      {"mixture": [{"source": shapes, part: "x"}]},
      f"config.source.mixture[0].{part}",
    ),
  ):
    with pytest.raises(errors.UserError) as e:
      experiment.build(config() | {"source": mixed})
    assert str(e.value).startswith(f"{said} = 'x'; ")


@pytest.mark.parametrize("value", [5, "", True, ["x"], "nowhere"])
@pytest.mark.parametrize("field", ["init", "init.img", "tokenizer.path"])
def test_a_path_that_is_none_is_one_line(field, value, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  own = config() | {"init": {}}
  if field == "tokenizer.path":
    own["tokenizer"] = {"kind": "checkpoint"}
  own = mutate.changed(own, tuple(field.split(".")), value)
  with pytest.raises(errors.UserError, match=f"config.{field.split('.')[0]}"):
    experiment.build(own)


def test_a_checkpoints_tokenizer_may_have_another_length(tmp_path):
  from big_contrastive.training import loop

  made = experiment.build(config() | {"total": 2, "evals": {}})
  loop.fit(made, tmp_path)
  there = {"kind": "checkpoint", "path": str(tmp_path)}
  same = parts.tokenizer(there, [])
  assert same.spec == made.tokenizer.spec
  longer = parts.tokenizer(there | {"length": 40}, [])
  assert longer.length == 40
  assert [*longer("a b")[:32]] == [*same("a b")]
  with pytest.raises(errors.UserError, match="config.tokenizer.lenght"):
    parts.tokenizer(there | {"lenght": 40}, [])


def plain(zimg, ztxt, *, scale, bias=None, ids=None, axis=None, tile=None):
  every = ztxt if axis is None else jax.lax.all_gather(ztxt, axis, tiled=True)
  first = 0 if axis is None else jax.lax.axis_index(axis) * len(zimg)
  logits = scale * zimg @ every.T + (0.0 if bias is None else bias)
  own = first + jnp.arange(len(zimg))
  value = -jax.nn.log_softmax(logits)[jnp.arange(len(zimg)), own].mean()
  return value if axis is None else jax.lax.pmean(value, axis)


def annotated(**hints):
  """`plain`, with these annotations and no others."""

  def loss(zimg, ztxt, *, scale, bias=None, ids=None, axis=None, tile=None):
    return plain(zimg, ztxt, scale=scale, bias=bias, axis=axis)

  loss.__annotations__ = hints
  return loss


WRITTEN = {
  "no annotations": plain,
  "others": annotated(zimg=jax.Array, scale="jax.Array"),
  "one that nobody can evaluate": annotated(
    zimg='Float[Array, "b d"]', bias="Nothing | None"
  ),
  "a partial": functools.partial(plain, ids=None),
  "jitted": jax.jit(plain, static_argnames=("axis", "tile")),
}


@pytest.fixture
def mine(monkeypatch, tmp_path):
  """mine(loss): a config with a loss in a file of its own."""

  def make(loss):
    (tmp_path / "mine.py").write_text("loss = None\n")
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    monkeypatch.delitem(
      __import__("sys").modules, "big_contrastive.losses.mine", raising=False
    )
    module = registry.module("losses", "mine", "")
    monkeypatch.setattr(module, "loss", loss)
    return config() | {"objective": {"name": "pairs", "loss": "mine"}}

  return make


@pytest.mark.parametrize("written", WRITTEN)
def test_a_loss_may_have_any_annotations(mine, written):
  made = experiment.build(mine(WRITTEN[written]), jax.devices()[:2])
  batch = next(made.training.batches(0, 1))
  shapes = jax.eval_shape(
    made.placed.update, made.placed.abstract,
    {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()},
  )  # fmt: skip
  assert shapes[1]["loss"].shape == ()


@pytest.mark.parametrize("hint", [None, type(None), "None"])
def test_a_loss_that_is_blind_to_a_bias_says_so_by_its_annotation(mine, hint):
  with pytest.raises(errors.UserError, match="config.model.bias"):
    experiment.build(mine(annotated(bias=hint)))


@pytest.mark.parametrize(
  ("result", "said"), [(None, "None"), (jnp.zeros(3), "of shape (3,)")]
)
def test_a_loss_that_is_no_scalar_is_one_line(mine, result, said):
  made = experiment.build(mine(lambda *args, **kwargs: result))
  batch = next(made.training.batches(0, 1))
  with pytest.raises(errors.UserError) as e:
    jax.eval_shape(made.placed.update, made.placed.abstract, batch)
  assert f"the loss = {said!r}; expected a scalar" in str(e.value)
