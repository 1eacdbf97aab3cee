"""Trains what a config describes.

  python -m big_contrastive.train --config configs/siglip.py:smoke \\
    --workdir runs/siglip --config.batch_size=64

Any field of the config can be set by --config.FIELD=VALUE. The same command
again resumes from the newest checkpoint in the workdir.
"""

from big_contrastive import command, experiment, loop


def run() -> None:
  """Parses the flags, builds the experiment and trains."""
  parser = command.parser(__doc__)
  parser.add_argument("--config", required=True, help="FILE.py[:ARGUMENT]")
  parser.add_argument(
    "--workdir", required=True, help="for all that is written"
  )
  flags, overrides = parser.parse_known_args()
  config = command.load_config(flags.config, overrides)
  command.start(flags.distributed)
  loop.fit(experiment.build(config), flags.workdir)


if __name__ == "__main__":
  command.main(run)
