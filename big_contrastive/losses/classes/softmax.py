"""Cross entropy with several weighted targets, as SuperClass (2411.03313)."""

from jaxtyping import Array, Float, Int

from big_contrastive.losses import _classes, _ring
from big_contrastive.losses._ring import Axis


def loss(
  x: Float[Array, "b w"],
  kernel: Float[Array, "w v"],
  bias: Float[Array, " v"],
  labels: Int[Array, "b k"],
  weights: Float[Array, "b k"],
  *,
  axis: Axis = None,
  split: str | None = None,
  tile: int | None = None,
) -> Float[Array, ""]:
  """Returns sum_j weights_j (lse(s) - s[labels_j]), mean over rows.

  s = x kernel + bias are a row's logits. Memory is that of `tile` rows of them
  and one gradient of the kernel; 6 b w v flops a device.

  Args:
    x: features of this device's rows, float32 or bfloat16.
    kernel, bias: of the classes; with `split`, this device's part.
    labels: classes of each row.
    weights: of the labels, constants; 0 where there is none. Their sum is
      usually 1.
    axis, split, tile: see _classes.total.
  """
  total = _classes.total(
    "logsumexp", x, kernel, bias, labels, weights, weights.sum(-1),
    axis=axis, split=split, tile=tile,
  )  # fmt: skip
  return total / (len(x) * _ring.size(axis))
