"""cuDNN's fused attention on NVIDIA GPUs: no logits in their memory.

FlashAttention (arXiv:2307.08691), by jax.nn.dot_product_attention.
"""

import functools
import logging
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import backend
from jaxtyping import Array, Bool, Float

from big_contrastive.config import errors

Choice = Literal["auto", "einsum", "cudnn"]

DTYPES = ("bfloat16", "float16")
WIDEST = 128  # Features of a head.
# What policies of jax.checkpoint know the forward kernel by. To name its result
# is not enough: its backward pass also needs the sums of its softmax.
FORWARD = "dot_product_attention_fwd_wrapper"
# A wrong kernel is further off; bfloat16 is not.
_TOLERANCE = 0.05


def takes(query: jax.Array, key: jax.Array, causal: Any) -> bool:
  """Returns whether the kernel can compute attention of [b, q or l, h, k].

  Not that of a single query, for which it is not made, nor a choice by example
  of what is causal.
  """
  rows, width = query.shape[1], query.shape[3]
  square = causal is True and rows == key.shape[1]
  return (
    query.dtype.name in DTYPES
    and _fits(width)
    and rows > 1
    and (causal is False or square)
  )


def attend(
  query: Float[Array, "b q h k"],
  key: Float[Array, "b l h k"],
  value: Float[Array, "b l h k"],
  causal: bool,
  mask: Bool[Array, "b l"] | None,
  implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "b q h k"]:
  """Returns what attention.attend does.

  Masks are lengths here: a mask [b, l] would become a bias [b, h, q, l].

  Args:
    query, key, value, causal: see attention.attend.
    mask: keys are seen that are True: the first ones of each example.
    implementation: "xla" runs anywhere, for comparison.
  """
  size, rows, keys = len(query), query.shape[1], key.shape[1]
  lengths = None
  if mask is not None:
    # Past the last True; that of no True is all, as einsum has it.
    lengths = keys - jnp.argmax(mask[:, ::-1], axis=1).astype(jnp.int32)
  elif keys % 2:
    lengths = jnp.full(size, keys, jnp.int32)
  y = jax.nn.dot_product_attention(
    _even(query), _even(key), _even(value), is_causal=causal,
    key_value_seq_lengths=lengths, implementation=implementation,
  )  # fmt: skip
  return y[:, :rows]


def choose(wanted: Choice, dtype: str, widths: Iterable[int]) -> bool:
  """Returns whether the blocks of a model use the kernel.

  With "auto" they do where it works; a warning says if it should, but doesn't.
  Each width is tried once.

  Args:
    wanted: config.model.attention.
    dtype: compute dtype.
    widths: features of the heads of these blocks.

  Raises:
    UserError: if "cudnn" is wanted, and can't be.
  """
  if wanted == "einsum":
    return False
  widths, where = sorted(set(widths)), "config.model.attention"
  if refused := _refusal(wanted, dtype, widths):
    if wanted == "cudnn":
      raise errors.UserError(where, wanted, *refused)
    return False
  wrong = [why for w in widths if _fits(w) and (why := failure(w))]
  if wrong and wanted == "cudnn":
    allowed = '"auto" or "einsum" on this GPU'
    raise errors.UserError(where, wanted, allowed, f"The kernel {wrong[0]}.")
  if wrong:
    logging.warning("attention by einsum: cuDNN's kernel %s", wrong[0])
  return not wrong


def platform() -> str:
  """Returns what is compiled for: "cpu", "tpu", "cuda", "rocm"."""
  name = jax.default_backend()
  if name != "gpu":
    return name
  cuda = "cuda" in backend.get_backend().platform_version
  return "cuda" if cuda else "rocm"


@functools.cache
def failure(width: int) -> str | None:
  """Returns what is wrong with the kernel on this GPU; None if nothing is.

  It does not compile with every CUDA and cuDNN (jax#32430). It is run once,
  forward and backward, with and without masks, beside JAX's own form.

  Args:
    width: features of a head.
  """
  r = np.random.default_rng(0)
  x = jnp.asarray(r.normal(size=(2, 33, 2, width)), jnp.bfloat16)
  mask = jnp.arange(33)[None] < jnp.array([[33], [20]])

  def both(implementation: Literal["cudnn", "xla"]) -> list[np.ndarray]:
    def total(x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
      whole = attend(x, x, x, False, None, implementation)
      half = attend(x, x, x, True, mask, implementation)
      return (whole * half).astype(jnp.float32).sum(), [whole, half]

    found = jax.jit(jax.grad(total, has_aux=True))(x)
    return [np.asarray(y, np.float32) for y in jax.tree.leaves(found)]

  try:
    got = both("cudnn")
  except Exception as e:  # Of XLA, of JAX, of a missing library.
    first = next(iter(str(e).strip().splitlines()), type(e).__name__)
    return f"fails: {first[:200].rstrip('.')}"
  for ours, expected in zip(got, both("xla"), strict=True):
    if not np.abs(ours - expected).max() <= _TOLERANCE * np.abs(expected).max():
      return "gives other numbers than einsum"
  return None


def _refusal(
  wanted: Choice, dtype: str, widths: list[int]
) -> tuple[str, str] | None:
  """What is expected instead of "cudnn", and what to do; None if it can be."""
  others = '"auto" or "einsum"'
  if not widths:
    return f"{others} for a model without such blocks", "Leave it out."
  if dtype not in DTYPES:
    remedy = 'Set config.model.dtype = "bfloat16".'
    return f"{others} with dtype = {dtype!r}", remedy
  wrong = [width for width in widths if not _fits(width)]
  if wrong and (wanted == "cudnn" or wrong == widths):
    allowed = f"{others} with heads of {wrong[0]} features"
    remedy = f"cuDNN takes multiples of 8 up to {WIDEST}: change heads."
    return allowed, remedy
  if platform() != "cuda":
    return f"{others} without an NVIDIA GPU", "Leave it out."
  return None


def _fits(width: int) -> bool:
  return width % 8 == 0 and width <= WIDEST


def _even(x: Float[Array, "b l h k"]) -> Float[Array, "b m h k"]:
  """Adds a row of zeros to an odd number of rows, which JAX refuses."""
  odd = x.shape[1] % 2
  return jnp.pad(x, ((0, 0), (0, odd), (0, 0), (0, 0))) if odd else x
