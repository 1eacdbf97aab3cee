"""Trains what a config describes.

  python -m big_contrastive.train --config configs/siglip.py:smoke \\
    --workdir runs/siglip --config.batch_size=64

Any field of the config can be set by --config.FIELD=VALUE. The same command
again resumes from the newest checkpoint in the workdir.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import sys

from big_contrastive.config import files
from big_contrastive.factory import cli, experiment
from big_contrastive.training import loop, profile_input


def run() -> None:
  """Parses the flags, builds the experiment and trains."""
  parser = cli.parser(__doc__)
  parser.add_argument("--config", required=True, help="FILE.py[:ARGUMENT]")
  parser.add_argument(
    "--workdir", required=True, help="for all that is written"
  )
  parser.add_argument(
    "--profile-input",
    action="store_true",
    help="don't train: tell whether the input or the device is slower",
  )
  parser.add_argument(
    "--strict_data",
    action="store_true",
    help="don't go on with other data than the run began with",
  )
  flags, overrides = parser.parse_known_args()
  config = files.load_config(flags.config, overrides)
  cli.start(flags.distributed)
  built = experiment.build(config)
  if flags.profile_input:
    rates = profile_input.measure(built)
    print(profile_input.verdict(rates, built.batch_size), file=sys.stderr)
    return
  loop.fit(built, flags.workdir, flags.strict_data)


if __name__ == "__main__":
  cli.main(run)
