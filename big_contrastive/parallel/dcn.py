"""What a compiled program moves between TPU slices, over the data center.

libtpu turns a collective that leaves a slice into transfers of its multislice
runtime, and names the devices of each: nothing here is an estimate but the
bytes of an all-reduce, which are the fewest that it can take.
"""

import math
import re
from typing import NamedTuple

# Bytes that leave each of s slices, per byte of a device's operand.
_LEAVES = {
  "ALL_REDUCE": lambda s: 2 * (s - 1) / s,
  "REDUCE_SCATTER": lambda s: (s - 1) / s,
  "ALL_TO_ALL": lambda s: (s - 1) / s,
  "ALL_GATHER": lambda s: s - 1,
}
_RUNTIME = "xla_megascale_runtime"
_SLICE = 100_000  # Device ids of slice 1 begin there, of slice 2 at twice that.


class Transfer(NamedTuple):
  """A transfer between slices.

  kind: of libtpu: "ONE_TO_ONE", "ALL_REDUCE", ...
  name: of the collective: "ppermute.20".
  pairs: (from, to), the device ids of a ONE_TO_ONE; () of the others.
  times: how often in a run of the program; None if that is not known.
  bytes: that leave each slice at a time; None for an unknown kind.
  """

  kind: str
  name: str
  pairs: tuple[tuple[int, int], ...]
  times: int | None
  bytes: int | None


def transfers(text: str) -> list[Transfer]:
  """Returns all transfers of a program.

  Args:
    text: jax.stages.Compiled.as_text(), of libtpu's compiler.
  """
  program = _Program(text)
  return [
    _transfer(line, program.times(body))
    for body, lines in program.bodies.items()
    for line in lines
    if " send(" in line and _RUNTIME in line
  ]


def leaving(text: str) -> dict[str, int | None]:
  """Returns the bytes that leave each slice in a run of a program, by kind.

  Kinds are "all-reduce", "permute" (the ring of the losses) and so on. None:
  not known.
  """
  found: dict[str, int | None] = {}
  for t in transfers(text):
    one = t.kind == "ONE_TO_ONE"
    kind = "permute" if one else t.kind.lower().replace("_", "-")
    before = found.get(kind, 0)
    known = None not in (before, t.times, t.bytes)
    found[kind] = before + t.times * t.bytes if known else None
  return found


def _transfer(line: str, times: int | None) -> Transfer:
  found = re.search(
    r" = \(([a-z]+\d*)\w*\[([\d,]*)\].*_rendezvous=\"(.*?)(?:_\d+)?\""
    r".*_megascale_target=(\S*?),_xla.*_transfer_type=\"(\w+)\"", line
  )  # fmt: skip
  if not found:  # Of another libtpu.
    return Transfer("UNKNOWN", "", (), times, None)
  dtype, shape, name, target, kind = found.groups()
  target = target.strip('"')
  bits = re.search(r"\d+", dtype)
  each = math.prod(int(x) for x in shape.split(",") if x)
  each *= math.ceil(int(bits[0]) / 8) if bits else 1
  if kind == "ONE_TO_ONE":
    ends = re.findall(r"(\d+)->(\d+)", target)
    pairs = tuple((int(a), int(b)) for a, b in ends)
    sources = [a // _SLICE for a, _ in pairs]
    return Transfer(kind, name, pairs, times, each * _most(sources))
  # "{1,2}x{0:3}": all devices of these slices whose numbers are from 0 to 3.
  slices, _, members = target.partition("x")
  leaves = _LEAVES.get(kind)
  size = _count(members) * each
  moved = round(size * leaves(_count(slices))) if leaves and members else None
  return Transfer(kind, name, (), times, moved)


def _most(values: list[int]) -> int:
  return max((values.count(value) for value in values), default=0)


def _count(of: str) -> int:
  """Returns the numbers of "{0,2}", 2, or of "{0:3}", 4."""
  ends = [part.split(":") for part in of.strip("{}").split(",")]
  return sum(int(end[-1]) - int(end[0]) + 1 for end in ends if end[0])


class _Program:
  """An HLO module as text: its computations, and how often each runs."""

  def __init__(self, text: str):
    self.bodies: dict[str, list[str]] = {}
    self.entry = ""
    lines: list[str] = []
    for line in text.splitlines():
      if head := re.match(r"(ENTRY )?%?(\S+) \(.*\{$", line):
        self.entry = head[2] if head[1] else self.entry
        lines = self.bodies.setdefault(head[2], [])
      else:
        lines.append(line)
    self._calls = {}
    for caller, lines in self.bodies.items():
      for line in lines:
        for body in re.findall(r"(?:body|to_apply|calls)=%?([\w.\-]+)", line):
          self._calls.setdefault(body, []).append((caller, line))

  def times(self, body: str) -> int | None:
    """Returns how often a computation runs; None if that can't be read."""
    if body == self.entry:
      return 1
    total = 0
    for caller, line in self._calls.get(body, []):
      outer = self.times(caller)
      trips = self._trips(caller, line) if " while(" in line else 1
      if outer is None or trips is None:
        return None
      total += outer * trips
    return total or None

  def _trips(self, caller: str, line: str) -> int | None:
    """Returns the iterations of a loop that counts up to a constant."""
    state = re.search(r" while\(%?([\w.\-]+)\)", line)
    names = re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
    if not state or not names:
      return None
    condition, body = names.groups()
    test = self._root(condition)
    if "direction=LT" not in test:
      return None
    counter, limit = _operands(test)[:2]
    place = re.search(r"index=(\d+)", self._value(condition, counter))
    if not place:
      return None
    at = int(place[1])
    first = _operands(self._value(caller, state[1]))[at]
    next_ = self._value(body, _operands(self._root(body))[at])
    terms = [self._constant(body, x) for x in _operands(next_)]
    step = next((x for x in terms if x), None) if " add(" in next_ else None
    start, end = self._constant(caller, first), self._constant(condition, limit)
    known = None not in (start, end, step)
    return max(0, math.ceil((end - start) / step)) if known else None

  def _root(self, body: str) -> str:
    return next((x for x in self.bodies[body] if "ROOT " in x), "")

  def _value(self, body: str, name: str) -> str:
    """Returns the instruction of that name, or the one that it copies."""
    form = re.compile(rf"\s+(?:ROOT )?%?{re.escape(name)} = ")
    line = next((x for x in self.bodies[body] if form.match(x)), "")
    copied = re.search(r" (?:copy|bitcast)\(%?([\w.\-]+)\)", line)
    return self._value(body, copied[1]) if copied else line

  def _constant(self, body: str, name: str) -> int | None:
    found = re.search(r" constant\((-?\d+)\)", self._value(body, name))
    return int(found[1]) if found else None


def _operands(line: str) -> list[str]:
  """Returns the names of an instruction's operands."""
  inside = re.search(r" [\w\-]+\((%.*?)\)(?:,|$)", line)
  return re.findall(r"%([\w.\-]+)", inside[1]) if inside else []
