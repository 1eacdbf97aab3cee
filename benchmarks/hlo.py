"""Counts what a compiled program really does, from its optimized HLO text.

`Compiled.cost_analysis()` counts the body of a loop once; here it counts as
often as it runs.
"""

import math
import re
from collections.abc import Callable

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(
  r"^(?:ROOT )?%?([\w.\-]+) = (?:\()?\w+\[([\d,]*)\].*? ([\w\-]+)\((.*)$"
)
_CALLED = re.compile(r"(?:calls|body|to_apply)=%?([\w.\-]+)")
# {{0,2},{1,3}} or [2,2]<=[4]: two groups of two devices.
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def dot_flops(text: str) -> int:
  """Returns the FLOPs of all matrix products that one run executes.

  Args:
    text: `Compiled.as_text()`, of one device's program.

  Raises:
    ValueError: for a loop whose number of trips the compiler doesn't know.
  """

  def flops(line: str, others: dict[str, str]) -> int:
    found = _INSTRUCTION.match(line)
    if found.group(3) != "dot":
      return 0
    # Two a multiply-add: the shape of the result times what is contracted.
    first = re.search(r"%?([\w.\-]+)", found.group(4)).group(1)
    sizes = _shape(others[first])
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line).group(1)
    contracted = math.prod(sizes[int(d)] for d in dims.split(",") if d)
    return 2 * math.prod(_shape(line)) * contracted

  return _total(text, flops)


def reduced_bytes(text: str, devices: int) -> int:
  """Returns the bytes of sums over that many devices that one run takes.

  Those of a device's results of all-reduces and reduce-scatters.

  Args:
    text: see `dot_flops`.
    devices: in each group of a collective.

  Raises:
    ValueError: see `dot_flops`; for groups in another form.
  """

  def size(line: str, others: dict[str, str]) -> int:
    kind = re.search(r" (all-reduce|reduce-scatter)(-start)?\(", line)
    if not kind:
      return 0
    groups = _GROUPS.search(line)
    if groups is None:
      raise ValueError(f"unknown groups: {line[:200]}")
    first, each = groups.groups()
    in_group = int(each) if each else first.count(",") + 1
    return _bytes(line[: kind.start()]) if in_group == devices else 0

  return _total(text, size)


def _total(text: str, of: Callable[[str, dict[str, str]], int]) -> int:
  """Sums of(instruction, its computation) over all that one run executes."""
  computations, entry = _parse(text)
  known: dict[str, int] = {}

  def whole(name: str) -> int:
    if name not in known:
      lines = computations[name]
      known[name] = sum(one(line, lines) for line in lines.values())
    return known[name]

  def one(line: str, others: dict[str, str]) -> int:
    inside = sum(whole(c) for c in _CALLED.findall(line) if c in computations)
    if " while(" in line and inside:
      trips = _TRIPS.search(line)
      if trips is None:
        raise ValueError(f"a loop of unknown length: {line[:200]}")
      inside *= int(trips.group(1))
    return inside + of(line, others)

  return whole(entry)


def _bytes(types: str) -> int:
  """The bytes of "f32[8,2]{1,0}", or of a tuple of such."""
  arrays = re.findall(r"\b[a-z]+(\d+)\w*\[([\d,]*)\]", types)
  return sum(
    math.prod(int(d) for d in dims.split(",") if d) * int(bits) // 8
    for bits, dims in arrays
  )


def _shape(line: str) -> tuple[int, ...]:
  dims = re.search(r"= \(?\w+\[([\d,]*)\]", line).group(1)
  return tuple(int(d) for d in dims.split(",") if d)


def _parse(text: str) -> tuple[dict[str, dict[str, str]], str]:
  """Instructions by name, by computation; and the entry's name."""
  computations: dict[str, dict[str, str]] = {}
  current, entry = None, ""
  for raw in text.splitlines():
    line = raw.strip()
    if raw and not raw[0].isspace() and line.endswith("{"):
      found = _COMPUTATION.match(line)
      if found:
        current = found.group(1)
        computations[current] = {}
        entry = current if line.startswith("ENTRY") else entry
    elif current and (found := _INSTRUCTION.match(line)):
      computations[current][found.group(1)] = line
  return computations, entry
