"""Decoding, of a model that is a table: the next token depends on the last."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from big_contrastive.config import errors
from big_contrastive.models.captioning import generation
from big_contrastive.models.captioning.generation import Decoding, Ids, generate

EOS, PAD, START = 1, 0, 2
IDS = Ids(EOS, PAD)


def tables(seed=0, rows=3, length=4, classes=5):
  """Logits [rows, place, last token, next token]."""
  rng = np.random.default_rng(seed)
  return rng.normal(0, 1.5, (rows, length, classes, classes)).astype(np.float32)


def run(table, how, prompt=None, ids=IDS, keys=None, only=None):
  """Tokens and scores; a state is (rows of the table, place)."""
  rows = np.arange(len(table)) if only is None else np.array(only)
  prompt = np.full((len(rows), 1), START) if prompt is None else prompt

  def advance(tokens, state):
    row, place = state
    at = jnp.minimum(place, table.shape[1] - 1)
    logits = jnp.asarray(table)[row, at, tokens[:, -1]]
    return logits, (row, place + 1)

  def picked(state, chosen, images):
    assert state[0].shape == ((len(rows),) if images else chosen.shape)
    return state[0][chosen], state[1]

  state = jnp.asarray(rows), jnp.zeros((), jnp.int32)
  tokens, scores = jax.jit(
    lambda prompt, keys: generate(
      advance, picked, state, prompt, how, ids, keys
    )
  )(jnp.int32(prompt), keys)
  return np.asarray(tokens), np.asarray(scores)


def captions(length, classes=5):
  """All that end with EOS, or have the greatest length."""
  for n in range(1, length + 1):
    for inner in itertools.product(range(classes), repeat=n - 1):
      if EOS not in inner:
        yield (*inner, EOS)
  for whole in itertools.product(range(classes), repeat=length):
    if EOS not in whole:
      yield whole


def likelihood(table, row, caption):
  last, total = START, 0.0
  for place, token in enumerate(caption):
    total += log_softmax(np.float64(table[row, place, last]))[token]
    last = token
  return total


def padded(caption, length):
  return [*caption, *[PAD] * (length - len(caption))]


def test_greedy_takes_the_likeliest_token_until_eos():
  table = tables(1)
  found, scores = run(table, Decoding("greedy", max_tokens=4))
  for row in range(3):
    last, caption = START, []
    for place in range(4):
      last = int(table[row, place, last].argmax())
      caption.append(last)
      if last == EOS:
        break
    assert found[row].tolist() == padded(caption, 4)
    np.testing.assert_allclose(
      scores[row], likelihood(table, row, caption), rtol=1e-5
    )
  assert any(EOS in row for row in found)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beams_wide_enough_find_the_best_of_all(penalty):
  """Whose likelihood over its length, with EOS, to that power is greatest."""
  length, best_differs = 4, False
  table = tables(2)
  how = Decoding("beam", max_tokens=4, beams=600, length_penalty=penalty)
  found, scores = run(table, how)
  for row in range(3):
    value = {
      c: likelihood(table, row, c) / len(c) ** penalty for c in captions(length)
    }
    best = max(value, key=value.get)
    assert found[row].tolist() == padded(best, length)
    np.testing.assert_allclose(scores[row], value[best], rtol=1e-5)
    greedy, _ = run(table, Decoding("greedy", max_tokens=4), only=[row])
    best_differs |= greedy[0].tolist() != found[row].tolist()
  assert best_differs


def test_one_beam_is_greedy():
  table = tables(3, rows=20)
  greedy, scores = run(table, Decoding("greedy", max_tokens=4))
  how = Decoding("beam", max_tokens=4, beams=1, length_penalty=0.0)
  found, same = run(table, how)
  # Unless a caption that ended early is likelier than the one that goes on.
  kept = scores >= same - 1e-6
  np.testing.assert_array_equal(found[kept], greedy[kept])
  assert kept.sum() > 10 and np.all(same >= scores - 1e-5)


def test_nucleus_draws_from_the_smallest_set_of_that_probability():
  """With the probabilities of the set; and each caption by its own key."""
  logits = np.log(np.float32([[0.4, 0.05, 0.3, 0.05, 0.2]]))
  table = np.broadcast_to(logits, (1, 1, 5, 5)).copy()
  how = Decoding("nucleus", max_tokens=1, top_p=0.75)
  n = 4000
  keys = jax.random.split(jax.random.key(0), n)
  found, _ = run(table, how, only=np.zeros(n, int), keys=keys)
  counts = np.bincount(found[:, 0], minlength=5) / n
  expected = np.array([4, 0, 3, 0, 2]) / 9
  assert set(np.flatnonzero(counts)) == {0, 2, 4}
  deviation = np.sqrt(expected * (1 - expected) / n)
  assert np.all(np.abs(counts - expected) <= 5 * deviation + 1e-12)


@pytest.mark.parametrize("method", ["greedy", "nucleus", "beam"])
def test_a_caption_is_the_same_in_any_batch(method):
  table = tables(4)
  how = Decoding(method, max_tokens=4, beams=2, repetition_penalty=1.3)
  keys = jax.random.split(jax.random.key(1), 3)
  found, scores = run(table, how, keys=keys)
  for row in range(3):
    alone, score = run(table, how, keys=keys[row : row + 1], only=[row])
    np.testing.assert_array_equal(alone[0], found[row])
    np.testing.assert_allclose(score[0], scores[row], rtol=1e-6)


@pytest.mark.parametrize("method", ["greedy", "nucleus", "beam"])
def test_no_eos_before_min_tokens(method):
  table = tables(5)
  table[..., EOS] += 3  # Which nearly all captions would begin with.
  keys = jax.random.split(jax.random.key(1), 3)
  how = {"max_tokens": 4, "beams": 2}
  short, _ = run(table, Decoding(method, **how), keys=keys)
  long, _ = run(table, Decoding(method, min_tokens=3, **how), keys=keys)
  assert (short[:, 0] == EOS).any()
  assert not (long[:, :2] == EOS).any() and (long[:, 2] == EOS).any()


def test_repetition_is_punished_as_published():
  """What a prompt or a caption has: / p if positive, * p if negative."""
  logits = np.float32([[[2.0, -9.0, 1.9, 1.5, 1.4]]])
  table = np.broadcast_to(logits, (1, 4, 5, 5)).copy()
  how = Decoding("greedy", max_tokens=3, repetition_penalty=1.5)
  found, _ = run(table, how)  # START, 2, stands in the prompt.
  assert found[0].tolist() == [0, 3, 4]
  beams, _ = run(table, Decoding("beam", max_tokens=3, beams=1))
  assert beams[0].tolist() == [0, 0, 0]


def test_without_eos_captions_have_the_full_length():
  found, _ = run(tables(6), Decoding("greedy", max_tokens=4), ids=Ids(None, 4))
  assert found.shape == (3, 4)
  found, _ = run(
    tables(6), Decoding("beam", max_tokens=4, beams=2), ids=Ids(None, 4)
  )
  assert found.shape == (3, 4) and (found != 4).any()


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("method", "best"), ("max_tokens", 0), ("min_tokens", 30), ("beams", 0),
    ("top_p", 0.0), ("top_p", 1.1), ("temperature", 0.0),
    ("repetition_penalty", float("inf")), ("length_penalty", float("nan")),
  ],
)  # fmt: skip
def test_a_wrong_value_is_named(field, value):
  with pytest.raises(errors.UserError, match=f"^{field} = "):
    Decoding(**{field: value})
  assert generation.Decoding().method == "beam"
