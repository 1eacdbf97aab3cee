"""Builds evaluators from the sections of a config that describe them."""

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from big_contrastive.config import errors, finite, registry, schema
from big_contrastive.data.build import build_source
from big_contrastive.data.source import Source
from big_contrastive.evals import Embed, Evaluator


def evaluator(config: dict[str, Any], where: str) -> Evaluator:
  """Returns run(embed) of {"task", "source", ...}."""
  return evaluation(config, where, build_source)()


def evaluation(
  config: dict[str, Any],
  where: str,
  read: Callable[[Any, str], Source],
) -> Callable[[], Evaluator]:
  """Returns a function that makes an evaluator; checks the arguments.

  The results of every evaluator are checked by finite.figures.

  Args:
    config: {"task", "source", ...}; `source`, and whatever the evaluator's
      `prepare` annotates as Source, is what config.source may be.
    where: the field, for errors.
    read: makes a source.
  """
  kwargs = schema.section(config, where)
  task = kwargs.pop("task", "")
  module = registry.module("evals", task, f"{where}.task")
  kwargs.setdefault("source", {})
  opened: list[tuple[Any, Source]] = []
  sources = {
    name: _opened(kwargs[name], f"{where}.{name}", read, opened)
    for name in _source_fields(module.prepare, kwargs)
  }
  prepare = schema.complete(module.prepare, kwargs | sources, where)

  def evaluator() -> Evaluator:
    for name, source in sources.items():
      if not len(source):
        allowed = "one record or more"
        remedy = "There is nothing to evaluate on."
        raise errors.UserError(f"{where}.{name}", "0 records", allowed, remedy)
    with inside(where, inspect.signature(module.prepare).parameters):
      run = prepare()

    def figures(embed: Embed) -> Iterator[tuple[str, Any]]:
      with inside(where, inspect.signature(module.prepare).parameters):
        yield from finite.figures(task, run(embed))

    return figures

  return evaluator


@contextlib.contextmanager
def inside(where: str, names: Iterable[str]) -> Iterator[None]:
  """Adds the section's name to errors of arguments, which don't know it."""
  try:
    yield
  except errors.UserError as e:
    raise e.inside(where, names) from e


def _source_fields(prepare: Callable, given: Mapping[str, Any]) -> list[str]:
  """The fields of a section that name data: see the contract in evals/."""
  known, fields = schema.hints(prepare), []
  for name, value in given.items():
    hint = known.get(name)
    sources = Source in (hint, *typing.get_args(hint))
    # None is for an optional source that is left out.
    optional = type(None) in typing.get_args(hint)
    if name == "source" or (sources and not (value is None and optional)):
      fields.append(name)
  return fields


def _opened(
  section: Any,
  where: str,
  read: Callable[[Any, str], Source],
  before: list[tuple[Any, Source]],
) -> Source:
  """Opens a source; of two equal sections, once."""
  for other, source in before:
    if other == section:
      return source
  source = read(section, where)
  before.append((section, source))
  return source
