"""Flat names of parameters, and rules over them."""

import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flax import traverse_util

from big_contrastive.config import errors

Rules = Sequence[tuple[str, Any]]


class PerLayer(tuple):
  """Values of the layers of a stacked parameter, where they differ."""


# {"img": {"pos": leaf}} -> {"img/pos": leaf}, in its order; and back.
flatten = functools.partial(traverse_util.flatten_dict, sep="/")
unflatten = functools.partial(traverse_util.unflatten_dict, sep="/")


def shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
  """Returns each leaf's shape by flat name."""
  return {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()}


def depths(tree: dict[str, Any]) -> dict[str, int]:
  """Returns the number of layers of each stacked parameter, by flat name."""
  return {k: shape[0] for k, shape in shapes(tree).items() if stacked(k)}


def match(
  rules: Rules,
  names: Iterable[str],
  where: str,
  depths: Mapping[str, int] | None = None,
) -> dict[str, Any]:
  """Returns each name's value: that of the first rule that matches it fully.

  Args:
    rules: (regular expression, value) pairs. In a pattern, blocks[10:],
      blocks[-2:] and blocks[3] are layers of stacked parameters, as Python
      slices and indexes a list.
    names: flat parameter names.
    where: the config field that holds the rules, for errors.
    depths: layers of stacked parameters; None where a parameter has one value.

  Returns:
    Values by name; PerLayer where the layers' differ.

  Raises:
    UserError: for a name without a rule, or a rule that is never the first to
      match: a typo, or shadowed by an earlier rule.
  """
  names = list(names)
  values, used = {}, set()
  patterns = [_Pattern(rule, where, depths is not None) for rule in rules]
  for name in names:
    depth = (depths or {}).get(name)
    firsts = []
    for layer in range(depth or 1):
      hits = (
        i for i, p in enumerate(patterns)
        if p.matcher(layer, depth).fullmatch(name)
      )  # fmt: skip
      first = next(hits, None)
      if first is None:
        remedy = 'Add a last rule for the rest: (".*", ...).'
        lacks = name if depth is None else piece(name, layer, layer + 1)
        raise errors.UserError(
          where, lacks, "a rule for every parameter", remedy
        )
      firsts.append(first)
    used |= {*firsts}
    own = PerLayer(rules[first][1] for first in firsts)
    values[name] = own if any(x != own[0] for x in own) else own[0]
  for i, rule in enumerate(rules):
    if i not in used:
      remedy = errors.closest(rule[0], names, "Drop it, or correct it.")
      allowed = "a pattern that is the first to match some parameter"
      raise errors.UserError(f"{where}[{i}]", rule[0], allowed, remedy)
  return values


_BLOCKS = re.compile(r"blocks\[(-?\d*)(:?)(-?\d*)\]")


class _Pattern:
  """A rule's pattern, of names and of layers."""

  def __init__(self, rule: Any, where: str, by_layer: bool):
    try:
      self._text, _ = rule
      self.matcher(0, 1)
    except (TypeError, ValueError, re.error) as e:
      allowed = "a pair (regular expression, value)"
      raise errors.UserError(where, rule, allowed, f"It fails: {e}.") from e
    if not by_layer and _BLOCKS.search(self._text):
      allowed = "a pattern without layers"
      remedy = "Here all layers of a parameter have one value: write blocks."
      raise errors.UserError(where, self._text, allowed, remedy)

  def matcher(self, layer: int, depth: int | None) -> re.Pattern:
    """Returns the pattern for names, where a stacked one has this layer."""

    def inside(found: re.Match) -> str:
      layers = _slice(*found.groups())
      has = depth is not None and layer in range(depth)[layers]
      return "blocks" if has else "(?!)"  # That never matches.

    return re.compile(_BLOCKS.sub(inside, self._text))


def _slice(first: str, colon: str, last: str) -> slice:
  if colon:
    return slice(int(first) if first else None, int(last) if last else None)
  index = int(first)
  return slice(index, index + 1 or None)


def piece(name: str, start: int, stop: int) -> str:
  """Returns the name of layers start to stop of a stacked parameter."""
  return name.replace("/blocks/", f"/blocks[{start}:{stop}]/")


def whole(name: str) -> tuple[str, slice]:
  """Returns the parameter that a name is a piece of, and its layers."""
  found = _BLOCKS.search(name)
  if not found:
    return name, slice(None)
  return _BLOCKS.sub("blocks", name), _slice(*found.groups())


def pieces(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yields each parameter's value; of PerLayer, by runs of equal layers."""
  for name, value in values.items():
    if not isinstance(value, PerLayer):
      yield name, value
      continue
    start = 0
    for one, run in itertools.groupby(value):
      stop = start + len(list(run))
      yield piece(name, start, stop), one
      start = stop


def of_pieces(
  values: Mapping[str, Any], names: Iterable[str]
) -> dict[str, Any]:
  """Returns the values of parameters for names that may be of pieces."""
  found = {}
  for name in names:
    of, layers = whole(name)
    value = values[of]
    found[name] = (
      PerLayer(value[layers]) if isinstance(value, PerLayer) else value
    )
  return found


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
  return "/blocks/" in name or _BLOCKS.search(name) is not None


def sides(name: str, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the axes of a weight that are its inputs, and those of its outputs.

  The outputs are the last axis, or the last two, heads and their width, of the
  projections to query, key and value. All others but the layers are inputs.
  """
  heads = name.endswith(("/query/kernel", "/key/kernel", "/value/kernel"))
  first = int(stacked(name))
  last = first + 1 if heads else ndim - 1
  return tuple(range(first, last)), tuple(range(last, ndim))


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
