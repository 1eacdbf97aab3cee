"""A 3 x 3 convolution that CPUs compute fast, its gradient too."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Pixels that a product of the weights' gradient sees at a time on a CPU: its
# operands then stay in a cache, and no step touches new memory.
_PIXELS = 2048
# Images up to this many pixels are convolved by a product on a CPU, where XLA's
# convolution of 2 x 2 pixels takes ten to twenty times as long.
_FEW = 4


@jax.custom_vjp
def conv3x3(
  x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
  """Returns the convolution with stride 1 and a border of zeros.

  It is jax.lax.conv and has its gradients, but on CPUs it is a product of
  matrices for the smallest images, and so is the kernel's gradient always, for
  which XLA takes up to twenty times as long as for the convolution. It can be
  differentiated once, in reverse mode.

  Args:
    x: images, channels last.
    kernel: height, width, channels in and out.
  """
  return _plain(x, kernel)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
  if x.shape[1] * x.shape[2] > _FEW:
    return _by_xla(x, kernel)
  # By the platform that is compiled for, which need not be this machine's.
  return jax.lax.platform_dependent(x, kernel, cpu=_by_patches, default=_by_xla)


def _by_patches(x, kernel):
  _, h, w, c = x.shape
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  places = [x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
  return jnp.concatenate(places, axis=-1) @ kernel.reshape(9 * c, -1)


def _by_xla(x, kernel):
  names = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=names
  )


def _forward(x, kernel):
  return _plain(x, kernel), (x, kernel)


def _backward(kept, dy):
  x, kernel = kept
  (dx,) = jax.vjp(lambda x: _plain(x, kernel), x)[1](dy)
  dkernel = jax.lax.platform_dependent(
    x, dy, kernel, cpu=_by_products, default=_by_transpose
  )
  return dx, dkernel


def _by_transpose(x, dy, kernel):
  return jax.vjp(lambda kernel: _plain(x, kernel), kernel)[1](dy)[0]


def _by_products(x, dy, kernel):
  """The kernel's gradient: products over a few images at a time."""
  b, h, w, c = x.shape
  some = next(
    n for n in range(min(b, max(1, _PIXELS // (h * w))), 0, -1) if b % n == 0
  )

  def add(total, inputs):
    x, dy = inputs
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Three columns side by side, so that each row of the kernel is a product.
    x = jnp.concatenate([x[:, :, j : j + w] for j in range(3)], axis=-1)
    dy = dy.reshape(-1, dy.shape[-1])
    rows = [x[:, i : i + h].reshape(-1, 3 * c).T for i in range(3)]
    products = [
      jnp.matmul(row, dy, preferred_element_type=jnp.float32) for row in rows
    ]
    return total + jnp.stack(products), None

  # Images of one product lie far apart, so each device has a part of them.
  x, dy = (
    jnp.swapaxes(v.reshape(some, b // some, *v.shape[1:]), 0, 1)
    for v in (x, dy)
  )
  total = jnp.zeros((3, 3 * c, dy.shape[-1]), jnp.float32)
  total, _ = jax.lax.scan(add, total, (x, dy))
  return total.reshape(kernel.shape).astype(kernel.dtype)


conv3x3.defvjp(_forward, _backward)
