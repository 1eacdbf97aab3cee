"""What is passed to code from a config is checked by its signature."""

from typing import Literal

import pytest

from big_contrastive.config import errors, registry, schema


def function(
  size: int, rate: float = 1.0, name: str | None = None,
  kind: Literal["a", "b"] = "a", flag: bool = False, ops: list | tuple = (),
):  # fmt: skip
  return size, rate, name, kind, flag, ops


def test_good_arguments_pass():
  kwargs = {"size": 3, "rate": 2, "kind": "b", "ops": [1]}
  assert schema.call(function, kwargs, "x") == (3, 2, None, "b", False, [1])


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"sise": 3}, r"config\.f\.sise = 3.*Did you mean 'size'"),
    ({"size": "3"}, r"config\.f\.size = '3'; expected int.*str"),
    ({"size": True}, r"config\.f\.size"),
    ({"size": 3, "rate": "fast"}, r"config\.f\.rate"),
    ({"size": 3, "kind": "c"}, r"config\.f\.kind = 'c'.*'a', 'b'"),
    ({"size": 3, "flag": 1}, r"config\.f\.flag"),
    ({"size": 3, "ops": "resize"}, r"config\.f\.ops"),
    ({"rate": 1.0}, r"config\.f\.size is missing; .*Set config\.f\.size"),
  ],
)
def test_bad_arguments_are_named_in_one_line(kwargs, said):
  with pytest.raises(errors.UserError, match=said) as e:
    schema.call(function, kwargs, "config.f")
  assert "\n" not in str(e.value)


def test_files_are_the_registry():
  assert registry.names("losses") == ["sigmoid", "softmax"]
  with pytest.raises(errors.UserError, match="Did you mean 'sigmoid'"):
    registry.module("losses", "sigmoyd", "config.objective.loss")
