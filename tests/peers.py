"""Other projects' libraries on random models, for parity tests."""

import contextlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.models.model import merge

_kept: list = []  # A declaration lasts as long as its object.


def torch():
  """Returns torch, in which transformers and OpenCLIP can be imported."""
  module = pytest.importorskip("torch")
  pytest.importorskip("safetensors.torch")
  if not _kept and importlib.util.find_spec("torchvision"):
    # A torchvision for GPUs beside a torch for CPUs: two operations that it
    # looks for are declared, nothing here calls them.
    with contextlib.suppress(RuntimeError):
      _kept.append(module.library.Library("torchvision", "DEF"))
      for name in ("nms", "qnms"):
        _kept[0].define(f"{name}(Tensor d, Tensor s, float t) -> Tensor")
  return module


def randomise(model, seed: int = 0):
  """Fills a model with values far from zero, its norms near one."""
  t = torch()
  g = t.Generator().manual_seed(seed)
  with t.no_grad():
    for name, p in model.named_parameters():
      x = t.randn(p.shape, generator=g)
      if p.ndim == 0 or p.numel() == 1:
        p.fill_(1.5 if "scale" in name else -2.5)
      elif p.ndim == 1:
        near = 1.0 if "norm" in name or "ln_" in name else 0.0
        p.copy_(near + 0.3 * x if name.endswith("weight") else 0.3 * x)
      else:
        p.copy_(x * (2.0 / p.shape[-1] ** 0.5 if p.ndim == 2 else 0.3))
  return model.eval()


def inputs(res: int, vocab: int, length: int, eos: int | None = None):
  """Returns uint8 images [4, res, res, 3] and token ids [4, length]."""
  r = np.random.default_rng(0)
  images = r.integers(0, 256, (4, res, res, 3)).astype(np.uint8)
  tokens = r.integers(3, vocab - 2, (4, length)).astype(np.int32)
  if eos is not None:
    for row, end in zip(tokens, (2, 4, length - 1, 3), strict=True):
      row[end:] = eos
  return images, tokens


def pixels(images, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)):
  """Returns normalized torch images [b, 3, h, w]."""
  x = (images / np.float32(255) - np.float32(mean)) / np.float32(std)
  return torch().from_numpy(x.astype(np.float32).transpose(0, 3, 1, 2).copy())


def ours(model: ModelBundle, images, tokens):
  """Unit embeddings and logits of our towers."""
  params = jax.tree.map(jnp.asarray, model.params)
  towers = merge(model.build().graph, params)
  zimg = towers.embed_image(jnp.asarray(images))
  ztxt = towers.embed_text(jnp.asarray(tokens))
  logits = np.exp(model.params["t"]) * zimg @ ztxt.T
  return zimg, ztxt, logits + model.params.get("b", 0)


def check_tensors(*directories):
  """Asserts that the weights of two directories are the same, bit for bit."""
  first, second = (
    safetensors.numpy.load_file(d / "model.safetensors") for d in directories
  )
  assert first.keys() == second.keys()
  for key, value in first.items():
    assert value.shape == second[key].shape, key
    assert value.tobytes() == second[key].tobytes(), key


def check(found, wanted):
  for name, a, b, limit in zip(
    ("zimg", "ztxt", "logits"), found, wanted, (1e-5, 1e-5, 1e-4), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=limit, err_msg=name)
