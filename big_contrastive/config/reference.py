"""The reference of a config's fields, for a terminal and for docs/config.md."""

import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from big_contrastive.config import errors, fields

_WIDTH = 80


def text(section: str = "all") -> str:
  """Returns the fields of a section and those inside it, for a terminal.

  Args:
    section: "model", "model.image", one field as "model.scale", or "all".

  Raises:
    UserError: for a section or a field that no config has.
  """
  section = section.removeprefix("config.")
  entries = [
    "\n".join([*_title(name, table), "", *map(_entry, _fields(table))])
    for name, table in _chosen(section)
  ]
  # Not a section, but maybe one field: of optimizer.b2, all that there are.
  entries = entries or [_entry(f) for name, f in _paths() if name == section]
  if not entries:
    sections = sorted({name.partition(" ")[0] for name in fields.SECTIONS})
    allowed = "a section or a field: " + ", ".join(filter(None, sections))
    near = errors.closest(section, [*sections, *(name for name, _ in _paths())])
    raise errors.UserError("--fields", section, allowed, near)
  return "\n\n".join(entries)


def markdown() -> str:
  """Returns docs/config.md."""
  pages = [_PREFACE]
  for name, table in fields.SECTIONS.items():
    title, _, about = _about(name, table)
    rows = [_row(f) for f in _fields(table)]
    pages.append("\n".join([f"## {title}", "", about, "", *_HEAD, *rows]))
  return "\n\n".join(pages) + "\n"


_PREFACE = """\
# Every field of a config

A config file returns these fields, see [configs/](../configs);
`--config.FIELD=VALUE` sets any of them, with dots for sections:
`--config.optimizer.lr=3e-4`. A name that is not listed here, or a value of
another type, is an error before anything is compiled.

A *duration* is a number of steps, or a string: "1000 steps", "12.8B examples",
"3 epochs" or "2%" of the run. A field without a default must be set.

`python -m big_contrastive.train --fields` prints this page in a terminal, and
`python -m big_contrastive.train --fields model.image` a part of it. `make docs`
writes it, from
[big_contrastive/config/fields](../big_contrastive/config/fields)."""

_HEAD = (
  "| field | type | default | unit | meaning |",
  "|---|---|---|---|---|",
)


def _chosen(section: str) -> Iterator[tuple[str, type]]:
  paths = {name: name.partition(" ")[0] for name in fields.SECTIONS}
  for name, path in paths.items():
    inside = f"{path}.".startswith((f"{section}.", f"{section}["))
    if section == "all" or inside:
      yield name, fields.SECTIONS[name]


def _paths() -> Iterator[tuple[str, dataclasses.Field]]:
  """Yields every field with its name in a config: "model.scale"."""
  for name, table in fields.SECTIONS.items():
    path = name.partition(" ")[0]
    for f in _fields(table):
      yield ".".join(filter(None, [path, f.name])), f


def _fields(table: type) -> Iterator[dataclasses.Field]:
  return iter(dataclasses.fields(table))


def _about(name: str, table: type) -> tuple[str, str, str]:
  """A section's name as a title, its first sentence, and all of them."""
  path, _, choice = name.partition(" ")
  title = ".".join(filter(None, ["config", path]))
  about = inspect.getdoc(table) or ""
  title += f" {choice}" if choice else ""
  return title, about.partition("\n")[0], about


def _title(name: str, table: type) -> list[str]:
  title, _, about = _about(name, table)
  return [title, "=" * len(title), about]


def _entry(field: dataclasses.Field) -> str:
  about = field.metadata
  unit = f"  [{about['unit']}]" if about["unit"] else ""
  has = _default(field)
  head = f"  {field.name}: {kind(field.type)}"
  head += f" = {has}{unit}" if has else f"  (required){unit}"
  lines = _wrapped(head, "  ", "      ") + _wrapped(
    about["doc"], "    ", "    "
  )
  if about["why"]:
    lines += _wrapped(f"Why: {about['why']}", "    ", "    ")
  if about["paper"]:
    lines += _wrapped(f"From: {about['paper']}.", "    ", "    ")
  return "\n".join(lines)


def _wrapped(line: str, first: str, rest: str) -> list[str]:
  return textwrap.wrap(
    line.strip(), _WIDTH, initial_indent=first, subsequent_indent=rest,
    break_on_hyphens=False,
  )  # fmt: skip


def _row(field: dataclasses.Field) -> str:
  about = field.metadata
  meaning = about["doc"]
  if about["why"]:
    meaning += f" *Why:* {about['why']}"
  if about["paper"]:
    meaning += f" ({about['paper']})"
  code = field.name, kind(field.type), _default(field)
  cells = [*(f"`{c}`" if c else "" for c in code), about["unit"], meaning]
  cells = [cell.replace("|", r"\|") for cell in cells]
  return f"| {' | '.join(cells)} |"


def _default(field: dataclasses.Field) -> str:
  if field.default is dataclasses.MISSING:
    return ""
  return repr(field.default)


def kind(hint: Any) -> str:
  """Returns a type as Python writes it, a Literal as its values."""
  if (
    isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
  ):
    return " | ".join(map(kind, typing.get_args(hint)))
  if typing.get_origin(hint) is typing.Literal:
    return " | ".join(map(repr, typing.get_args(hint)))
  return "None" if hint is type(None) else hint.__name__
