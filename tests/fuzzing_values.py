"""All generated cases: python fuzzing_values.py FOLDER FIRST COUNT."""

import logging
import sys

import fuzzing_tables
import fuzzing_truth

MAKERS = {"tables": fuzzing_tables.case}

if __name__ == "__main__":
  logging.disable()
  sys.exit(fuzzing_truth.main(MAKERS, sys.argv[1], *map(int, sys.argv[2:4])))
