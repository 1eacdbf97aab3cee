"""Flat names of parameters, and rules over them."""

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from flax import traverse_util

from big_contrastive.config import errors

Rules = Sequence[tuple[str, Any]]


# {"img": {"pos": leaf}} -> {"img/pos": leaf}, in its order; and back.
flatten = functools.partial(traverse_util.flatten_dict, sep="/")
unflatten = functools.partial(traverse_util.unflatten_dict, sep="/")


def shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
  """Returns each leaf's shape by flat name."""
  return {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()}


def match(rules: Rules, names: Iterable[str], where: str) -> dict[str, Any]:
  """Returns each name's value: that of the first rule that matches it fully.

  Args:
    rules: (regular expression, value) pairs.
    names: flat parameter names.
    where: the config field that holds the rules, for errors.

  Raises:
    UserError: for a name without a rule, or a rule that is never the first to
      match: a typo, or shadowed by an earlier rule.
  """
  names = list(names)
  values, used = {}, set()
  patterns = [_compile(rule, where) for rule in rules]
  for name in names:
    hits = (i for i, p in enumerate(patterns) if p.fullmatch(name))
    first = next(hits, None)
    if first is None:
      remedy = 'Add a last rule for the rest: (".*", ...).'
      raise errors.UserError(where, name, "a rule for every parameter", remedy)
    used.add(first)
    values[name] = rules[first][1]
  for i, rule in enumerate(rules):
    if i not in used:
      remedy = f"Drop it or correct it: {errors.closest(rule[0], names)}"
      allowed = "a pattern that is the first to match some parameter"
      raise errors.UserError(f"{where}[{i}]", rule[0], allowed, remedy)
  return values


def _compile(rule: Any, where: str) -> re.Pattern:
  try:
    pattern, _ = rule
    return re.compile(pattern)
  except (TypeError, ValueError, re.error) as e:
    allowed = "a pair (regular expression, value)"
    raise errors.UserError(where, rule, allowed, f"It fails: {e}.") from e


def table(params: dict[str, Any], columns: dict[str, dict[str, Any]]) -> str:
  """Returns one line per parameter: name, shape, then the given columns."""
  flat = flatten(params)
  rows = [
    [name, "x".join(map(str, leaf.shape)) or "()"]
    + [str(column[name]) for column in columns.values()]
    for name, leaf in flat.items()
  ]
  rows = [["name", "shape", *columns], *rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  ]
  return "\n".join([*lines, f"{count(params):,} parameters"])


def stacked(name: str) -> bool:
  """Whether it names a parameter whose first axis is the layers."""
  return "/blocks/" in name


def count(params: dict[str, Any]) -> int:
  """Returns the number of parameters."""
  return sum(math.prod(leaf.shape) for leaf in flatten(params).values())


def compare_shapes(
  source: str,
  stored: dict[str, tuple[int, ...]],
  expected: dict[str, tuple[int, ...]],
) -> None:
  """Raises UserError naming every parameter whose shape differs."""
  differ = [
    f"{name} {stored.get(name, 'missing')} for "
    f"{expected.get(name, 'no such parameter')}"
    for name in sorted(stored.keys() | expected.keys())
    if stored.get(name) != expected.get(name)
  ]
  if differ:
    raise errors.UserError(
      f"parameters of {source}",
      "; ".join(differ),
      "the shapes that config.model asks for",
      "Change config.model, or begin in another workdir.",
    )
