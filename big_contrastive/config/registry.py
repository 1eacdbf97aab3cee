"""Finds code by its file name.

A folder whose files all obey one contract (losses, objectives, towers,
sources, evaluators, formats) is its own registry: a new file is a new choice,
nothing else is edited. A name that ends in ".py" is a file anywhere else, so
that a method, too, can live beside the config that uses it.
"""

import importlib
import os
import pathlib
import pkgutil
import sys
import types

from big_contrastive.config import errors


def names(kind: str) -> list[str]:
  """Returns the modules in big_contrastive/<kind>/, e.g. kind="losses".

  Modules with a leading underscore are private to the folder and left out.
  """
  package = importlib.import_module(f"big_contrastive.{kind}")
  files = (
    m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg
  )
  return sorted(name for name in files if not name.startswith("_"))


def module(kind: str, name: str, where: str) -> types.ModuleType:
  """Returns the module big_contrastive/<kind>/<name>.py, or a file elsewhere.

  Args:
    kind: the folder, with dots for levels: "losses", "data.sources".
    name: the file, without ".py"; or the path of a file, with it.
    where: the config field that holds the name, for the error.

  Raises:
    UserError: for an unknown name, or a file that can't be imported.
  """
  if isinstance(name, str) and name.endswith(".py"):
    return _of_file(name, where)
  errors.choice(where, name, names(kind))
  return importlib.import_module(f"big_contrastive.{kind}.{name}")


def _of_file(name: str, where: str) -> types.ModuleType:
  """Imports a file by its stem, which is how worker processes import it too."""
  path = pathlib.Path(os.path.expanduser(name)).resolve()
  if not path.is_file():
    remedy = "No such file."
    raise errors.UserError(where, name, "a Python file that exists", remedy)
  known = sys.modules.get(path.stem)
  if known is not None and getattr(known, "__file__", None) != str(path):
    allowed = "a file that shares its name with no other module"
    remedy = (
      f"Rename it: {path.stem} is {getattr(known, '__file__', 'built in')}."
    )
    raise errors.UserError(where, name, allowed, remedy)
  if str(path.parent) not in sys.path:
    sys.path.append(str(path.parent))
  try:
    imported = importlib.import_module(path.stem)
  except Exception as e:  # It may be any code.
    remedy = f"{type(e).__name__}: {e}."
    allowed = "a Python file that imports"
    raise errors.UserError(where, name, allowed, remedy) from e
  if getattr(imported, "__file__", None) != str(path):
    allowed = "a file that shares its name with no other module"
    remedy = f"Rename it: {path.stem} is {imported.__file__}."
    raise errors.UserError(where, name, allowed, remedy)
  return imported
