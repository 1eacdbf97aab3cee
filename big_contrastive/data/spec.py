"""Parses sources in one string: "wds:shards/{0..9}.tar,caption=json:text"."""

import inspect
import os
from typing import Any

from big_contrastive.config import errors, registry, schema
from big_contrastive.config.files import literal
from big_contrastive.data.files import fields

_SHORT = {"wds": "webdataset"}
_PATHS = ("urls", "files", "root", "captions", "dataset")


def parse(spec: str, where: str) -> dict[str, Any]:
  """Returns {"name": ..., argument: value} of "NAME:MAIN,KEY=VALUE,...".

  NAME is a file of data/sources, or the path of another that ends in ".py". A
  first piece without "=" is the source's main argument: urls of wds, files of
  parquet, dataset of tfds, root of folder, captions of table, split of shapes.
  A piece that is not KEY=VALUE continues the value before it. If the first
  pieces form the path of something that exists, they are the main argument,
  whatever characters the path contains.

  Args:
    spec: as a user writes it.
    where: the flag or field that holds it, for errors.
  """
  name, _, rest = spec.partition(":")
  name = _SHORT.get(name, name)
  if not name.endswith(".py"):
    errors.choice(where, name, [*registry.names("data.sources"), *_SHORT])
  config: dict[str, Any] = {"name": name}
  texts: dict[str, str] = {}
  key = None
  pieces = rest.split(",") if rest else []
  if path_pieces := _path(main(name), pieces):
    key = main(name)
    texts[key] = ",".join(pieces[:path_pieces])
  for piece in pieces[path_pieces:]:
    before, equals, value = piece.partition("=")
    if equals and before.strip().isidentifier():
      key = before.strip()
      texts[key] = value
    elif key is None:
      key = main(name)
      texts[key] = piece
    else:
      texts[key] += "," + piece
  hints = schema.hints(registry.module("data.sources", name, where).source)
  # A folder may be called 2024.
  text = {k for k in texts if hints.get(k) in (str, str | None)}
  values = {k: literal(v) for k, v in texts.items()}
  for key in {"caption", "text"} & values.keys():
    if values[key] is None:  # Written as "none", which is not the default.
      values[key] = fields.NO_CAPTION
  return config | {
    k: texts[k] if k in text and not isinstance(v, str | None) else v
    for k, v in values.items()
  }


def _path(argument: str, pieces: list[str]) -> int:
  """How many of the first pieces form a path that exists; 0 for none."""
  if argument in _PATHS:
    for count in range(len(pieces), 0, -1):
      path = ",".join(pieces[:count])
      if path and os.path.exists(os.path.expanduser(path)):
        return count
  return 0


def main(name: str) -> str:
  """Returns the main argument of a source, which a string need not name."""
  module = registry.module("data.sources", name, "source")
  parameters = inspect.signature(module.source).parameters.values()
  required = (
    p.name
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and p.default is p.empty
  )
  return next(required, "split")
