"""Flat names and rules."""

import numpy as np
import pytest

from big_contrastive.config import errors, rules

PARAMS = {"img": {"pos": 1, "blocks": {"kernel": 2}}, "t": 3}
NAMES = ["img/pos", "img/blocks/kernel", "t"]


def test_flatten_and_unflatten_are_inverse():
  flat = rules.flatten(PARAMS)
  assert list(flat) == NAMES
  assert rules.unflatten(flat) == PARAMS


def test_the_first_rule_that_matches_the_whole_name_counts():
  given = [("img/.*", "a"), (".*", "b")]
  assert rules.match(given, NAMES, "x") == dict(
    zip(NAMES, ["a", "a", "b"], strict=True)
  )


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ([("img/.*", 1)], "'t'"),  # A parameter without a rule.
    ([("image/.*", 1), (".*", 2)], "image"),  # A typo.
    ([(".*", 1), ("t", 2)], "'t'"),  # Shadowed.
    ([("(", 1)], "regular expression"),
    (["img"], "pair"),
  ],
)
def test_a_dead_or_missing_rule_is_an_error(given, said):
  with pytest.raises(errors.UserError, match=said) as e:
    rules.match(given, NAMES, "config.freeze")
  assert "config.freeze" in str(e.value)


def test_the_table_lists_and_counts_parameters():
  params = {"a": np.zeros((2, 3)), "t": np.zeros(())}
  text = rules.table(params, {"frozen": {"a": True, "t": False}})
  assert text.splitlines()[1].split() == ["a", "2x3", "True"]
  assert text.splitlines()[-1] == "7 parameters"
