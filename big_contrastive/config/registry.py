"""Finds code by its file name.

A folder whose files all obey one contract (losses, objectives, evals, sources)
is its own registry: a new file is a new choice, nothing else is edited.
"""

import importlib
import pkgutil
import types

from big_contrastive.config import errors


def names(kind: str) -> list[str]:
  """Returns the modules in big_contrastive/<kind>/, e.g. kind="losses".

  A leading underscore is for what is private to the folder.
  """
  package = importlib.import_module(f"big_contrastive.{kind}")
  found = pkgutil.iter_modules(package.__path__)
  files = (m.name for m in found if not m.ispkg)
  return sorted(name for name in files if not name.startswith("_"))


def module(kind: str, name: str, where: str) -> types.ModuleType:
  """Returns big_contrastive/<kind>/<name>.py: the only dynamic import.

  Args:
    kind: the folder, with dots for levels: "losses", "data.sources".
    name: the file, without ".py".
    where: the config field that holds the name, for the error.
  """
  errors.choice(where, name, names(kind))
  return importlib.import_module(f"big_contrastive.{kind}.{name}")
