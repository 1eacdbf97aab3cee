"""The folder of the parts, and what its about.json says of all of them."""

import json
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.files import embedded
from big_contrastive.data.loader import fingerprint
from big_contrastive.offline.worker import Work, difference
from big_contrastive.storage import atomic, paths, urls
from big_contrastive.storage.paths import Path

_OTHER = "Choose another folder, or remove what is there."


def begin(out: str, flag: str) -> Path:
  """Returns the folder for parts, which may be in it; `describe` makes it.

  Raises:
    UserError: if it is a file or holds something else, or its parent is
      missing.
  """
  path = paths.absolute(out, flag)
  with urls.reached(flag, out):
    there = path.is_dir()
    if path.exists() and not there:
      raise errors.UserError(flag, out, "a folder", "Choose another.")
  atomic.check_parent(path, out, flag)
  if there:
    names = sorted(p.name for p in path.iterdir())
    others = [
      n for n in names if not n.startswith((".", "part-", embedded.ABOUT))
    ]
    if others:
      allowed = "a folder that is new, or has parts alone"
      remedy = f"It holds {others[0]}. {_OTHER}"
      raise errors.UserError(flag, out, allowed, remedy)
  return path


def describe(out: Path, work: Work, more: dict[str, Any]) -> None:
  """Makes the folder with about.json, or checks that its parts fit.

  Workers that begin at the same time write the same.

  Args:
    out: from `begin`.
    work: what is done.
    more: further entries.

  Raises:
    UserError: if the folder holds parts of another work, of other shards, or
      of other data to which records have not only been added.
  """
  data = fingerprint.fingerprint(work.source)
  about = more | {"made": work.made, "records": data}
  if not urls.remote(out):
    out.mkdir(exist_ok=True)
  if (out / embedded.ABOUT).exists():
    before = embedded.about(out, "--out")
    fixed = {"per_shard": more.get("per_shard")} | work.made
    other = {"per_shard": before.get("per_shard")} | before["made"]
    if fixed != other:
      raise errors.UserError(
        str(out), difference(other, fixed), "a folder of the same work", _OTHER
      )
    _check_data(before["records"], data, work, out)
    if before == about:
      return
  text = json.dumps(about, indent=2, allow_nan=False) + "\n"
  atomic.replace(out / embedded.ABOUT, text)


def _check_data(
  before: dict[str, Any], now: dict[str, Any], work: Work, out: Path
) -> None:
  if before == now:
    return
  named = work.source.name(0) != "record 0"
  if now["records"] <= before["records"] or not named:
    counts = f"{before['records']:,} records when it was begun"
    raise errors.UserError(
      str(out), f"a folder of {counts}, now {now['records']:,}",
      "the same data, or more at their end", _OTHER,
    )  # fmt: skip
