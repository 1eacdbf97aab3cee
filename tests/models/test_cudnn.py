"""Fused attention: its masks as lengths, where it is used, what is refused.

No GPU is needed: JAX's own form of the same function computes the numbers, and
lowering for CUDA shows the kernel's calls.
"""

import collections
import logging
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_convert
from jax._src.cudnn import fused_attention_stablehlo

import tiny
from big_contrastive.config import errors
from big_contrastive.factory import experiment
from big_contrastive.interop import model_files
from big_contrastive.models import attention, cudnn, layers
from big_contrastive.models.build import build_model
from big_contrastive.models.model import merge
from big_contrastive.parallel import multihost

WORDS = types.SimpleNamespace(
  length=8, vocab_size=50, pad_id=0, bos_id=None, eos_id=1
)
IMAGE = {"variant": "mu/8", "res": 24}  # 9 tokens, and heads of 16.
TEXT = {"variant": "mu", "out_dim": 32}


@pytest.fixture
def cuda(monkeypatch):
  """Looks like a machine with a GPU whose cuDNN works."""
  monkeypatch.setattr(cudnn, "platform", lambda: "cuda")
  monkeypatch.setattr(cudnn, "failure", lambda width: None)
  monkeypatch.setattr(
    fused_attention_stablehlo, "check_cudnn_version", lambda: 91000
  )


def built(**fields):
  sections = {"image": IMAGE, "text": TEXT, "dtype": "bfloat16"}
  return build_model(sections | fields, WORDS)


def calls(f, *args):
  """How often the lowered function calls cuDNN: forward, backward."""
  lowered = jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",))
  found = re.findall(r"custom_call @__cudnn\$(\w+)", lowered.as_text())
  found = collections.Counter(found)
  forward, backward = "fmhaSoftmax", "fmhaSoftmaxBackward"
  assert found.keys() <= {forward, backward}
  return found[forward], found[backward]


def exact(query, key, value, given, visible):
  """Attention in float64, and its gradients for that of the result."""
  q, k, v, given = (
    np.float64(x).swapaxes(1, 2) for x in (query, key, value, given)
  )
  scale = q.shape[-1] ** -0.5
  logits = np.where(visible, q @ k.swapaxes(2, 3) * scale, -np.inf)
  p = np.exp(logits - logits.max(axis=-1, keepdims=True))
  p /= p.sum(axis=-1, keepdims=True)
  dp = given @ v.swapaxes(2, 3)
  ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * scale
  found = p @ v, ds @ k, ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ given
  return [x.swapaxes(1, 2) for x in found]


# Queries, keys, causal, lengths.
FORMS = {
  "all": (7, 7, False, None),
  "all, even": (4, 6, False, None),
  "to a longer one": (4, 7, False, None),
  "causal": (7, 7, True, None),
  "padding": (7, 7, False, [7, 3, 1]),
  "padding of another": (5, 6, False, [6, 3, 1]),
  "causal and padding": (7, 7, True, [7, 3, 1]),
}


def inputs(rows, keys):
  r = np.random.default_rng(0)
  shapes = [(3, n, 2, 8) for n in (rows, keys, keys, rows)]
  return [np.float32(r.normal(size=shape)) for shape in shapes]


@pytest.fixture(scope="module")
def both():
  """By form: what the two ways to compute attention return, and gradients."""

  def run(arrays):
    found = {}
    for form, (_, keys, causal, lengths) in FORMS.items():
      *x, given = arrays[form]
      mask = None
      if lengths is not None:
        mask = jnp.arange(keys)[None] < jnp.array(lengths)[:, None]

      def fused(*x, causal=causal, mask=mask):
        return cudnn.attend(*x, causal, mask, implementation="xla")

      def einsum(*x, causal=causal, mask=mask):
        return attention.attend(*x, causal, mask)

      for name, f in (("fused", fused), ("einsum", einsum)):
        y, pull = jax.vjp(f, *x)
        found[form, name] = [y, *pull(given)]
    return found

  arrays = {form: inputs(*sizes[:2]) for form, sizes in FORMS.items()}
  return jax.jit(run)(arrays)


@pytest.mark.parametrize("form", FORMS)
def test_lengths_are_masks_in_values_and_gradients(form, both):
  rows, keys, causal, lengths = FORMS[form]
  visible = np.ones((3, 1, rows, keys), bool)
  if causal:
    visible &= np.tri(rows, keys, dtype=bool)
  if lengths:
    visible &= (np.arange(keys) < np.array(lengths)[:, None])[:, None, None]
  expected = exact(*inputs(rows, keys), visible)
  for name in ("fused", "einsum"):
    for a, e in zip(both[form, name], expected, strict=True):
      np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5, err_msg=name)


def test_what_the_kernel_takes():
  def takes(rows=8, keys=8, width=64, dtype="bfloat16", causal=False):
    query, key = (jnp.zeros((1, n, 1, width), dtype) for n in (rows, keys))
    return cudnn.takes(query, key, causal)

  assert takes() and takes(197, 729) and takes(causal=True)
  assert takes(width=72) and takes(width=128) and takes(dtype="float16")
  assert not takes(dtype="float32") and not takes(rows=1)
  assert not takes(width=36) and not takes(width=136)
  # Causal among unequal lengths has two meanings; by example, no kernel.
  assert not takes(rows=4, causal=True)
  assert not takes(causal=jnp.ones(2, bool))


@pytest.mark.parametrize(
  ("remat", "forward"),
  [(layers.REMAT, 2), ("nothing_saveable", 4)],
)
def test_both_towers_call_the_kernel_and_remat_not_twice(remat, forward, cuda):
  text = TEXT | {"causal": True, "pad_id": 0, "pool": "first"}
  model = built(text=text, remat=remat)

  def total(params, image, tokens):
    towers = merge(model.graph, params)
    return (towers.embed_image(image) * towers.embed_text(tokens)).sum()

  shapes = (
    jax.ShapeDtypeStruct((2, 24, 24, 3), jnp.uint8),
    jax.ShapeDtypeStruct((2, 8), jnp.int32),
  )
  # One in each tower's scanned block; the MAP head of the images has none.
  found = calls(jax.grad(total), model.shapes, *shapes)
  assert found == (forward, 2)


@pytest.mark.parametrize(
  "fields", [{"dtype": "float32"}, {"attention": "einsum"}]
)
def test_float32_and_einsum_call_no_kernel(fields, cuda):
  assert not built(**fields).abstract.img.encoder.blocks.attention.fused


def test_a_decoder_calls_it_where_causality_is_not_by_example(cuda):
  decoder = {"variant": "mu", "vocab_size": 50, "parallel": True}
  model = built(text=None, decoder=decoder, remat=None)
  dec = model.abstract.dec

  def decode(dec, x, memory, causal=True):
    return dec.decoded(x, memory, causal=causal)

  x = jax.ShapeDtypeStruct((2, 8, 32), jnp.bfloat16)
  memory = jax.ShapeDtypeStruct((2, 9, 32), jnp.bfloat16)
  by_example = jax.ShapeDtypeStruct((2,), bool)
  assert calls(decode, dec, x, memory) == (2, 0)
  assert calls(decode, dec, x, memory, by_example) == (1, 0)
  cache = jax.eval_shape(lambda dec, m: dec.start(m, 8), dec, memory)
  assert calls(lambda dec, x, c: dec.step(x, c), dec, x, cache) == (1, 0)


def test_a_mask_that_is_no_length_is_not_fused(cuda):
  for shifted in (False, True):
    cls = {"pool": "cls", "pad_id": 0, "causal": True, "shifted_mask": shifted}
    pooled = IMAGE | {"pool": "queries", "queries": 3, "out_dim": 32}
    model = built(text=TEXT | cls, image=pooled).abstract
    assert model.txt.encoder.blocks.attention.fused == shifted
    assert model.img.encoder.blocks.attention.fused
    assert not model.img.head.attention.fused


REFUSED = {
  "no GPU": ({}, "without an NVIDIA GPU. Leave it out"),
  "float32": ({"dtype": "float32"}, "dtype = 'float32'. Set config.model.dt"),
  "width": ({"image": IMAGE | {"heads": 8}}, "4 features. cuDNN takes mul"),
  "no blocks": (
    {"image": {"tower": "resnet", "depth": 18, "res": 32}, "text": None},
    "without such blocks. Leave it out",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_cudnn_where_it_cannot_be_is_refused(case):
  fields, said = REFUSED[case]
  where = 'config.model.attention = \'cudnn\'; expected "auto" or "einsum"'
  with pytest.raises(errors.UserError, match=re.escape(said)) as e:
    built(attention="cudnn", **fields)
  assert str(e.value).startswith(where) and "\n" not in str(e.value)
  built(**fields)  # "auto" is einsum there.


def test_auto_falls_back_with_a_warning(cuda, monkeypatch, caplog):
  monkeypatch.setattr(cudnn, "failure", lambda width: f"fails: no {width}")
  with caplog.at_level(logging.WARNING):
    assert not cudnn.choose("auto", "bfloat16", [64, 64, 36])
  expected = "attention by einsum: cuDNN's kernel fails: no 64"
  assert [r.getMessage() for r in caplog.records] == [expected]
  with pytest.raises(errors.UserError, match="The kernel fails: no 64.$"):
    cudnn.choose("cudnn", "bfloat16", [64])


def test_the_kernel_is_tried_beside_another(monkeypatch):
  tried = cudnn.failure.__wrapped__
  assert tried(16) == "fails: cuDNN is not detected"  # By JAX, here.
  real = cudnn.attend

  def stand_in(*args):
    return real(*args[:-1], "xla") * factor

  monkeypatch.setattr(cudnn, "attend", stand_in)
  factor = 1.0
  assert tried(16) is None


@pytest.mark.parametrize("found", [1.2, np.nan])
def test_wrong_numbers_are_a_failure(found, monkeypatch):
  def attend(query, key, value, causal, mask, implementation):
    return query * (found if implementation == "cudnn" else 1.0)

  monkeypatch.setattr(cudnn, "attend", attend)
  assert cudnn.failure.__wrapped__(16) == "gives other numbers than einsum"


def test_a_model_trained_by_cudnn_is_loaded_anywhere(tmp_path, monkeypatch):
  bundle = test_convert.model()
  bundle.model["attention"] = "cudnn"
  with monkeypatch.context() as patch:
    patch.setattr(cudnn, "choose", lambda wanted, dtype, widths: True)
    model_files.write(bundle, tmp_path / "model", "checkpoint")
  again = model_files.read(str(tmp_path / "model"))
  assert "attention" not in again.model and again.build()


def test_processes_that_differ_end_at_once(monkeypatch):
  monkeypatch.setattr(multihost, "all_have", lambda text: text != "False")
  with pytest.raises(errors.UserError, match="config.model.attention = 'auto'"):
    experiment.build(tiny.load("siglip", "smoke"))
