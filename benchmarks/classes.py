"""CatLIP's loss beside the dense one: memory as compiled, and time.

  python -m benchmarks.classes [--rows 8192] [--timed 512] [--rounds 5]

Value and gradients of 24,320 classes from features of width 768, float32, one
device. Times are medians of rounds that take turns.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.losses.classes import multilabel

_WIDTH, _CLASSES, _LABELS = 768, 24_320, 16


def ours(x, kernel, bias, labels):
  return multilabel.loss(x, kernel, bias, labels, classes=_CLASSES)


def dense(x, kernel, bias, labels):
  """All logits, and a row of zeros and ones for each image."""
  logits = x @ kernel + bias
  rows = jnp.arange(len(x))[:, None]
  y = jnp.zeros(logits.shape).at[rows, labels].set(1)
  return (jax.nn.softplus(logits) - y * logits).sum(-1).mean()


def arguments(rows: int) -> list[np.ndarray]:
  r = np.random.default_rng(0)
  shapes = (rows, _WIDTH), (_WIDTH, _CLASSES), (_CLASSES,)
  floats = [0.05 * r.standard_normal(s, np.float32) for s in shapes]
  labels = r.integers(0, _CLASSES, (rows, _LABELS))
  return [*floats, labels.astype(np.int32)]


def compiled(loss, rows: int):
  """Returns the compiled value and gradients."""
  shapes = jax.eval_shape(lambda: list(map(jnp.asarray, arguments(rows))))
  f = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
  return f.lower(*shapes).compile()


def main() -> None:
  p = argparse.ArgumentParser(description=__doc__)
  p.add_argument("--rows", type=int, default=8192)
  p.add_argument("--timed", type=int, default=512)
  p.add_argument("--rounds", type=int, default=5)
  flags = p.parse_args()
  losses = {"ours": ours, "dense": dense}
  for name, loss in losses.items():
    peak = compiled(loss, flags.rows).memory_analysis().temp_size_in_bytes
    print(f"{name:6} {flags.rows:,} rows: {peak / 2**20:,.0f} MiB")
  given = list(map(jnp.asarray, arguments(flags.timed)))
  timed = {name: compiled(loss, flags.timed) for name, loss in losses.items()}
  times: dict[str, list[float]] = {name: [] for name in losses}
  for turn in range(flags.rounds + 1):
    for name, f in timed.items():
      began = time.perf_counter()
      jax.block_until_ready(f(*given))
      if turn:  # The first one warms up.
        times[name].append(time.perf_counter() - began)
  medians = {name: statistics.median(t) for name, t in times.items()}
  for name, seconds in medians.items():
    share = seconds / medians["dense"]
    print(
      f"{name:6} {flags.timed:,} rows: {seconds:.2f} s, {share:.2f} of dense"
    )


if __name__ == "__main__":
  main()
