"""How a field of a config is declared."""

import dataclasses
from typing import Any

from big_contrastive.config.durations import Duration as Duration

# 1000, "1000 steps", "12.8B examples", "3 epochs", "2%".
DURATION = "steps, or a duration"

# Regular expressions over parameter names, see config/rules.py. As a default:
# tuples, so that no two configs share a list that one of them changes.
Rules = list | tuple


def field(
  default: Any = dataclasses.MISSING,
  *,
  doc: str,
  unit: str = "",
  why: str = "",
  paper: str = "",
) -> Any:
  """Returns a dataclass field that documents itself.

  Args:
    default: its value where a config does not set it; without one, a config
      must.
    doc: what it means.
    unit: of its value.
    why: why this default, or how to choose a value.
    paper: where it comes from.
  """
  about = {"doc": doc, "unit": unit, "why": why, "paper": paper}
  return dataclasses.field(default=default, metadata=about)
