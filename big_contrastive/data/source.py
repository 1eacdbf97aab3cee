"""What a data set is to everything else."""

from typing import Any

Source = Any  # len(source), source[i] -> record: see data/sources.


Batch = dict[str, Any]  # Arrays by name.
