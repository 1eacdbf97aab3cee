"""BERT as text tower: against transformers, and in LiT's .npz files.

The files are written here by flaxformer's testdata/model_param_shapes.json,
and by vit_jax's numbers of parameters; not by our tables.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_big_vision

import big_contrastive
import peers
import tiny
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
from big_contrastive.interop import mapping, model_files, sections
from big_contrastive.interop.big_vision import weights as big_vision_weights
from big_contrastive.interop.formats import big_vision
from big_contrastive.models.build import build_model
from big_contrastive.models.model import merge, unit

WIDTH, DEPTH, MLP, POSITIONS, OUT = 128, 3, 160, 12, 32
VOCAB = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "a",
  "red",
  "cat",
  "dog",
  "on",
  "two",
]


def bert(width, depth, mlp, vocab, positions, out):
  """Names and shapes of LiT's text tower, and of the temperature."""
  linear = {"kernel": (width, width), "bias": (width,)}
  norm = {"scale": (width,), "bias": (width,)}
  layer = {f"attention_block/attention_layer/{k}": linear for k in QKV}
  layer |= {
    "attention_block/dense_layer": linear,
    "attention_block/layer_norm": norm,
    "mlp_block/mlp/dense_layer": {"kernel": (width, mlp), "bias": (mlp,)},
    "mlp_block/dense_layer": {"kernel": (mlp, width), "bias": (width,)},
    "mlp_block/layer_norm": norm,
  }
  groups = {
    f"encoder_block/layer_sequence/layers_{i}/{k}": v
    for i in range(depth)
    for k, v in layer.items()
  }
  rows = {"token": vocab, "position": positions, "segment": 2}
  groups |= {
    f"embedder/embedders_{k}_ids": {"embedding": (n, width)}
    for k, n in rows.items()
  }
  groups["layer_norm"] = norm
  groups = {f"txt/BertEncoder_0/{k}": v for k, v in groups.items()}
  groups["txt/head"] = {"kernel": (width, out), "bias": (out,)}
  flat = {f"{k}/{n}": s for k, v in groups.items() for n, s in v.items()}
  return flat | {"t": (1,)}


QKV = ("key", "query", "value")


def arrays():
  """Arrays of a LiT, far from their initial values."""
  image = test_big_vision.image((OUT, 2, 48, 2), 8, 2, "tok")
  shapes = {f"img/{k}": v for k, v in image.items()}
  shapes |= bert(WIDTH, DEPTH, MLP, len(VOCAB), POSITIONS, OUT)
  r = np.random.default_rng(0)
  return {
    k: (
      (k.endswith("scale") + 0.3 * r.normal(size=v))
      if len(v) == 1
      else r.normal(size=v) * 2 / v[0] ** 0.5
    ).astype("f4")
    for k, v in shapes.items()
  }


@pytest.fixture
def file(tmp_path):
  return test_big_vision.save(tmp_path / "lit.npz", arrays())


@pytest.fixture
def words(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(VOCAB))
  return {"kind": "bert", "path": str(path), "length": 7, "eos": False}


def in_transformers(stored, act):
  """transformers' BertModel and a linear layer with these arrays."""
  torch = peers.torch()
  import transformers

  config = transformers.BertConfig(
    vocab_size=len(VOCAB), hidden_size=WIDTH, num_hidden_layers=DEPTH,
    num_attention_heads=2, intermediate_size=MLP, hidden_act=act,
    max_position_embeddings=POSITIONS,
  )  # fmt: skip
  model = transformers.BertModel(config, add_pooling_layer=False).eval()
  head = torch.nn.Linear(WIDTH, OUT)
  root = "txt/BertEncoder_0/"
  embedders = {"token": "word", "position": "position", "segment": "token_type"}
  places = {
    f"{root}embedder/embedders_{k}_ids": f"embeddings.{v}_embeddings"
    for k, v in embedders.items()
  } | {f"{root}layer_norm": "embeddings.LayerNorm"}
  for i in range(DEPTH):
    theirs = f"{root}encoder_block/layer_sequence/layers_{i}/"
    block, mlp = f"{theirs}attention_block/", f"{theirs}mlp_block/"
    hf = f"encoder.layer.{i}."
    places |= {
      f"{block}attention_layer/{k}": f"{hf}attention.self.{k}" for k in QKV
    }
    places |= {
      f"{block}dense_layer": f"{hf}attention.output.dense",
      f"{block}layer_norm": f"{hf}attention.output.LayerNorm",
      f"{mlp}mlp/dense_layer": f"{hf}intermediate.dense",
      f"{mlp}dense_layer": f"{hf}output.dense",
      f"{mlp}layer_norm": f"{hf}output.LayerNorm",
    }
  modules = {k: model.get_submodule(v) for k, v in places.items()}
  modules["txt/head"] = head
  left = {k for k in stored if k.startswith("txt/")}
  with torch.no_grad():
    for place, module in modules.items():
      for name in {k for k in left if k.rpartition("/")[0] == place}:
        left.remove(name)
        kind, x = name.rpartition("/")[2], torch.tensor(stored[name])
        target = module.bias if kind == "bias" else module.weight
        target.copy_(x.T if kind == "kernel" else x)
  assert not left

  def embed(ids):
    ids = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
      x = model(ids, attention_mask=(ids != 0).long()).last_hidden_state
      return torch.nn.functional.normalize(head(x[:, 0])).numpy()

  return embed


def padded(length=POSITIONS):
  """Ids of texts of different lengths, CLS first, 0 behind them."""
  r = np.random.default_rng(1)
  ids = r.integers(4, len(VOCAB), (5, length)).astype(np.int32)
  ids[:, 0] = 2
  for row, end in zip(
    ids, (length, 1, 2, length - 1, length // 2), strict=True
  ):
    row[end:] = 0
  return ids


@pytest.mark.parametrize("act", ["gelu_new", "gelu"])
@pytest.mark.peers
def test_texts_are_embedded_as_by_transformers(act, file):
  model = model_files.read(file)
  if act == "gelu":  # transformers' own, which LiT's code does not take.
    model.model["text"]["activation"] = "gelu"
  images = np.zeros((1, 16, 16, 3), np.uint8)
  for length in (POSITIONS, 7):
    ids = padded(length)
    _, found, _ = peers.ours(model, images, ids)
    expected = in_transformers(arrays(), act)(ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def tower(model):
  return merge(model.build().graph, jax.tree.map(jnp.asarray, model.params)).txt


def test_padding_is_not_seen(file):
  model = model_files.read(file)
  txt = tower(model)
  ids = padded()
  whole = np.asarray(txt(jnp.asarray(ids)))
  for row, z in zip(ids, whole, strict=True):
    alone = txt(jnp.asarray(row[row != 0][None]))[0]
    np.testing.assert_allclose(z, alone, rtol=1e-5, atol=1e-5)
  del model.model["text"]["pad_id"]
  assert np.abs(tower(model)(jnp.asarray(ids)) - whole)[1:].max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_of_padding_alone_has_a_finite_gradient(dtype, file):
  model = model_files.read(file)
  model.model["dtype"] = dtype
  ids = jnp.zeros((2, POSITIONS), jnp.int32)
  grads = jax.grad(lambda t: unit(t(ids))[:, 0].sum())(tower(model))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_training_drops_by_example_and_recomputes_what_it_dropped(file):
  model = model_files.read(file)
  model.model["text"]["dropout"] = 0.3
  ids, keys = jnp.asarray(padded()), jax.random.split(jax.random.key(0), 5)

  @jax.jit
  def grads(txt):
    return jax.grad(lambda t: unit(t(ids, keys))[:, 0].sum())(txt)

  expected = jax.tree.leaves(grads(tower(model)))
  model.model["remat"] = "nothing_saveable"
  txt = tower(model)
  for a, b in zip(jax.tree.leaves(grads(txt)), expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    txt(ids[3:], keys[3:]), txt(ids, keys)[3:], rtol=1e-5, atol=1e-5
  )
  assert np.abs(txt(ids, keys) - txt(ids)).max() > 0.1


@pytest.mark.slow
def test_training_is_the_same_on_any_mesh_and_in_micro_batches(mesh):
  own = big_vision._BERT
  alone = tiny.train(mesh(1), text=own)
  split = tiny.train(mesh(2, 2), text=own, micro_batch=8)
  np.testing.assert_allclose(alone[0], split[0], rtol=2e-5)
  ours, theirs = (rules.flatten(x[1].params) for x in (alone, split))
  for name in ours:
    np.testing.assert_allclose(
      ours[name], theirs[name], rtol=2e-5, atol=2e-6, err_msg=name
    )


def test_lit_becomes_a_checkpoint_and_a_file_again(file, words, tmp_path):
  workdir, again = tmp_path / "ours", tmp_path / "again.npz"
  convert.convert(str(file), str(workdir), tokenizer=words)
  convert.convert(str(workdir), str(again))
  with np.load(file) as a, np.load(again) as b:
    assert set(a.files) == set(b.files)
    for name in a.files:
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name], name)
  spec = model_files.read(workdir).tokenizer
  assert (spec["length"], spec["pad"], spec["eos"]) == (7, 0, False)


def test_load_gives_the_model_whole(file, words):
  model = big_contrastive.load(str(file), tokenizer=words)
  texts = ["a red cat", "two"]
  ids = build_tokenizer(**words).rows(texts)
  assert ids.tolist() == [[2, 4, 5, 6, 0, 0, 0], [2, 9, 0, 0, 0, 0, 0]]
  read = model_files.read(file)
  z = unit(tower(read)(jnp.asarray(ids)))
  np.testing.assert_allclose(model.encode_text(texts), z, atol=1e-5)
  picture = np.zeros((16, 16, 3), np.uint8)
  expected = math.exp(arrays()["t"][0]) * model.encode_image(picture) @ z.T
  np.testing.assert_allclose(
    model.logits(picture, texts), expected, rtol=1e-5, atol=1e-5
  )


B, L = (768, 12, 3072, 12), (1024, 24, 4096, 16)
# Image size, its linear layer, text, and vit_jax's number of parameters.
PUBLISHED = {
  "LiT-B16B": (B, 768, "bert", B, 195_871_489),
  "LiT-B16B_2": (B, None, "bert", B, 195_280_897),
  "LiT-L16L": (L, None, "bert", L, 638_443_521),
  "LiT-L16S": (L, None, "own", (384, 12, 1536, 6), 331_140_353),
  "LiT-L16Ti": (L, None, "own", (192, 12, 768, 3), 311_913_089),
}
NAMES = {768: "B", 1024: "L", 384: "S", 192: "Ti"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lits_have_these_names_and_shapes(name):
  img, head, kind, txt, count = PUBLISHED[name]
  out = head or img[0]
  image = test_big_vision.image(img, 16, 14, "tok")
  if head:
    image |= {"head/kernel": (img[0], head), "head/bias": (head,)}
  if kind == "bert":
    expected = bert(*txt[:3], 30_522, 512, out)
    fields = big_vision._BERT | {"positions": 512}
    rows = 30_522, 512
  else:
    rows = 16_000, 16
    towers = test_big_vision.two_towers(img, txt, *rows, 16, 14)
    expected = {k: v for k, v in towers.items() if k[:4] == "txt/"}
    expected |= {"txt/head/bias": (out,), "t": (1,)}
    fields = {"pool": "last"}
  expected |= {f"img/{k}": v for k, v in image.items()}
  # The files' class token has a position, which is added to it when read.
  assert sum(map(math.prod, expected.values())) + img[0] == count
  model = {
    "image": {
      "variant": f"{NAMES[img[0]]}/16", "res": 224, "pool": "tok",
      "out_dim": head, "out_bias": bool(head),
    },
    "text": {"variant": NAMES[txt[0]], "out_dim": out, **fields},
  }  # fmt: skip
  shapes = sections.shapes(model, *rows, bias=False)
  table = big_vision_weights.table(False, bert=kind == "bert")
  assert mapping.names(table, shapes) == expected


def test_what_is_wrong_in_a_file_is_told_at_once(tmp_path):
  stored = arrays()
  root = "txt/BertEncoder_0/encoder_block/layer_sequence/layers_1/"
  del stored[f"{root}mlp_block/dense_layer/bias"]
  stored["txt/BertPooler_0/dense/bias"] = np.zeros(3, np.float32)
  with pytest.raises(errors.UserError) as e:
    model_files.read(test_big_vision.save(tmp_path / "a.npz", stored))
  said = str(e.value)
  assert f"missing: {root}mlp_block/dense_layer/bias (128,)" in said
  assert "unknown: txt/BertPooler_0/dense/bias (3,)" in said
  assert "\n" not in said
  assert big_vision.read_image_tower(tmp_path / "a.npz").params.keys() == {
    "img"
  }


def test_heads_of_another_width_are_not_guessed(tmp_path, file):
  stored = arrays() | {
    k: np.zeros(s, np.float32) for k, s in bert(96, 3, 160, 10, 12, 32).items()
  }
  narrow = test_big_vision.save(tmp_path / "a.npz", stored)
  with pytest.raises(errors.UserError, match="width of BERT in .*96.*of 64"):
    model_files.read(narrow)
  model = model_files.read(file)
  model.model["text"]["heads"] = 4
  with pytest.raises(errors.UserError, match="text.heads = 4"):
    big_vision.write(model, tmp_path / "b.npz")


@pytest.mark.parametrize("format", ["hugging_face", "open_clip"])
def test_formats_without_bert_refuse_it(format, file, words, tmp_path):
  """Also where nothing else distinguishes it from a CLIP."""
  model = model_files.read(file)
  model.model["image"] |= {
    "pre_norm": True, "patch_bias": False, "cls_pos": True, "out_dim": 64
  }  # fmt: skip
  model.model["text"] |= {"pool": "argmax", "causal": True, "out_bias": False}
  with pytest.raises(errors.UserError, match="text.norm = 'post'"):
    model_files.write(model, tmp_path / "x", format)


def test_another_padding_than_the_tokenizers_is_told(file, words):
  model = model_files.read(file)
  model.model["text"]["pad_id"] = 3
  with pytest.raises(errors.UserError, match="text.pad_id = 3.*padding id, 0"):
    build_model(model.model, build_tokenizer(**words))
  with pytest.raises(errors.UserError, match="positions = 12.*at least .* 13"):
    section = {**model.model, "text": model.model["text"] | {"pad_id": 0}}
    build_model(section, build_tokenizer(**words | {"length": 13}))
