"""All generated cases: python fuzzing_values.py FOLDER FIRST COUNT [KIND]."""

import logging
import sys

import fuzzing_classes
import fuzzing_parquet
import fuzzing_tables
import fuzzing_tars
import fuzzing_truth

MAKERS = {
  "tables": fuzzing_tables.case, "parquet": fuzzing_parquet.case,
  "tars": fuzzing_tars.case, "classes": fuzzing_classes.case,
}  # fmt: skip

if __name__ == "__main__":
  logging.disable()
  chosen = {k: v for k, v in MAKERS.items() if k in (sys.argv[4:] or MAKERS)}
  fuzzing_truth.main(chosen, sys.argv[1], *map(int, sys.argv[2:4]))
