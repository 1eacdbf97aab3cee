"""Rules for layers of stacked blocks: frozen ones, and the rates of others."""

import dataclasses
import functools
import math

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import peers
import tiny
from big_contrastive.config import errors, rules
from big_contrastive.factory import experiment
from big_contrastive.interop import model_files
from big_contrastive.models import build, layers
from big_contrastive.models.model import merge
from big_contrastive.training import layer_decay, optimizers

DEPTHS = {"img/encoder/blocks/fc/kernel": 4, "txt/encoder/blocks/fc/kernel": 2}
NAMES = [*DEPTHS, "img/pos", "t"]
IMAGE = NAMES[0]


@pytest.mark.parametrize(
  ("given", "wanted"),
  [
    ("[-2:]", (0, 0, 1, 1)), ("[3:]", (0, 0, 0, 1)), ("[:-1]", (1, 1, 1, 0)),
    ("[1:3]", (0, 1, 1, 0)), ("[2]", (0, 0, 1, 0)), ("[-1]", (0, 0, 0, 1)),
    ("[-9:2]", (1, 1, 0, 0)), ("[:]", 1), ("", 1),
  ],
)  # fmt: skip
def test_layers_are_a_slice_of_the_stack(given, wanted):
  given = [(f"img/.*/blocks{given}/.*", 1), (".*", 0)]
  found = rules.match(given, NAMES, "config.freeze", DEPTHS)
  assert found == {IMAGE: wanted} | dict.fromkeys(NAMES[1:], 0)
  assert isinstance(found[IMAGE], rules.PerLayer) == (wanted != 1)


def test_layers_are_those_of_their_alternative():
  given = [("t|.*/blocks[2:]/.*|img/pos|txt/.*/blocks[0]/.*", 1), (".*", 0)]
  found = rules.match(given, NAMES, "config.freeze", DEPTHS)
  assert [found[k] for k in NAMES] == [(0, 0, 1, 1), (1, 0), 1, 1]


def test_rules_of_one_value_are_one_value():
  given = [("img/.*/blocks[:2]/.*", 1), ("img/.*", 1), (".*", 0)]
  assert rules.match(given, NAMES, "x", DEPTHS)[IMAGE] == 1


def test_each_tower_counts_from_its_own_end():
  given = [(".*/blocks[-1]/.*", 1), (".*", 0)]
  found = rules.match(given, NAMES, "config.freeze", DEPTHS)
  assert [found[k] for k in NAMES] == [(0, 0, 0, 1), (0, 1), 0, 0]
  pieces = dict(rules.pieces(found))
  assert pieces == {
    "img/encoder/blocks[0:3]/fc/kernel": 0,
    "img/encoder/blocks[3:4]/fc/kernel": 1,
    "txt/encoder/blocks[0:1]/fc/kernel": 0,
    "txt/encoder/blocks[1:2]/fc/kernel": 1,
    "img/pos": 0,
    "t": 0,
  }  # fmt: skip
  for name in pieces:
    of, layers = rules.whole(name)
    assert rules.stacked(name) == rules.stacked(of)
    assert rules.of_pieces({of: found[of]}, [name]) == {
      name: found[of][layers] if of in DEPTHS else found[of]
    }


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ([("img/.*/blocks[4:]/.*", 1), (".*", 0)], r"config.freeze\[0\] = "),
    ([("img/.*/blocks[4]/.*", 1), (".*", 0)], r"config.freeze\[0\] = "),
    ([("img/pos[1:]", 1), (".*", 0)], r"config.freeze\[0\] = "),
    ([(".*/blocks[:1]/.*", 1), ("img/pos|t", 0)], r"blocks\[1:2\]/fc/kernel'"),
    ([(".*/blocks[]/.*", 1), (".*", 0)], "It fails"),
    ([(".*/blocks[-:]/.*", 1), (".*", 0)], "It fails"),
  ],
)
def test_layers_that_are_not_there_are_errors(given, said):
  with pytest.raises(errors.UserError, match=said):
    rules.match(given, NAMES, "config.freeze", DEPTHS)


def test_other_rules_have_no_layers():
  with pytest.raises(errors.UserError, match="config.decay.*without layers"):
    rules.match([("blocks[1:]", 1)], NAMES, "config.decay")


def recipe(mesh, freeze):
  """tiny's step, with these rules over towers of three blocks."""
  made, _ = tiny.make_step(mesh, depth=3, keep=1.0, dropout=0.0)
  shapes = made.objective.setting.model.shapes
  names, depths = list(rules.flatten(shapes)), rules.depths(shapes)
  pieces = dict(rules.pieces(rules.match(freeze, names, "freeze", depths)))
  trained = frozenset(k for k, still in pieces.items() if not still)
  ones = dict.fromkeys(names, 1.0)
  tx = optimizers.build(
    optimizers.adamw(), made.rate, weight_decay=0.1, decay=ones, lr_mult=ones,
    clip=1.0, trained=trained,
  )  # fmt: skip
  method = made.objective.freeze(frozenset(pieces) - trained)
  return dataclasses.replace(made, objective=method, tx=tx, trained=trained)


LAST = [("img/.*/blocks[2:]/.*|img/head/.*|t|b", False), (".*", True)]


def test_frozen_layers_keep_every_bit_and_have_no_state(mesh):
  """With weight decay, clipping and momentum, and sharded."""
  over = mesh(1, 2)
  placed = tiny.place(recipe(over, LAST), over)
  state = placed.init()
  before = jax.device_get(rules.flatten(state.params))
  for i in range(2):
    state, metrics = placed.update(state, tiny.batch(over, i))
  for name, p in jax.device_get(rules.flatten(state.params)).items():
    still = slice(None)
    if name.startswith("img/encoder/blocks/"):
      still = slice(2)
      assert (p[2:] != before[name][2:]).any() or "key/bias" in name, name
    if name.startswith("img/head/") or name == "t":
      assert (p != before[name]).any() or "key/bias" in name, name
    elif name != "b":  # Adam's 1 and a tenth of -10 cancel.
      np.testing.assert_array_equal(p[still], before[name][still], name)
  (adam,) = [s for s in state.opt if hasattr(s, "mu")]
  kernel = adam.mu["img/encoder/blocks[2:3]/mlp/fc1/kernel"]
  assert kernel.shape == (1, 32, 128)
  assert kernel.addressable_shards[0].data.shape == (1, 32, 64)
  trained = {k.split("/")[0] for k in adam.mu if "/encoder/" not in k}
  assert trained == {"img", "t", "b"}
  assert all("blocks[2:3]" in k for k in adam.mu if "/encoder/" in k)
  assert len(placed.checked) == len(metrics["finite"])


def test_there_is_no_backward_pass_below_the_first_trained_block(mesh):
  """And the gradients above are those that the whole backward pass gives."""
  made = recipe(mesh(1), LAST).objective.setting.model
  model = merge(made.graph, made.shapes)
  assert (model.img.encoder.locked, model.txt.encoder.locked) == (2, 0)
  encoder = layers.Transformer(
    16, 3, 32, 2, causal=False, activation="gelu", eps=1e-6, dropout=0.0,
    remat=layers.REMAT, dtype="float32", pin=lambda x: x, rngs=nnx.Rngs(0),
  )  # fmt: skip
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))

  def gradients(locked):
    encoder.locked = locked
    graph, params = nnx.split(encoder)
    loss = lambda params: jnp.sum(nnx.merge(graph, params)(x)[..., 0])  # noqa: E731
    return functools.partial(jax.grad(loss), params)

  both = gradients(2), gradients(0)
  locked, full = (
    rules.flatten(nnx.to_pure_dict(g))
    for g in jax.jit(lambda: [run() for run in both])()
  )
  for name, g in locked.items():
    if name.startswith("blocks/"):
      assert not g[:2].any(), name
      np.testing.assert_allclose(g[2], full[name][2], rtol=1e-5, atol=1e-6)
    else:
      np.testing.assert_allclose(g, full[name], rtol=1e-5, atol=1e-6)
  fewer, dots = (
    str(jax.make_jaxpr(run)()).count("dot_general") for run in both
  )
  # One more scan forwards, of these: query, key, value, logits, weighted sum,
  # out, fc1, fc2. It has no backward pass.
  assert fewer == dots + 8


def test_layer_decay_is_that_of_beit_and_open_clip(mesh):
  """lr_scales_for_groups of open_clip: decay**(distance from the head)."""
  made, _ = tiny.make_step(mesh(1), depth=3)
  model = made.objective.setting.model
  names, depths = rules.shapes(model.shapes), rules.depths(model.shapes)
  found = layer_decay.factors(dict.fromkeys(names, 0.5), depths, model.abstract)
  for tower in ("img", "txt"):
    groups = ["embed", "0", "1", "2", "head"]
    theirs = {k: 0.5 ** (len(groups) - 1 - i) for i, k in enumerate(groups)}
    stack = f"{tower}/encoder/blocks/mlp/fc1/kernel"
    assert found[stack] == tuple(theirs[k] for k in "012")
    assert found[f"{tower}/pos"] == theirs["embed"] == 0.5**4
    assert found[f"{tower}/encoder/norm/scale"] == 1.0
  assert found["img/head/probe"] == found["txt/project/kernel"] == 1.0
  assert found["t"] == 1.0
  # After one step of Adam, without eps, everything has moved by its rate.
  kept = ("img/encoder/blocks/mlp/fc1/kernel", "txt/embed/embedding", "t")
  found, names = ({k: x[k] for k in kept} for x in (found, names))
  ones = dict.fromkeys(names, 1.0)
  tx = optimizers.build(
    optimizers.adamw(eps=0.0), lambda _: 0.1, weight_decay=0.0, decay=ones,
    lr_mult=ones | {"t": 3.0}, clip=None, layer_factors=found,
  )  # fmt: skip
  params = {k: jnp.zeros(shape) for k, shape in names.items()}
  grads = {k: jnp.ones(shape) for k, shape in names.items()}
  updates, _ = tx.update(grads, tx.init(params), params)
  for i, factor in enumerate((0.125, 0.25, 0.5)):
    moved = updates["img/encoder/blocks/mlp/fc1/kernel"][i]
    np.testing.assert_allclose(moved, -0.1 * factor, rtol=1e-6)
  embedding = updates["txt/embed/embedding"]
  np.testing.assert_allclose(embedding, -0.1 / 16, rtol=1e-6)
  np.testing.assert_allclose(updates["t"], -0.3, rtol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("groups", [0, 1, 2, 3, 5])
def test_unlocked_groups_are_those_of_open_clip(groups):
  """As many numbers are trained, of a tower of three blocks."""
  peers.torch()
  open_clip = pytest.importorskip("open_clip")
  theirs = open_clip.model.VisionTransformer(
    image_size=32, patch_size=8, width=32, layers=3, heads=2, mlp_ratio=4.0,
    output_dim=20,
  )  # fmt: skip
  theirs.lock(unlocked_groups=groups)
  wanted = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
  image = {
    "variant": "mu/8", "res": 32, "depth": 3, "out_dim": 20, "pool": "tok",
    "cls_pos": True, "patch_bias": False, "pre_norm": True,
  }  # fmt: skip
  shapes = build.build_model({"image": image}).shapes
  top = ["img/project/.*", "img/encoder/norm/.*|img/.*/blocks[-1]/.*"]
  top += ["img/.*/blocks[-2]/.*", "img/.*/blocks[-3]/.*", ".*"]
  given = [*((pattern, 1) for pattern in top[:groups]), (".*", 0)]
  given = given[:groups] if groups == 5 else given
  sizes, depths = rules.shapes(shapes), rules.depths(shapes)
  found = rules.match(given, sizes, "x", depths)
  ours = 0
  for name, value in rules.pieces(found):
    of, layers = rules.whole(name)
    count = len(range(depths[of])[layers]) if name != of else sizes[of][0]
    ours += value * math.prod((count, *sizes[of][1:]))
  assert ours == wanted


@pytest.mark.peers
def test_layer_decay_is_that_of_timm(tmp_path):
  """Each parameter of a ViT holds its factor, and is read by its name here.

  timm counts the last norm as a part of the last block, and BEiT doesn't.
  """
  peers.torch()
  timm = pytest.importorskip("timm")
  theirs = timm.create_model(
    "vit_small_patch16_224.dino", img_size=32, patch_size=8, embed_dim=64,
    depth=3, num_heads=1, num_classes=5,
  )  # fmt: skip
  optim = pytest.importorskip("timm.optim")
  for group in optim.param_groups_layer_decay(theirs, layer_decay=0.5):
    for p in group["params"]:
      p.data.fill_(group["lr_scale"])
  state = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
  safetensors.numpy.save_file(state, tmp_path / "a.safetensors")
  bundle = model_files.read(tmp_path / "a.safetensors")
  wanted = rules.flatten(bundle.params)
  model = build.build_model(bundle.model)
  decay = dict.fromkeys(wanted, 0.5)
  depths = rules.depths(model.shapes)
  found = layer_decay.factors(decay, depths, model.abstract)
  assert found.keys() == wanted.keys()
  for name, factor in found.items():
    if name.startswith("img/encoder/norm/"):
      assert factor == 1.0 and (wanted[name] == 0.5).all()
      continue
    layers = isinstance(factor, rules.PerLayer)
    values = zip(factor, wanted[name]) if layers else [(factor, wanted[name])]
    assert all((x == own).all() for own, x in values), name
  assert found["img/pos"] == 0.5**4


def test_bert_begins_with_a_norm(mesh):
  made, _ = tiny.make_step(
    mesh(1), text={"norm": "post", "pool": "first", "segments": 2}
  )
  model = made.objective.setting.model
  names, depths = rules.flatten(model.shapes), rules.depths(model.shapes)
  decay = {k: 0.5 if k.startswith("txt/") else 1.0 for k in names}
  found = layer_decay.factors(decay, depths, model.abstract)
  assert found["txt/encoder/norm/scale"] == found["txt/segment"] == 0.5**3
  assert found["img/pos"] == 1.0


@pytest.mark.parametrize(
  ("config", "changes", "said"),
  [
    ("siglip", {"layer_decay": [(".*", 0)]}, "config.layer_decay = 0; .*above"),
    ("siglip", {"layer_decay": [(".*", "x")]}, "config.layer_decay = 'x'"),
    ("siglip", {"layer_decay": [(".*", 1.5)]}, "at most 1"),
    ("siglip", {"layer_decay": [(".*/blocks[1:]/.*", 0.5)]}, "without layers"),
    ("demo", {"layer_decay": [(".*", 0.5)]}, "1.0 for a tower without stacked"),
    (
      "siglip",
      {"lr_mult": [("img/.*/blocks[0]/.*", -1.0), (".*", 1.0)]},
      "config.lr_mult = -1.0; .*img/encoder/blocks",
    ),
    (
      "siglip",
      {"freeze": [("img/.*/blocks[7:]/.*", True), (".*", False)]},
      r"config.freeze\[0\] = ",
    ),
  ],
)
def test_wrong_rules_are_one_line(config, changes, said):
  with pytest.raises(errors.UserError, match=said):
    experiment.build(tiny.load(config, "smoke") | changes, jax.devices()[:1])
