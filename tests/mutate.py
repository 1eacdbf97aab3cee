"""Wrong configs, made from right ones: every field in turn."""

import copy


def fields(config, path=()):
  """Yields the path of every field, sections included."""
  for key, value in config.items():
    yield (*path, key)
    if isinstance(value, dict):
      yield from fields(value, (*path, key))


def get(config, path):
  for key in path:
    config = config[key]
  return config


def changed(config, path, value):
  """Returns a copy with one field set."""
  config = copy.deepcopy(config)
  get(config, path[:-1])[path[-1]] = value
  return config


def misspelt(config, path):
  """Returns a copy whose field has two letters swapped."""
  config = copy.deepcopy(config)
  section, name = get(config, path[:-1]), path[-1]
  swapped = name[0] + name[2:3] + name[1:2] + name[3:]
  section[swapped if swapped != name else name + "x"] = section.pop(name)
  return config


# What no field is.
NEVER = [
  {"no": {"such": "thing"}},
  [["no"], {"such": "thing"}],
  "no such thing",
]

# What many fields are not; right for some.
ODD = [
  None, True, -1, 0, 1.5, float("nan"), float("inf"), "", "1e9", "x y",
  [], {}, [None], {"name": None}, "10 parsecs", "-3 steps", "200%", b"bytes",
]  # fmt: skip
