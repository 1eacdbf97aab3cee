"""Checks that arrays and metrics are finite; if not, exit code 3.

These checks keep a NaN from reaching an evaluator. As a second guard, the
comparisons in evals/ are written so that a NaN loses.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from big_contrastive.config import errors

# The remedy for weights.
ANOTHER = "No figure of it means anything: take another checkpoint."

_UNIT = 1e-3  # How far a unit vector's norm may be from 1, by rounding.


def arrays(tree: Any, what: str, remedy: str) -> None:
  """Raises RunError unless all values in a tree are finite; one pass.

  Args:
    tree: nested; numpy arrays, or jax arrays under any sharding. float64 must
      be finite as float32, which it becomes on a device. A "t" at the top is
      the log-temperature: exp(t) must be finite too.
    what: the tree's name, for the error.
    remedy: how to fix it.
  """
  leaves = [
    (jax.tree_util.keystr(path, simple=True, separator="/"), x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  ]
  on_devices = [x for _, x in leaves if isinstance(x, jax.Array)]
  fine = iter(jax.device_get(_all_finite(on_devices)) if on_devices else ())
  bad = []
  for name, x in leaves:
    if isinstance(x, jax.Array):
      if not next(fine):
        bad.append(name)
    elif not (finite := _finite(x)).all():
      wrong = finite.size - np.count_nonzero(finite)
      bad.append(f"{name} ({wrong:,} of {finite.size:,} values)")
    elif name == "t" and not np.isfinite(_exp(x)):
      bad.append(f"exp(t), t = {float(x):g}")
  if bad:
    message = f"{what}: not finite: {listed(bad)}. {remedy}"
    raise errors.RunError(message, errors.BAD_NUMBERS)


@jax.jit
def _all_finite(arrays: list[jax.Array]) -> list[jax.Array]:
  return [jnp.isfinite(x).all() for x in arrays]


def _finite(x: Any) -> np.ndarray:
  x = np.asarray(x)
  with np.errstate(over="ignore"):
    return np.isfinite(x.astype(np.float32) if x.dtype == np.float64 else x)


def _exp(t: Any) -> np.float32:
  with np.errstate(over="ignore"):
    return np.exp(np.float32(t))


def unit(
  z: np.ndarray, what: str, name: Callable[[int], str], first: int = 0
) -> None:
  """Raises RunError unless all rows are vectors of length 1.

  A model yields a vector of length 0 if its features are 0 or overflow; such a
  vector has the same score with everything.

  Args:
    z: [n, d].
    what: the kind of row, "images", for the error.
    name: the number of a row -> a name by which to find its input.
    first: the number of the first row.
  """
  with np.errstate(all="ignore"):
    norm = np.linalg.norm(np.asarray(z, np.float32), axis=-1)
  bad = np.flatnonzero(~(np.abs(norm - 1) < _UNIT))
  if not len(bad):
    return
  wrong = "of length " + ", ".join(sorted({f"{x:.3g}" for x in norm[bad[:4]]}))
  if not np.isfinite(norm[bad]).all():
    wrong = "not finite"
  names = listed([name(first + int(i)) for i in bad[:4]], len(bad))
  raise errors.RunError(
    f"embeddings of {len(bad)} of {len(z)} {what} are {wrong}, not unit "
    f"vectors: {names}. No figure of them means anything: the model's "
    "parameters, or what it computes on the way, are too large or zero.",
    errors.BAD_NUMBERS,
  )


def figures(
  task: str, results: Iterable[tuple[str, Any]]
) -> Iterator[tuple[str, float | PIL.Image.Image]]:
  """Yields an evaluator's results, each checked, numbers as floats.

  Args:
    task: the evaluator's name, for the errors.
    results: (name, number or picture).

  Raises:
    RunError: for a number that is not finite.
    UserError: for a value that is neither a number nor a picture, or a name
      that occurs twice.
  """
  seen = set()
  for name, value in results:
    if not isinstance(value, PIL.Image.Image):
      try:
        value = float(value)
      except (TypeError, ValueError) as e:
        thing, kind = f"{task}/{name}", type(value).__name__
        remedy = f"Fix evals/{task}.py."
        allowed = "a number or a PIL image"
        raise errors.UserError(thing, kind, allowed, remedy) from e
      if not math.isfinite(value):
        raise errors.RunError(
          f"{task}/{name} is {value}, and no figure: it came from nothing, or "
          "from numbers that are not finite. Look at the model and the data.",
          errors.BAD_NUMBERS,
        )
    if name in seen:
      allowed, remedy = "each name once", f"Fix evals/{task}.py."
      raise errors.UserError(f"{task}/{name}", value, allowed, remedy)
    seen.add(name)
    yield name, value


def listed(names: list[str], count: int | None = None) -> str:
  """Returns the first four names, and how many more there are."""
  more = (len(names) if count is None else count) - 4
  return ", ".join(names[:4]) + f" and {more} more" * (more > 0)
