"""What a model's classifier of captions' words says of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from big_contrastive.config import finite
from big_contrastive.data.source import Source, as_source
from big_contrastive.evals import Classes, labels
from big_contrastive.models.model import merge
from big_contrastive.parallel import sharding

if TYPE_CHECKING:
  from big_contrastive.inference.embedder import Embedder
  from big_contrastive.inference.model import Model


def bound(
  embedder: Embedder, params: dict[str, Any], check: Callable[[], None]
) -> Classes | None:
  """Returns the functions that evaluators get; None without a classifier.

  Args:
    embedder: of the model.
    params: of the model.
    check: called before each batch, on every process.
  """
  tokenizer = embedder.labels
  if tokenizer is None:
    return None
  graph = embedder.graph

  def compute(params: dict[str, Any], batch: Any) -> tuple[jax.Array, ...]:
    model = merge(graph, params["model"])
    x = model.img(batch["image"], None)
    head = getattr(model, "classifier")  # noqa: B009  # Any model's part.
    return head.logits(x, params["columns"]), batch["label"]

  where = sharding.replicated(embedder.mesh)
  jitted = jax.jit(compute, out_shardings=where)

  def logits(
    source: Source, columns: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    placed = jax.device_put(np.asarray(columns, np.int32), where)
    both = {"model": params, "columns": placed}
    parts = [*embedder.over(jitted, both, as_source(source), check)]
    found, label = (np.concatenate(x) for x in zip(*parts, strict=True))
    finite.arrays({"logits": found}, "the classifier", finite.ANOTHER)
    return found, label

  count = params["classifier"]["linear"]["bias"].shape[0]
  return Classes(count, tokenizer.rows, logits)


class Rows(NamedTuple):
  """A classifier of other classes, to begin training with.

  Attributes:
    kernel: float32 [w, C], on what the head's `inputs` returns.
    bias: float32 [C].
    unknown: names without a word of the vocabulary, whose column is zeros.
  """

  kernel: np.ndarray
  bias: np.ndarray
  unknown: list[str]


def transferred(model: Model, names: Sequence[str]) -> Rows:
  """Returns a linear classifier of classes by name (CatLIP, section 4.2).

  A class has the mean of the columns of its name's labels, so that its logit
  is the mean of theirs.

  Args:
    model: of inference.model.load, with a classifier of captions' words.
    names: of the classes.

  Raises:
    UserError: for a model without such a classifier.
  """
  classes = labels.require(model.embedder.bound(model.params))
  linear = jax.device_get(model.params["classifier"]["linear"])
  kernel, bias = linear["kernel"], linear["bias"]
  share = np.zeros((len(bias), len(names)), np.float32)
  for column, row in enumerate(classes.rows(list(names))):
    found = np.unique(row[row < len(bias)])
    share[found, column] = 1 / max(1, len(found))
  unknown = [n for n, used in zip(names, share.any(0)) if not used]
  return Rows(kernel @ share, bias @ share, unknown)
