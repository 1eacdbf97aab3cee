"""What the class token attends to, of a model with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from big_contrastive.config import errors, finite
from big_contrastive.data.source import Source, as_source
from big_contrastive.data.transforms import operations
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding

if TYPE_CHECKING:
  from big_contrastive.inference.embedder import Embedder

Maps = Callable[..., tuple[np.ndarray, np.ndarray]]


def bound(
  embedder: Embedder, params: dict[str, Any], check: Callable[[], None]
) -> Maps:
  """Returns the function that evaluators get, evals.Embed.attention.

  Args:
    embedder: of the model.
    params: of the model.
    check: called before each batch, on every process.
  """

  def attend(params: Any, image: Any) -> jax.Array:
    return merge(embedder.graph, params).attention(image)

  def compute(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    return batch["image"], attend(params, batch["image"])

  def maps(
    source: Source, res: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    image = embedder.image
    if res is not None:
      errors.at_least("res", res, 1)
      how = [("resize", {"size": res})]
      image = operations.parse(how, "res", train=False)
    one = image.blank()
    # A tower or a size that can't be is an error before any work.
    shape = jax.ShapeDtypeStruct((1, *one.shape), one.dtype)
    empty = jax.eval_shape(attend, params, shape)
    where = sharding.replicated(embedder.mesh)
    jitted = jax.jit(compute, out_shardings=where)
    compute_once = embedder.compiled.setdefault("attention", jitted)
    none = tuple(np.zeros((0, *x.shape[1:]), x.dtype) for x in (shape, empty))
    source = as_source(source)
    found = embedder.over(compute_once, params, source, check, image)
    seen, weights = map(np.concatenate, zip(none, *found, strict=True))
    finite.arrays({"attention": weights}, "attention", finite.ANOTHER)
    return seen, weights

  return maps
