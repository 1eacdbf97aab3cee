"""What is known of generated data, and whether a source says exactly that.

Each case is made from known records, written by other code than reads them,
and maybe made wrong in one place. Then a source gives the right values, with
all that it leaves out counted, or one line that names what is wrong.
"""

import collections
import dataclasses
import pathlib
import random
from collections.abc import Callable
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.bad_records import BadRecord

MISSING, BAD = "missing", "bad"


@dataclasses.dataclass
class Row:
  """A record that is written; `said` is what docs/data.md makes of a value.

  Args:
    image: its bytes; None where there is no such image.
    captions: texts, MISSING or BAD.
    key: what ids are compared by, (MISSING,) or (BAD,).
    label: a number or the name of a class, MISSING or BAD.
  """

  image: bytes | None
  captions: Any
  key: Any = None
  label: Any = None

  def whole(self) -> bool:
    return self.image is not None and not (
      self.captions in (MISSING, BAD)
      or self.key in ((MISSING,), (BAD,))
      or (isinstance(self.label, str) and self.label in (MISSING, BAD))
    )


@dataclasses.dataclass
class Truth:
  """What a source may say.

  Args:
    records: (image, captions, key, label); a key of None is like no other.
    left: how many records are left out, or bad when they are read.
    classes: names by label; ... where it does not matter.
  """

  records: list[tuple]
  left: int = 0
  classes: Any = ...


def truth(rows: list[Row], left: int = 0, classes: Any = ...) -> Truth:
  """The rows that are whole, one by one."""
  good = [r for r in rows if r.whole()]
  records = [(r.image, tuple(r.captions), r.key, r.label) for r in good]
  return Truth(records, left + len(rows) - len(good), classes)


@dataclasses.dataclass
class Case:
  """Data on the disk, how they are read, and what is right.

  Args:
    note: what was made, for a person.
    read: returns the source.
    truths: what it may say.
    wrong: whether an error is right, too; it is alone if there is no truth.
    named: what the error names, each of them.
    lossy: whether records may be missing if damage is told.
    refused: whether there was an error; set by `fault`.
  """

  note: str
  read: Callable[[], Any]
  truths: list[Truth]
  wrong: bool = False
  named: tuple[str, ...] = ()
  lossy: bool = False
  refused: bool = False


def fault(case: Case) -> str:
  """Returns what is wrong with what a source made of a case, "" if nothing."""
  try:
    source = case.read()
  except errors.UserError as e:
    return told_badly(case, str(e))
  except Exception as e:  # The fault that is looked for.
    return f"{type(e).__name__}: {e}"
  records, bad = [], 0
  for i in range(len(source)):
    try:
      records.append(source[i])
    except (BadRecord, OSError):
      bad += 1
    except errors.UserError as e:
      return told_badly(case, str(e))
    except Exception as e:
      return f"record {i}: {type(e).__name__}: {e}"
  said = [_differs(case, t, source, records, bad) for t in case.truths]
  if not said:
    return f"no error: {records}, skipped {source.skipped}"
  return "" if not all(said) else said[0]


def told_badly(case: Case, line: str) -> str:
  case.refused = True
  if not case.wrong:
    return f"an error: {line}"
  if "\n" in line or "; expected " not in line:
    return f"no line of an error: {line!r}"
  lacking = [name for name in case.named if name not in line]
  return f"{lacking} not named: {line}" if lacking else ""


def _differs(case, truth: Truth, source, records: list, bad: int) -> str:
  """How what was read differs from a truth."""
  found = [_plain(record) for record in records]
  want = [
    (image, captions, label) for image, captions, _, label in truth.records
  ]
  left = sum(source.skipped.values()) + bad
  wanted, had = collections.Counter(want), collections.Counter(found)
  damage = any("damage" in reason for reason in source.skipped)
  if more := had - wanted:
    return f"never written: {more}; written: {want}"
  if fewer := wanted - had:
    if not (case.lossy and damage):
      return f"lost: {fewer}; skipped {source.skipped}"
  elif left != truth.left and not case.lossy:
    return f"{source.skipped} and {bad} bad, not {truth.left} left out"
  if truth.classes is not ... and source.classes != truth.classes:
    return f"classes {source.classes}, not {truth.classes}"
  return _ids(truth, found, records)


def _plain(record: dict) -> tuple:
  text = record["text"]
  captions = (text,) if isinstance(text, str) else tuple(text)
  return bytes(record["image"]), captions, record.get("label")


def _ids(truth: Truth, found: list, records: list) -> str:
  """Whether ids are equal where keys are, and nowhere else."""
  keys: dict[tuple, list] = collections.defaultdict(list)
  for image, captions, key, label in truth.records:
    keys[image, captions, label].append(key)
  pairs = []
  for n, (plain, record) in enumerate(zip(found, records)):
    several = keys[plain]
    if len(set(map(repr, several))) == 1:
      key = several[0]
      pairs.append((("alone", n) if key is None else key, record["id"]))
  for i, (key, ident) in enumerate(pairs):
    for other, its in pairs[:i]:
      if (_same(key) == _same(other)) != (ident == its):
        return f"ids {ident} and {its} of {key!r} and {other!r}"
  return ""


def _same(key: Any) -> tuple:
  return type(key).__name__, key


_WORDS = [
  "", "a", "the", "dog", "Cat's", "猫", "naïve", "cafe\u0301", "🦄", "6", "3.5",
  "NA", "N/A", "--", ";", "|", ":", ".", "!", "&", "\\", "\\n", "#", "%", "{}",
  "{c}", "[x]", "=", "<b>", "null", "nan", "İ", "\u2028", "\x85", "\u200b",
]  # fmt: skip


def text(rng: random.Random, marks: str = "") -> str:
  """A text that means itself: no spaces around it, and not alone a value."""
  words = [*rng.choices(_WORDS, k=rng.randint(0, 4))]
  for mark in marks:
    words.insert(rng.randint(0, len(words)), mark)
  between = rng.choice(["", " "])
  return f"x{between.join(words)} {rng.randint(0, 99)}y"


NO_TEXTS = (
  "", " ", "   ", "nan", "NaN", "NAN", "NaT", "<NA>", "None", "null", "NULL",
  "Null", " None ",
)  # fmt: skip


def run(
  makers: dict[str, Callable], folder: pathlib.Path, seed: int
) -> tuple[str, bool, str]:
  """Makes a case in a folder of its own, and reads it.

  Returns:
    Its kind, whether it was refused, and what is wrong with that, or "".
  """
  kind = list(makers)[seed % len(makers)]
  own = folder / str(seed)
  own.mkdir()
  case = makers[kind](random.Random(seed), own)
  said = fault(case)
  again = f"python tests/fuzzing_values.py FOLDER {seed} 1"
  told = f"seed {seed} ({kind}: {case.note}): {said}\nAgain: {again}"
  return kind, case.refused, said and told
