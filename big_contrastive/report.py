"""Writes a page about runs: curves, evaluations, pictures, warnings, configs.

  python -m big_contrastive.report runs/demo

A run is a workdir of training, finished or not, on this machine or in a bucket.
Several are compared: curves overlaid, last and best figures beside each other,
the config fields that differ. --out is the page, report.html if it is not
given: one file, which needs no network. Curves are by step, by examples or by
hours of training, as the reader chooses; --x says which comes first.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

from big_contrastive.config import errors
from big_contrastive.factory import cli
from big_contrastive.reports import axes, numerals, page, runs
from big_contrastive.storage import atomic, paths, urls
from big_contrastive.storage.paths import Path


def run() -> None:
  """Parses the flags and writes the page."""
  parser = cli.parser(__doc__)
  parser.add_argument("runs", nargs="*", metavar="RUN", help="a workdir")
  parser.add_argument("--out", default="report.html", help="NAME.html")
  parser.add_argument("--x", default="step", help="step, examples or hours")
  flags = parser.parse_args()
  if not flags.runs:
    raise errors.UserError("RUN", None, "the workdir of a run", "See --help.")
  errors.choice("--x", flags.x, axes.AXES)
  out = _target(flags.out)
  found = runs.read(flags.runs)
  for one in found:
    if axes.along(one, flags.x) is None:
      allowed = "step for runs of which no more is known"
      remedy = f"Of {one.path} {axes.MISSING[flags.x]} is missing."
      raise errors.UserError("--x", flags.x, allowed, remedy)
  html = page.page(found, flags.x)
  atomic.replace(out, html)
  told = numerals.counted(len(found), "run")
  print(f"{out}: {told}, {numerals.size(len(html.encode()))}")


def _target(text: str) -> Path:
  """The path of the page, where nothing but another page may be."""
  out = paths.absolute(text, "--out")
  with urls.reached("--out", text):
    if out.suffix != ".html" or out.is_dir():
      allowed = "NAME.html"
      raise errors.UserError("--out", text, allowed, "See --help.")
    atomic.check_parent(out, text, "--out")
    # A page that somebody else wrote stays.
    if out.exists() and not _is_ours(out):
      allowed = "a path where nothing is, or an older report"
      remedy = "Remove it yourself, or choose another."
      raise errors.UserError("--out", text, allowed, remedy)
  return out


def _is_ours(path: Path) -> bool:
  with path.open("rb") as file:
    return file.read(len(page.BEGINNING)) == page.BEGINNING.encode()


if __name__ == "__main__":
  cli.main(run)
