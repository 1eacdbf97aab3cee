"""The 3 x 3 convolution: its gradients by both ways, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_contrastive.models import convolution
from big_contrastive.parallel import sharding


def arrays(b=6, h=7, w=5, c=3, d=4, dtype=np.float32):
  """Images, a kernel and a gradient of the result."""
  r = np.random.default_rng(0)
  shapes = (b, h, w, c), (3, 3, c, d), (b, h, w, d)
  return [r.normal(size=shape).astype(dtype) for shape in shapes]


def by_definition(x, kernel, dy):
  """The result and both gradients, by loops over pixels, float64."""
  x, kernel, dy = (np.asarray(v, np.float64) for v in (x, kernel, dy))
  b, h, w, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y, dx, dkernel = np.zeros_like(dy), np.zeros_like(padded), kernel * 0
  for i in range(3):
    for j in range(3):
      part = padded[:, i : i + h, j : j + w]
      y += part @ kernel[i, j]
      dkernel[i, j] = np.einsum("bhwc,bhwd->cd", part, dy)
      dx[:, i : i + h, j : j + w] += dy @ kernel[i, j].T
  return y, dx[:, 1:-1, 1:-1], dkernel


@pytest.mark.parametrize("b", [1, 6, 7])
@pytest.mark.parametrize(
  "pixels, h, w",
  [(1, 7, 5), (100, 7, 5), (2048, 7, 5), (2048, 1, 1), (8, 2, 2), (8, 1, 4)],
)
def test_it_and_its_gradients_are_those_of_the_definition(
  b, pixels, h, w, monkeypatch
):
  monkeypatch.setattr(convolution, "_PIXELS", pixels)
  x, kernel, dy = arrays(b, h, w)
  y, pull = jax.vjp(convolution.conv3x3, x, kernel)
  found = (y, *pull(jnp.asarray(dy)))
  for a, wanted in zip(found, by_definition(x, kernel, dy), strict=True):
    np.testing.assert_allclose(a, wanted, rtol=1e-5, atol=1e-5)


def test_other_platforms_take_xlas_gradient_which_is_the_same():
  x, kernel, dy = arrays()
  by_products = convolution._by_products(x, dy, kernel)
  # Of values up to 20, whose float32 has steps of 2e-6, summed in two orders.
  largest = np.abs(by_products).max()
  np.testing.assert_allclose(
    convolution._by_transpose(x, dy, kernel), by_products, atol=1e-6 * largest
  )
  gradient = jax.jit(lambda *a: jax.vjp(convolution.conv3x3, *a[:2])[1](a[2]))
  traced = gradient.trace(x, kernel, dy)
  of = {p: traced.lower(lowering_platforms=(p,)) for p in ("cpu", "tpu")}
  assert "while" in of["cpu"].as_text()
  assert "while" not in of["tpu"].as_text()


def test_the_smallest_images_are_a_product_on_cpus_alone():
  x, kernel, _ = arrays(h=2, w=2)
  forward = jax.jit(convolution.conv3x3).trace(x, kernel)
  of = {p: forward.lower(lowering_platforms=(p,)) for p in ("cpu", "tpu")}
  assert "convolution" not in of["cpu"].as_text()
  assert "convolution" in of["tpu"].as_text()


def test_the_kernels_gradient_is_summed_in_float32_at_least():
  x, kernel, dy = arrays(b=64, dtype=jnp.bfloat16)
  found = convolution._by_products(x, dy, kernel)
  assert found.dtype == jnp.bfloat16
  wanted = by_definition(x, kernel, dy)[2]
  np.testing.assert_allclose(found.astype(float), wanted, rtol=2**-7, atol=0.05)


def test_devices_change_nothing():
  x, kernel, dy = arrays(b=16)
  rows = sharding.batch(sharding.make_mesh())
  gradient = jax.jit(lambda *a: jax.vjp(convolution.conv3x3, *a[:2])[1](a[2]))
  found = gradient(jax.device_put(x, rows), kernel, jax.device_put(dy, rows))
  wanted = by_definition(x, kernel, dy)[1:]
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
