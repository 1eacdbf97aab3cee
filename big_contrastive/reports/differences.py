"""Where the configs of runs differ."""

import json
from typing import Any

# What a run's config doesn't say.
ABSENT = "not set"


def flat(config: Any, name: str = "") -> dict[str, str]:
  """Returns the fields of a config as JSON, by their dotted names.

  A list is one field: its items depend on each other.
  """
  if isinstance(config, dict) and config:
    items = {}
    for key, value in config.items():
      items |= flat(value, f"{name}.{key}" if name else str(key))
    return items
  return {name: json.dumps(config, ensure_ascii=False)} if name else {}


def split(
  configs: list[dict[str, Any]],
) -> tuple[dict[str, list[str]], dict[str, str]]:
  """Returns the fields that differ, with a value for each, and the others.

  Values are JSON texts, so 1, 1.0 and true are three; a field that is null and
  one that isn't there differ, too.
  """
  fields = [flat(config) for config in configs]
  names = dict.fromkeys(name for one in fields for name in one)
  values = {name: [one.get(name, ABSENT) for one in fields] for name in names}
  differ = {n: v for n, v in values.items() if len(set(v)) > 1}
  same = {n: v[0] for n, v in values.items() if len(set(v)) == 1}
  return differ, same
