"""Builds evaluators from the sections of a config that describe them."""

from collections.abc import Callable
from typing import Any

from big_contrastive.config import errors, finite, registry, schema
from big_contrastive.data.build import build_source
from big_contrastive.data.source import Source
from big_contrastive.evals import Evaluator


def evaluator(config: dict[str, Any], where: str) -> Evaluator:
  """Returns run(embed_images, embed_texts) of {"task", "source", ...}."""
  return evaluation(config, where, build_source)()


def evaluation(
  config: dict[str, Any],
  where: str,
  read: Callable[[Any, str], Source],
) -> Callable[[], Evaluator]:
  """Returns a function that makes an evaluator; checks the arguments.

  The results of every evaluator are checked by finite.figures.

  Args:
    config: {"task", "source", ...}.
    where: the field, for errors.
    read: makes the source.
  """
  kwargs = schema.section(config, where)
  task = kwargs.pop("task", "")
  module = registry.module("evals", task, f"{where}.task")
  kwargs["source"] = read(kwargs.get("source", {}), f"{where}.source")
  prepare = schema.complete(module.prepare, kwargs, where)

  def evaluator() -> Evaluator:
    if not len(kwargs["source"]):
      allowed, remedy = "one record or more", "There is nothing to evaluate on."
      raise errors.UserError(f"{where}.source", "0 records", allowed, remedy)
    run = prepare()
    return lambda *embed: finite.figures(task, run(*embed))

  return evaluator
