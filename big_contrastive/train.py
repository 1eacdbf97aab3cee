"""Trains what a config describes.

  python -m big_contrastive.train --config configs/siglip.py:smoke \\
    --workdir runs/siglip --config.batch_size=64
  python -m big_contrastive.train --fields model.image

--config.FIELD=VALUE sets any field of the config; --fields explains them. The
same command again resumes from the newest checkpoint in the workdir.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import argparse
import sys

from big_contrastive.config import errors, files, reference
from big_contrastive.factory import cli, experiment
from big_contrastive.storage import paths
from big_contrastive.training import loop, profile_input


def run() -> None:
  """Parses the flags, builds the experiment and trains."""
  parser = cli.parser(__doc__)
  parser.add_argument(
    "--config",
    help="required: FILE.py[:ARGUMENT]; siglip is configs/siglip.py, of the "
    "package if there is none here",
  )
  parser.add_argument("--workdir", help="required: holds all that is written")
  parser.add_argument(
    "--profile-input",
    action="store_true",
    help="measure whether the input or the device is slower; do not train",
  )
  parser.add_argument(
    "--strict_data",
    action="store_true",
    help="refuse to resume a run whose data has changed",
  )
  parser.add_argument(
    "--fields", nargs="?", const="all", metavar="SECTION",
    help="print the fields of a config, all or those of a section such as "
    "model.image; do not train",
  )  # fmt: skip
  parser.add_argument(
    "--markdown", action="store_true", help="print all --fields as Markdown"
  )
  flags, overrides = parser.parse_known_args()
  if flags.fields is not None or flags.markdown:
    print_fields(flags, overrides)
    return
  cli.require(flags, config="FILE.py[:ARGUMENT]", workdir="a directory")
  paths.at(flags.workdir, "--workdir")  # A URL that can't be, at once.
  config = files.load_config(flags.config, overrides)
  cli.start(flags.distributed)
  built = experiment.build(config)
  if flags.profile_input:
    for first in (0, *built.objective.switches):
      if built.objective.switches:
        print(f"From step {first:,} on:", file=sys.stderr)
      rates = profile_input.measure(built, first=first)
      print(profile_input.verdict(rates, built.batch_size), file=sys.stderr)
    return
  loop.fit(built, flags.workdir, flags.strict_data)


def print_fields(flags: argparse.Namespace, rest: list[str]) -> None:
  """Prints the config reference that --fields and --markdown ask for."""
  if rest:
    remedy = "Leave it out."
    allowed = "at most one section after --fields"
    raise errors.UserError("argument", rest[0], allowed, remedy)
  if flags.markdown:
    print(reference.markdown(), end="")
  else:
    print(reference.text(flags.fields))


if __name__ == "__main__":
  cli.main(run)
