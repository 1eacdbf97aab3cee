"""HTML that can't be broken by what it shows."""

import html
from typing import Any

_VOID = ("br", "col", "img", "input", "link", "meta")


class Markup(str):
  """Text that is HTML already."""


def tag(name: str, /, *inside: Any, **attributes: Any) -> Markup:
  """Returns an element; all that isn't Markup is escaped.

  Args:
    name: of the element.
    inside: texts and elements, or lists of them.
    attributes: `class_` is class, `data_at` is data-at; None is left out.
  """
  given = "".join(
    f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  if name in _VOID:
    return Markup(f"<{name}{given}>")
  return Markup(f"<{name}{given}>{joined(*inside)}</{name}>")


def joined(*pieces: Any) -> Markup:
  """Returns pieces one after another; all that isn't Markup is escaped."""
  out = []
  for piece in pieces:
    if isinstance(piece, Markup):
      out.append(piece)
    elif isinstance(piece, list | tuple):
      out.append(joined(*piece))
    elif piece is not None:
      out.append(html.escape(str(piece)))
  return Markup("".join(out))


def table(
  name: str,
  head: list[Any],
  rows: list[list[Any]],
  class_: str | None = None,
  above: list[tuple[Any, int]] | None = None,
) -> Markup:
  """Returns a table that scrolls by itself where it is too wide.

  Args:
    name: what assistive technology calls it.
    head: the column headers.
    rows: cells; the first of each is the row's header. Text or Markup.
    class_: of the table.
    above: headers of several columns, and of how many.
  """
  titles = [tag("tr", [tag("th", x, scope="col") for x in head])]
  if above:
    groups = [
      tag("th", x, scope="colgroup", colspan=n) if x else tag("td", colspan=n)
      for x, n in above
    ]
    titles.insert(0, tag("tr", groups))
  body = [
    tag("tr", tag("th", row[0], scope="row"), [tag("td", x) for x in row[1:]])
    for row in rows
  ]
  inside = tag("table", tag("thead", titles), tag("tbody", body), class_=class_)
  return tag(
    "div", inside, class_="scroll", role="region", aria_label=name, tabindex=0
  )
