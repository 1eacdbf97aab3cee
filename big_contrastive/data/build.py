"""Builds sources from the sections of a config that describe them."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

from big_contrastive.config import errors, registry, schema
from big_contrastive.data import filters, spec
from big_contrastive.data.mixture import Mixture
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import operations

Opener = Callable[[Callable[[], Source]], Source]


def _open(make: Callable[[], Source]) -> Source:
  return make()


def build_source(
  config: dict[str, Any] | str, where: str, opener: Opener = _open
) -> Source:
  """Returns the source that a section of a config, or a string, describes.

  Args:
    config: a string as spec.parse takes it; {"name": ..., arguments of the
      function `source` in that file of data/sources, and "filter": arguments
      of filters.apply}; or a mixture, {"mixture": [{"weight": ..., "source":
      one of these, "train_image": operations}, ...], "shared_ids": bool}. By
      default a weight is the number of the source's records, and the
      operations are those of the config.
    where: the field, for errors.
    opener: calls the function that makes a source, whose arguments have been
      checked; a plan does not call it.
  """
  if isinstance(config, str):
    config = spec.parse(config, where)
  kwargs = schema.section(config, where)
  if "mixture" in kwargs:
    extra = {"where": where, "opener": opener}
    return schema.call(_mixture, kwargs, where, extra)
  chosen = kwargs.pop("filter", None)
  name = kwargs.pop("name", "")
  module = registry.module("data.sources", name, f"{where}.name")
  make = schema.complete(module.source, kwargs, where)
  try:
    data = opener(make)
  except errors.UserError as e:
    # A source knows its arguments, but not their section of the config.
    raise e.inside(where, kwargs.keys()) from e
  _tell_skipped(data, where)
  if chosen is not None:
    place = f"{where}.filter"
    chosen, extra = schema.section(chosen, place), {"source": data}
    data = opener(schema.complete(filters.apply, chosen, place, extra))
    _tell_skipped(data, where)
  return data


def source_operations(
  data: Source, where: str
) -> Iterator[tuple[str, operations.Pipeline]]:
  """Yields (field, pipeline) for sources of a mixture with their own one."""
  for i, pipeline in enumerate(data.ops):
    place = f"{where}.mixture[{i}]"
    if pipeline:
      yield f"{place}.train_image", pipeline
    yield from source_operations(data.sources[i], f"{place}.source")


def _tell_skipped(data: Source, where: str) -> None:
  for reason, count in data.skipped.items():
    logging.warning("%s: %d left out: %s", where, count, reason)


def _mixture(
  *,
  mixture: list | tuple,
  shared_ids: bool = False,
  where: str,
  opener: Opener,
) -> Source:
  if not mixture:
    allowed, remedy = "a list of sources", "Add one."
    raise errors.UserError(f"{where}.mixture", mixture, allowed, remedy)
  sources = [
    _of_mixture(part, f"{where}.mixture[{i}]", opener)
    for i, part in enumerate(mixture)
  ]
  data, weights, ops = zip(*sources, strict=True)
  return Mixture(data, weights, ops, shared_ids)


def _of_mixture(
  part: Any, where: str, opener: Opener
) -> tuple[Source, float, Any]:
  kwargs = {"source": part} if isinstance(part, str) else part
  kwargs = schema.section(kwargs, where)
  extra = {"where": where, "opener": opener}
  return schema.call(_part, kwargs, where, extra)


def _part(
  *,
  source: dict | str,
  weight: float | None = None,
  train_image: list | tuple | None = None,
  where: str,
  opener: Opener,
) -> tuple[Source, float, Any]:
  data = build_source(source, f"{where}.source", opener)
  if weight is not None and not 0 < weight < math.inf:
    allowed, remedy = "a number above 0", "Leave the source out instead."
    raise errors.UserError(f"{where}.weight", weight, allowed, remedy)
  ops = train_image and operations.parse(train_image, f"{where}.train_image")
  return data, len(data) if weight is None else weight, ops
