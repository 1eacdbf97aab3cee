"""Errors: THING = VALUE; expected EXPECTED. REMEDY, wherever one is raised."""

import ast
import pathlib
import pickle
import re

import pytest

from big_contrastive.config import errors

PACKAGE = pathlib.Path(errors.__file__).parents[1]
PARTS = ("thing", "value", "expected", "remedy")
_VERBS = r"\b(is|are|was|were|must|has|have|can|could|should|does|expected)\b"


def literal(node):
  """The text of a string, with {} for what an f-string fills in, else None."""
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    return node.value
  if isinstance(node, ast.JoinedStr):
    return "".join(
      part.value if isinstance(part, ast.Constant) else "{}"
      for part in node.values
    )
  return None


def named(function):
  """The strings that a function assigns to a name: {name: [text, ...]}."""
  texts = {}
  for node in ast.walk(function):
    if not isinstance(node, ast.Assign):
      continue
    (target, *_), value = node.targets, node.value
    pairs = [(target, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
      pairs = zip(target.elts, value.elts, strict=False)
    for name, text in pairs:
      if isinstance(name, ast.Name) and literal(text) is not None:
        texts.setdefault(name.id, []).append(literal(text))
  return texts


def raised(tree):
  """Yields the line, part and text of all UserErrors in a module."""
  functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
  for function in functions:
    known = named(function)
    for node in ast.walk(function):
      if not isinstance(node, ast.Call):
        continue
      name = getattr(node.func, "attr", getattr(node.func, "id", ""))
      if name != "UserError" or len(node.args) != 4:
        continue
      for part, argument in zip(PARTS, node.args, strict=True):
        texts = [literal(argument)]
        if isinstance(argument, ast.Name):
          texts = known.get(argument.id, [])
        yield from (
          (node.lineno, part, text) for text in texts if text is not None
        )


def wrong(part, text):
  """What breaks the form, "" for nothing."""
  if part == "thing" and re.search(_VERBS, text):
    return "a sentence"
  if part in ("thing", "expected") and re.search(r"[.;:!?]$", text):
    return "ends like a sentence"
  if part == "expected" and re.match(r"(expected|allowed)\b", text):
    return "says expected again"
  if part == "remedy" and not re.search(r"([.?!]\"?|\{\})$", text):
    return "does not end like a sentence"
  return ""


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_error_has_the_form():
  seen, broken = 0, []
  for path in FILES:
    for line, part, text in raised(ast.parse(path.read_text())):
      seen += 1
      if how := wrong(part, text):
        place = f"{path.relative_to(PACKAGE)}:{line}"
        broken.append(f"{place}: {part} {text!r} {how}")
  assert not broken, "\n".join(broken)
  assert seen > 400


@pytest.mark.parametrize(
  ("parts", "how"),
  [
    ('"the file is empty", x, "rows", "Add one."', "a sentence"),
    ('"file.", x, "rows", "Add one."', "ends like a sentence"),
    ('"file", x, "rows.", "Add one."', "ends like a sentence"),
    ('"file", x, "expected rows", "Add one."', "says expected again"),
    ('"file", x, "rows", "Add one"', "does not end like a sentence"),
    ('f"file {x}", x, "rows", f"Add {x}."', ""),
    ('"file", x, "rows", told', "does not end like a sentence"),
  ],
)
def test_a_broken_form_would_be_seen(parts, how):
  code = f"def f(x):\n  told = 'Add one'\n  raise errors.UserError({parts})"
  found = {wrong(part, text) for _, part, text in raised(ast.parse(code))}
  assert found - {""} == ({how} - {""})


def test_the_message_and_what_is_missing():
  e = errors.UserError("config.keep", 0, "an integer from 1", "Raise it.")
  assert str(e) == "config.keep = 0; expected an integer from 1. Raise it."
  e = errors.UserError("config.keep", None, "an integer", "Set it.")
  assert str(e) == "config.keep is missing; expected an integer. Set it."
  e = errors.UserError("config.keap", errors.Null(), "keep", "Drop it.")
  assert str(e) == "config.keap = None; expected keep. Drop it."
  assert str(pickle.loads(pickle.dumps(e))) == str(e)
