"""A model's structure, without arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.nnx as nnx
import jax

from big_contrastive.config import rules
from big_contrastive.models import layers
from big_contrastive.models.attention import Attention
from big_contrastive.models.model import Model, merge, split, variables


class Built(NamedTuple):
  """A model's structure, and the function that creates the model.

  Attributes:
    make: key -> Model.
    abstract: the Model, with shapes for arrays.
    graph: its structure.
    shapes: its parameters, a nested dict of shapes.
    statistics: its running statistics, a nested dict of shapes; mostly empty.
  """

  make: Callable[[jax.Array], Model]
  abstract: Model
  graph: nnx.GraphDef
  shapes: dict[str, Any]
  statistics: dict[str, Any]

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Returns new parameters, a nested dict."""
    return split(self.make(key))[1]

  def init_statistics(self) -> dict[str, Any]:
    """Returns new running statistics, a nested dict."""
    return split(self.make(jax.random.key(0)))[2] if self.statistics else {}

  @property
  def variables(self) -> dict[str, Any]:
    """The shapes of parameters and running statistics, a nested dict."""
    return variables(self.shapes, self.statistics)

  @property
  def fused(self) -> bool:
    """Whether cuDNN computes attention of its blocks."""
    return any(block.fused for block in fusible(self.abstract))

  @property
  def parts(self) -> frozenset[str]:
    """The names of its parts: "img", "txt", "dec", "t", "b" and heads."""
    # An image tower of stored vectors has no parameters.
    return frozenset(self.shapes) | {"img"}

  def frozen_parts(self, frozen: frozenset[str]) -> frozenset[str]:
    """Returns the parts all of whose parameters are frozen, by flat name."""
    flat = rules.flatten(self.shapes)
    trained = {name.partition("/")[0] for name in flat.keys() - frozen}
    return self.parts - trained

  def lock(self, frozen: frozenset[str]) -> "Built":
    """Returns the model without gradients of blocks that are frozen.

    Of the lowest ones of each layers.Transformer, up to the first of which any
    parameter is trained.

    Args:
      frozen: flat names of parameters, or of pieces of stacked ones.
    """
    if not any(map(rules.stacked, frozen)):
      return self
    still: dict[str, list[int]] = {}
    for name, depth in rules.depths(self.shapes).items():
      stack = name.partition("/blocks/")[0]
      first = (n for n in range(1, depth) if rules.piece(name, 0, n) in frozen)
      count = depth if name in frozen else next(first, 0)
      still.setdefault(stack, []).append(count)
    model = merge(self.graph, self.shapes, self.statistics)
    for stack, counts in still.items():
      encoder = functools.reduce(getattr, stack.split("/"), model)
      if (
        isinstance(encoder, layers.Transformer) and min(counts) < encoder.depth
      ):
        encoder.locked = min(counts)
    return self._replace(graph=split(model)[0])


def fusible(model: Model) -> list[Attention]:
  """Returns the attention that cuDNN may compute."""
  modules = [module for _, module in nnx.iter_modules(model)]
  return [m for m in modules if isinstance(m, Attention) and m.fusible]
