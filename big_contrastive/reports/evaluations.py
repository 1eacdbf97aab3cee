"""Which metrics of evaluation are better, and what guessing gets."""

import re

from big_contrastive.reports.series import Series

_HIGHER = re.compile(
  r"(.*_)?(top\d+|r\d+|map|recall|accuracy|bleu\d|rouge_l|cider|exact|distinct|"
  r"true|clip_score)(_k\d+)?"
)
_LOWER = re.compile(r"(.*_)?(loss|perplexity|error)")
_CHANCE = re.compile(r"chance(_.*)?")
# What has a level of its own beside it, and what that is.
_BESIDE = {
  "_constant": "constant",
  "_of_others": "others",
  "_uniform": "uniform",
}


def better(name: str) -> int:
  """Returns 1 if higher values are better, -1 if lower ones are, else 0.

  Args:
    name: of a metric, without its evaluation: "top1".
  """
  return bool(_HIGHER.fullmatch(name)) - bool(_LOWER.fullmatch(name))


def level_of(
  name: str, metrics: dict[str, Series]
) -> tuple[str, str] | tuple[None, None]:
  """Returns the metric that says what guessing gets, and a label for it.

  Args:
    name: of a metric, "eval/NAME/KEY".
    metrics: all of the run.
  """
  evaluation, _, key = name.rpartition("/")
  for suffix, label in _BESIDE.items():
    if f"{name}{suffix}" in metrics:
      return f"{name}{suffix}", label
  if not better(key):
    return None, None
  plain = key.replace("_reranked", "")
  end = re.search(r"(?:^|_)([a-z]+\d+)(?:_k\d+)?$", plain)
  names = [f"chance_{plain}", *([f"chance_{end[1]}"] if end else [])]
  # The chance of the first, and of shares that are like it.
  if not end or end[1] == "top1":
    names.append("chance")
  for chance in names:
    if f"{evaluation}/{chance}" in metrics:
      return f"{evaluation}/{chance}", "chance"
  return None, None


def is_level(name: str, metrics: dict[str, Series]) -> bool:
  """Returns whether a metric is but a level for others."""
  key = name.rpartition("/")[2]
  beside = any(
    name.endswith(suffix) and name.removesuffix(suffix) in metrics
    for suffix in _BESIDE
  )
  return bool(_CHANCE.fullmatch(key)) or beside


def best(name: str, series: Series) -> tuple[float, int] | None:
  """Returns the best value and the first step with it; None if unknown.

  Args:
    name: of the metric, "eval/NAME/KEY".
    series: its values.
  """
  sign = better(name.rpartition("/")[2])
  s = series.finite
  if not sign or not len(s.steps):
    return None
  at = int((sign * s.values).argmax())
  return float(s.values[at]), int(s.steps[at])
