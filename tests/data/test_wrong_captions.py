"""Captions of other records: how many, whose, and always the same."""

import pickle

import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data.build import build_source
from big_contrastive.data.source import Records
from big_contrastive.data.synthetic.wrong_captions import WrongCaptions


def records(n, meanings):
  return Records(
    [
      {"image": b"", "id": i % meanings, "text": f"{i % meanings}"}
      for i in range(n)
    ]
  )


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
def test_a_share_has_captions_of_another_meaning(share):
  found = WrongCaptions(records(60, 7), share, 0)
  wrong = [int(found[i]["text"]) != found[i]["id"] for i in range(60)]
  np.testing.assert_array_equal(found.wrong, wrong)
  assert sum(wrong) == int(share * 60)


def test_the_captions_are_those_of_the_chosen_ones():
  """So as a whole the data set has the captions that it had."""
  found = WrongCaptions(records(50, 50), 0.5, 3)
  assert sorted(int(found[i]["text"]) for i in range(50)) == list(range(50))


def test_it_is_a_function_of_the_seed():
  of = {s: WrongCaptions(records(60, 60), 0.5, s).wrong for s in (0, 1)}
  assert (of[0] != of[1]).any()
  again = pickle.loads(pickle.dumps(WrongCaptions(records(60, 60), 0.5, 0)))
  assert (again.wrong == of[0]).all()


def test_one_meaning_has_no_wrong_caption():
  found = WrongCaptions(records(9, 1), 1, 0)
  with pytest.raises(errors.UserError, match="several meanings"):
    found[0]


def test_shapes_have_them_on_request():
  small = "shapes:split=val,train_size=512,size=32"
  right, found = (build_source(s, "x") for s in (small, small + ",wrong=0.25"))
  assert found.wrong.sum() == len(right) // 4
  for i in range(len(right)):
    a, b = right[i], found[i]
    same = list(a["text"]) == list(b["text"])
    assert same != found.wrong[i] and a["id"] == b["id"]
  with pytest.raises(errors.UserError, match="wrong = 1.5; expected a number"):
    build_source(small + ",wrong=1.5", "x")
