"""Files of expected values, which `pytest --refresh-golden` writes anew."""

import difflib
import json
import pathlib
from typing import Any

import numpy as np
import pytest

_REFRESH = "If the change is intended: pytest --refresh-golden, and commit it."


class Golden:
  """Compares a value with a golden file, or writes it there.

  Args:
    refresh: whether to write. A test that writes is skipped, not passed.
  """

  def __init__(self, refresh: bool):
    self._refresh = refresh

  def text(self, path: pathlib.Path, actual: str) -> None:
    """Compares text line by line.

    Args:
      path: the golden file.
      actual: all that it should hold.
    """
    if self._refresh:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(actual)
      pytest.skip(f"wrote {path}")
    expected = path.read_text() if path.exists() else ""
    if actual != expected:
      lines = expected.splitlines(), actual.splitlines()
      diff = difflib.unified_diff(*lines, "golden", "actual", lineterm="", n=0)
      pytest.fail("\n".join([f"{path} differs. {_REFRESH}", *diff]), False)

  def numbers(
    self,
    path: pathlib.Path,
    key: str,
    actual: list[Any],
    rtol: float,
    atol: float = 0.0,
  ) -> None:
    """Compares a list of {name: number} with what a JSON file has under a key.

    Args:
      path: the golden file: a JSON object.
      key: in it.
      actual: what should be there.
      rtol, atol: relative and absolute tolerance.
    """
    held = json.loads(path.read_text()) if path.exists() else {}
    if self._refresh:
      held[key] = actual
      path.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")
      pytest.skip(f"wrote {key} of {path}")
    message = f"{path}: {key}. {_REFRESH}"
    expected = held.get(key, [])
    assert len(actual) == len(expected), message
    for step, (a, e) in enumerate(zip(actual, expected), 1):
      assert a.keys() == e.keys(), message
      for name in e:
        np.testing.assert_allclose(
          a[name],
          e[name],
          rtol,
          atol,
          err_msg=f"{message} Step {step}: {name}",
        )
