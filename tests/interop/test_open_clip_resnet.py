"""OpenCLIP's ResNets and OpenAI's files, against OpenCLIP on random weights."""

import json
import logging
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import peers
from big_contrastive import convert
from big_contrastive.config import errors, rules
from big_contrastive.inference.model import load
from big_contrastive.interop import model_files
from big_contrastive.interop.formats import open_clip as ours
from big_contrastive.interop.open_clip import archive, openai, resnet
from big_contrastive.models.model import merge, split

pytestmark = pytest.mark.peers

torch = peers.torch()
open_clip = pytest.importorskip("open_clip")

TEXT = {
  "context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 1
}  # fmt: skip
VISION = {
  "image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None
}  # fmt: skip
CLIP = {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT}
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MODELS = {
  "gelu": CLIP,
  "quick_gelu": CLIP | {"quick_gelu": True},
  "other heads": CLIP | {"vision_cfg": VISION | {"head_width": 32}},
}


def make(config, seed=0):
  """A model of theirs whose statistics no batch would have."""
  model = open_clip.CLIP(**json.loads(json.dumps(config)))
  g = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in model.named_parameters():
      x = torch.randn(p.shape, generator=g)
      if p.ndim == 1:
        near = 1.0 if "bn" in name or "ln_" in name else 0.0
        near = near or float("downsample.1" in name)
        p.copy_(near * name.endswith("weight") + 0.2 * x)
      elif p.ndim:
        # A ReLU halves the variance, a norm does not scale it to one.
        p.copy_(x * (2.0 if p.ndim > 2 else 1.0) * p[0].numel() ** -0.5)
    for name, x in model.named_buffers():
      noise = torch.rand(x.shape, generator=g)
      if name.endswith("running_mean"):
        x.copy_(noise - 0.5)
      elif name.endswith("running_var"):
        x.copy_(0.5 + noise)
  return model.eval()


def save(model, config, path):
  from safetensors.torch import save_file

  path.mkdir()
  size = config["vision_cfg"]["image_size"]
  whole = {"model_cfg": config, "preprocess_cfg": {"size": size}}
  (path / "open_clip_config.json").write_text(json.dumps(whole))
  state = {k: v.contiguous() for k, v in model.state_dict().items()}
  save_file(state, path / "open_clip_model.safetensors")
  return path


def inputs(config, vocab=50, length=8, size=4):
  """Images of a few large squares, which differ after pooling, and tokens."""
  side = config["vision_cfg"]["image_size"] // 4
  _, tokens = peers.inputs(8, vocab, length, eos=vocab - 1)
  r = np.random.default_rng(2)
  coarse = r.integers(0, 256, (size, 4, 4, 3)).astype(np.uint8)
  return coarse.repeat(side, axis=1).repeat(side, axis=2), tokens


def theirs(model, images, tokens):
  with torch.no_grad():
    zimg = model.encode_image(peers.pixels(images, MEAN, STD), normalize=True)
    ztxt = model.encode_text(torch.from_numpy(tokens).long(), normalize=True)
    logits = model.logit_scale.exp() * zimg @ ztxt.T
  return [x.numpy() for x in (zimg, ztxt, logits)]


def embeddings(model, images, tokens):
  found = convert._embed(model, images, tokens)
  scale = np.exp(model.params["t"])
  return found["image"], found["text"], scale * found["logits"]


def check(found, expected, limit=1e-5):
  """Asserts equality up to a fraction of the largest value."""
  for name, a, b in zip(
    ("images", "texts", "logits"), found, expected, strict=True
  ):
    error = np.abs(a - b).max() / np.abs(b).max()
    assert error < limit, (name, error)


def parity(config, path, **text):
  peer = make(config)
  images, tokens = inputs(config, **text)
  expected = theirs(peer, images, tokens)
  assert not np.allclose(expected[0][0], expected[0][1], atol=0.01)
  model = model_files.read(save(peer, config, path / "a"))
  check(embeddings(model, images, tokens), expected)
  return peer, model, expected


@pytest.mark.parametrize("name", MODELS)
def test_same_outputs_and_the_same_files_back(name, tmp_path):
  config = MODELS[name]
  peer, model, expected = parity(config, tmp_path)
  model_files.write(model, tmp_path / "b", "open_clip")
  again = open_clip.create_model(f"local-dir:{tmp_path / 'b'}").eval()
  check(theirs(again, *inputs(config)), expected, 1e-6)
  before, after = peer.state_dict(), again.state_dict()
  assert before.keys() == after.keys()
  for key, value in before.items():
    assert value.dtype == after[key].dtype, key
    assert torch.equal(value, after[key]), key
  assert ours_again(model, tmp_path / "b")


def ours_again(model, path):
  """Whether a directory holds a model's variables, byte by byte."""
  a = rules.flatten(model.params)
  b = rules.flatten(model_files.read(path).params)
  return a.keys() == b.keys() and all(
    np.asarray(x).tobytes() == np.asarray(b[k]).tobytes() for k, x in a.items()
  )


def test_in_training_both_have_the_same_vectors_and_new_statistics(tmp_path):
  peer, model, _ = parity(CLIP, tmp_path)
  images, _ = inputs(CLIP, size=8)
  keys = jax.random.split(jax.random.key(0), 8)
  graph = model.build(remat="none").graph

  @jax.jit
  def step(variables, images):
    tower = merge(graph, variables)
    z = tower.img(images, keys)
    return z, split(tower)[2]

  with jax.default_matmul_precision("highest"):
    variables = jax.tree.map(jnp.asarray, model.params)
    z, statistics = step(variables, jnp.asarray(images))
  peer.train()
  with torch.no_grad():
    expected = peer.encode_image(peers.pixels(images, MEAN, STD)).numpy()
  assert np.abs(z - expected).max() < 1e-5 * np.abs(expected).max()
  # Their new ones, through a file, to our names.
  theirs_now = rules.flatten(
    model_files.read(save(peer.eval(), CLIP, tmp_path / "c")).params
  )
  statistics = rules.flatten(statistics)
  assert len(statistics) == 2 * 22
  old = rules.flatten(model.params)
  for name, x in statistics.items():
    assert np.abs(theirs_now[name] - old[name]).max() > 1e-3, name
    np.testing.assert_allclose(x, theirs_now[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50-quickgelu"])
def test_a_published_architecture_has_their_outputs(name, tmp_path):
  config = open_clip.get_model_config(name)
  assert config["text_cfg"]["vocab_size"] == 49408
  config["text_cfg"] |= {"layers": 1, "hf_tokenizer_name": "."}
  peer, model, expected = parity(config, tmp_path, vocab=49408, length=77)
  assert model.model["image"]["variant"] == "RN50"
  assert expected[0].shape == (4, 1024)


RESNETS = [n for n in open_clip.list_models() if n.startswith("RN")]


@pytest.mark.parametrize("name", RESNETS)
def test_built_in_models_have_these_names_and_shapes(name):
  config = open_clip.get_model_config(name)
  with torch.device("meta"):
    peer = open_clip.CLIP(**config)
  state = {k: tuple(v.shape) for k, v in peer.state_dict().items()}
  expected = {k: v for k, v in state.items() if "num_batches" not in k}
  assert ours.names(config, custom=False) == expected
  section = resnet.read_image(config, config["vision_cfg"])
  # A published one has no field but its name.
  assert section["variant"] == name.removesuffix("-quickgelu")
  assert section.keys() == {"tower", "variant", "res"}
  assert resnet.write_image(section) == config["vision_cfg"] | {
    "head_width": 64
  }


def test_there_is_every_built_in_resnet():
  names = {n.removesuffix("-quickgelu") for n in RESNETS}
  assert names == resnet.clip_resnet.VARIANTS.keys()


def test_an_openclip_resnet_can_be_converted_to_ours_and_back(tmp_path):
  a = save(make(CLIP), CLIP | {"quick_gelu": True}, tmp_path / "a")
  found = convert.convert(str(a), str(tmp_path / "b"))
  assert "source, in its own library: logits" in found
  back = convert.convert(str(tmp_path / "b"), str(tmp_path / "c"), "open_clip")
  assert max(*found.values(), *back.values()) < 1e-5
  assert ours_again(model_files.read(a), tmp_path / "c")
  model = load(str(tmp_path / "b"), tokenizer=None, texts=False)
  picture = np.zeros((70, 90, 3), np.uint8)
  tokens, pooled, mask = model.features([picture])
  assert tokens.shape == (1, 4, 256) and pooled.shape == (1, 256)
  assert mask is None


# --- OpenAI's files.

OPENAI = {
  "resnet": CLIP | {"quick_gelu": True},
  "vit": CLIP
  | {
    "quick_gelu": True,
    "vision_cfg": {
      "image_size": 24, "patch_size": 8, "width": 64, "layers": 2,
    },
  },
}  # fmt: skip


def archived(config, path):
  """Writes TorchScript as OpenAI's; the model in float32, and the tensors."""
  peer = make(config)
  res = config["vision_cfg"]["image_size"]
  sizes = {"input_resolution": res, "context_length": 8, "vocab_size": 50}
  images, tokens = inputs(config)
  arguments = peers.pixels(images, MEAN, STD), torch.from_numpy(tokens).long()
  with torch.no_grad():
    for x in (*peer.parameters(), *peer.buffers()):
      x.copy_(x.half() if x.dtype == torch.float32 else x)
    vars(peer)["attn_mask"] = peer._buffers.pop("attn_mask")  # A constant.
    for name, value in sizes.items():
      vars(peer).pop(name, None)
      peer.register_buffer(name, torch.tensor(value))
    traced = torch.jit.trace(peer, arguments, check_trace=False)
  traced.half().save(str(path))
  tensors = {k: v.numpy().copy() for k, v in traced.state_dict().items()}
  return peer.float(), tensors  # They share parameters.


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", OPENAI)
def test_openais_archive_is_read_without_torch(name, tmp_path, caplog):
  config, path = OPENAI[name], tmp_path / "CLIP.pt"
  peer, tensors = archived(config, path)
  read = archive.read(path)
  assert read["visual.conv1.weight"].dtype == np.float16
  assert {*tensors} == {k for k in read if k in tensors}
  for key, value in tensors.items():
    assert read[key].dtype == value.dtype, key
    np.testing.assert_array_equal(read[key], value, err_msg=key)
  images, tokens = inputs(config)
  with caplog.at_level(logging.WARNING):
    model = model_files.read(path)
  check(embeddings(model, images, tokens), theirs(peer, images, tokens))
  assert model.model["text"]["activation"] == "quick_gelu"
  assert {x.dtype for x in jax.tree.leaves(model.params)} == {
    np.dtype("float32")
  }
  found = convert.convert(str(path), str(tmp_path / "b"), "open_clip")
  assert "source, in its own library: logits" in found
  assert ours_again(model, tmp_path / "b")


def test_the_architecture_of_a_published_model_follows_from_its_shapes():
  for name in (*RESNETS, "ViT-B-32", "ViT-L-14-336"):
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
      peer = open_clip.CLIP(**config)
    shapes = {k: tuple(v.shape) for k, v in peer.state_dict().items()}
    found = openai.model_cfg(shapes)
    assert found == config | {"quick_gelu": True}, name


def test_a_state_dict_of_openais_is_read(tmp_path):
  peer = make(OPENAI["resnet"])
  state = peer.state_dict() | {"input_resolution": torch.tensor(64)}
  torch.save({"state_dict": state}, tmp_path / "a.pt")
  model = model_files.read(tmp_path / "a.pt")
  again = model_files.read(save(peer, OPENAI["resnet"], tmp_path / "b"))
  a, b = rules.flatten(model.params), rules.flatten(again.params)
  assert a.keys() == b.keys()
  for name, x in a.items():
    np.testing.assert_array_equal(x, b[name], err_msg=name)


class Evil:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


def test_a_broken_file_is_one_line_and_no_code_of_it_runs(tmp_path):
  peer = make(OPENAI["resnet"])
  state, path = peer.state_dict(), tmp_path / "a.pt"

  def told(match, format="open_clip"):
    with pytest.raises(errors.UserError, match=match) as e:
      model_files.read(path, format)
    assert "\n" not in str(e.value)

  torch.save(state, path)  # OpenCLIP's, whose activation nobody knows.
  told("input_resolution.*open_clip_config.json")
  told("directory with its config", None)
  state["input_resolution"] = torch.tensor(64)
  ran = tmp_path / "ran"
  torch.save(state | {"evil": Evil(ran)}, path)
  assert model_files.read(path).has_text and not ran.exists()
  torch.save({k: v for k, v in state.items() if "layer3" not in k}, path)
  told("layers")
  del state["ln_final.weight"]
  torch.save(state, path)
  told(r"missing: ln_final.weight \(64,\)")
  del state["token_embedding.weight"]
  torch.save(state, path)
  told("token_embedding.weight")
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("a/data.pkl", b"\x80\x02]")
  told("a complete file")
