"""Counts what a compiled program really does, from its optimized HLO text.

`Compiled.cost_analysis()` counts the body of a loop once; here it counts as
often as it runs.
"""

import math
import re

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(
  r"^(?:ROOT )?%?([\w.\-]+) = (?:\()?\w+\[([\d,]*)\].*? ([\w\-]+)\((.*)$"
)
_CALLED = re.compile(r"(?:calls|body|to_apply)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def dot_flops(text: str) -> int:
  """Returns the FLOPs of all matrix products that one run executes.

  Args:
    text: `Compiled.as_text()`, of one device's program.

  Raises:
    ValueError: for a loop whose number of trips the compiler doesn't know.
  """
  computations, entry = _parse(text)
  known: dict[str, int] = {}

  def flops(name: str) -> int:
    if name not in known:
      known[name] = sum(one(line, computations[name]) for line in lines(name))
    return known[name]

  def lines(name: str) -> list[str]:
    return list(computations[name].values())

  def one(line: str, others: dict[str, str]) -> int:
    found = _INSTRUCTION.match(line)
    operation, operands = found.group(3), found.group(4)
    if operation == "dot":
      # Two a multiply-add: the shape of the result times what is contracted.
      first = re.search(r"%?([\w.\-]+)", operands).group(1)
      sizes = _shape(others[first])
      dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line).group(1)
      contracted = math.prod(sizes[int(d)] for d in dims.split(",") if d)
      return 2 * math.prod(_shape(line)) * contracted
    inside = sum(flops(c) for c in _CALLED.findall(line) if c in computations)
    if operation == "while" and inside:
      trips = _TRIPS.search(line)
      if trips is None:
        raise ValueError(f"a loop of unknown length: {line[:200]}")
      return int(trips.group(1)) * inside
    return inside

  return flops(entry)


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
