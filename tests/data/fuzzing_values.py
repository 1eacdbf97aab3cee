"""All kinds of generated cases: python fuzzing_values.py FOLDER FIRST COUNT."""

import logging
import pathlib
import sys

import fuzzing_classes
import fuzzing_folders
import fuzzing_joined
import fuzzing_parquet
import fuzzing_tables
import fuzzing_tars
import fuzzing_truth

MAKERS = {
  "tables": fuzzing_tables.case,
  "parquet": fuzzing_parquet.case,
  "tars": fuzzing_tars.case,
  "classes": fuzzing_classes.case,
  "folders": fuzzing_folders.case,
  "joined": fuzzing_joined.case,
}


def main(folder: str, first: str, count: str) -> None:
  """Prints what is wrong; the data of a seed stay in FOLDER/SEED."""
  logging.disable()
  for seed in range(int(first), int(first) + int(count)):
    *_, said = fuzzing_truth.run(MAKERS, pathlib.Path(folder), seed)
    if said:
      print(said, flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
