"""Scores of captions by hand, and beside pycocoevalcap."""

import csv
import functools
import math
import pathlib
import shutil

import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.evals import _caption_scores
from big_contrastive.evals._caption_scores import (
  bleu,
  cider_d,
  rouge_l,
  tokenize,
)

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
SCORES = bleu, rouge_l, cider_d


def split(*captions: str) -> list[list[str]]:
  return [x.split() for x in captions]


def several(*images: tuple[str, ...]) -> list[list[list[str]]]:
  return [split(*x) for x in images]


def random_captions(seed: int, images: int, words: int, shortest: int = 1):
  """Candidates that share words with their references, of any length."""
  r = np.random.default_rng(seed)

  def caption() -> list[str]:
    return [f"w{x}" for x in r.zipf(1.3, r.integers(shortest, 16)) % words]

  references = [
    [caption() for _ in range(r.integers(1, 6))] for _ in range(images)
  ]
  candidates = []
  for x in references:
    own = caption() + x[0][: r.integers(0, 9)] + x[-1][r.integers(0, 5) :]
    candidates.append(own)
  return candidates, references


def parts(score, candidates, references) -> np.ndarray:
  """All figures of a score in one vector: the mean first."""
  found = score(candidates, references)
  return np.hstack(found) if isinstance(found, tuple) else np.array([found])


# What the Stanford tokenizer and pycocoevalcap's filter make of each text.
TEXTS = {
  "A man's hat, isn't it?": "a man 's hat is n't it",
  "The dogs' bowl; they can't, won't eat...": (
    "the dogs bowl they ca n't wo n't eat"
  ),
  "I'd've said cannot, gonna, 'tis": "i 'd 've said can not gon na 't is",
  "It’s a “STOP” sign — 'red' and `new`.": "it 's a stop sign red and new",
  "A horse-drawn cart at 3:30 p.m.!": "a horse-drawn cart at 3:30 p.m.",
  "Mr. Smith and the U.S. flag.": "mr. smith and the u.s. flag",
  "No. 5, I said no. He sat. The sun.": "no. 5 i said no he sat the sun",
  "$5.50, 5% of 1,000 men; #1 @home": "$ 5.50 5 % of 1,000 men # 1 @home",
  "AT&T, m&m, black/white, w/o": "at&t m & m black/white w/o",
  "a t-shirt's 65,536-way sign": "a t-shirt 's 65,536-way sign",
  "rock 'n' roll, '90s, o'clock": "rock 'n' roll '90s o'clock",
  "A train (in red) [left]": "a train -lrb- in red -rrb- -lsb- left -rsb-",
  "wow!!! what?! really? yes!": "wow !!! what ?! really yes",
  "  tabs\tand\nlines -- man -made ": "tabs and lines man made",
  "Façade über 日本": "façade über 日本",
  " . , - ": "",
  "": "",
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_cocos_evaluation(text):
  assert tokenize(text) == TEXTS[text].split()


def test_bleu_counts_a_word_as_often_as_one_reference_has_it():
  # The example of the paper: "the" is twice in the first reference.
  references = several(("the cat is on the mat", "there is a cat on the mat"))
  found = bleu(split("the the the the the the the"), references)
  assert found[0] == pytest.approx(2 / 7, rel=1e-8)
  # sqrt(2 / 7 * 1e-15 / 6): what pycocoevalcap has where no pair matches.
  assert found[1] == pytest.approx(math.sqrt(2 / 7 * 1e-15 / 6), rel=1e-8)


def test_bleu_is_of_counts_and_lengths_summed_over_images():
  candidates = split("a b c d e", "x y")
  references = several(("a b c d f",), ("x y z w", "y"))
  # Matched: 4 + 2 words of 7, 3 + 1 pairs of 5, 2 of 3, 1 of 2. Lengths: 7, of
  # references 5 and 1, which is closer to 2 than 4 is.
  p1, p2, p3, p4 = 6 / 7, 4 / 5, 2 / 3, 1 / 2
  expected = [
    p1,
    (p1 * p2) ** (1 / 2),
    (p1 * p2 * p3) ** (1 / 3),
    (p1 * p2 * p3 * p4) ** (1 / 4),
  ]
  assert bleu(candidates, references) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
  ("others", "penalty"),
  [
    (("a b c d e f",), math.exp(1 - 6 / 3)),
    (("a b c d e f", "a b c d"), math.exp(1 - 4 / 3)),
    (("a b c d", "a b"), 1),  # Equally close: the shorter.
    (("a b c",), 1),
    (("a", "b", "c"), 1),
  ],
)
def test_bleu_penalizes_short_candidates_beside_the_closest(others, penalty):
  found = bleu(split("a b c"), several(others))
  assert found[0] == pytest.approx(penalty, rel=1e-8)


def test_rouge_takes_precision_and_recall_each_from_its_best_reference():
  references = several(("a x c d e f g h", "d"))
  # Beside the first P = 3/4 and R = 3/8, beside the second 1/4 and 1.
  expected = 2.44 * 0.75 * 1 / (1 + 1.44 * 0.75)
  found = rouge_l(split("a b c d"), references)
  assert found == pytest.approx(expected, rel=1e-14)
  # The mean with an image where nothing is right.
  found = rouge_l(split("a b c d", "u"), references + several(("v w",)))
  assert found == pytest.approx(expected / 2, rel=1e-14)


def longest(x: list[str], y: list[str]) -> int:
  @functools.cache
  def of(i: int, j: int) -> int:
    if i == len(x) or j == len(y):
      return 0
    if x[i] == y[j]:
      return 1 + of(i + 1, j + 1)
    return max(of(i + 1, j), of(i, j + 1))

  return of(0, 0)


def test_the_common_subsequence_is_the_longest():
  r = np.random.default_rng(0)
  for _ in range(300):
    x, y = (list(r.choice(list("abcde"), r.integers(0, 90))) for _ in range(2))
    assert _caption_scores._common(x, y) == longest(x, y)


def test_cider_is_the_cosine_of_weighted_counts_by_hand():
  candidates = split("a b", "c", "e z")
  references = several(("a b",), ("c d",), ("e f", "z z e"))
  mean, each = cider_d(candidates, references)
  # Each n-gram is of one image in three, one length has all the same weight.
  # 1: equal, words and pairs; there are no longer n-grams.
  first = 10 * (1 + 1 + 0 + 0) / 4
  # 2: "c" is one of the reference's two words, one token is missing.
  second = 10 / 4 * math.exp(-1 / 72) / math.sqrt(2)
  # 3: e of (e, z) with (e, f); both with (e, 2 z), of which 1 is clipped: e * e
  # + 1 * 2, of norms sqrt(2) and sqrt(5), one token longer. No pair is shared.
  near = math.exp(-1 / 72)
  third = 10 / 4 * (1 / 2 + near * 3 / math.sqrt(10)) / 2
  np.testing.assert_allclose(each, [first, second, third], rtol=1e-14)
  assert mean == pytest.approx(np.mean(each), rel=1e-15)
  assert each.dtype == np.float64 and each.shape == (3,)


def test_cider_gains_nothing_by_repeating_a_word():
  candidates, others = split("c c c", "x"), several(("c d d",), ("y",))
  _, each = cider_d(candidates, others)
  # (3, 0) clipped to (1, 2) is 1 * 1, over norms 3 and sqrt(5).
  expected = 10 / 4 / (3 * math.sqrt(5))
  np.testing.assert_allclose(each, [expected, 0], rtol=1e-14)


def test_cider_weighs_a_word_by_the_images_that_have_it():
  # "a" is in references of 2 images, "b" and "c" in 1 of 3: twice within one
  # image is once. "z" is in none, which weighs as much as in one.
  candidates = split("a b z", "q", "q")
  references = several(("a b c",), ("a", "a"), ("d", "e"))
  a, b = math.log(3 / 2), math.log(3)
  norm = math.sqrt(a * a + 2 * b * b)
  words = (a * a + b * b) / norm**2
  pairs = 1 / 2  # a b of (a b, b z) and (a b, b c), all of one weight.
  _, each = cider_d(candidates, references)
  np.testing.assert_allclose(each, [10 * (words + pairs) / 4, 0, 0], rtol=1e-14)


def test_a_word_that_all_images_have_is_worth_nothing_in_cider():
  mean, each = cider_d(split("a", "a"), several(("a",), ("a",)))
  assert mean == 0 and each.tolist() == [0, 0]
  # So nothing is, of one image alone.
  text = split("a b c d e")
  assert cider_d(text, [text])[0] == 0


def test_a_subset_has_other_cider_scores_than_the_same_images_in_the_whole():
  candidates, references = random_captions(1, 40, 60)
  _, whole = cider_d(candidates, references)
  _, half = cider_d(candidates[:20], references[:20])
  assert not np.allclose(whole[:20], half)


def test_perfect_candidates_have_the_largest_scores():
  captions, _ = random_captions(2, 30, 1000, shortest=4)
  for count in (1, 5):
    references = [[x] * count for x in captions]
    np.testing.assert_allclose(bleu(captions, references), 1, rtol=1e-8)
    assert rouge_l(captions, references) == pytest.approx(1, rel=1e-14)
    mean, each = cider_d(captions, references)
    np.testing.assert_allclose(each, 10, rtol=1e-12)
    assert mean == pytest.approx(10, rel=1e-12)
  # With another reference besides, BLEU and ROUGE-L stay, CIDEr-D does not.
  references = [[x, ["other"]] for x in captions]
  np.testing.assert_allclose(bleu(captions, references), 1, rtol=1e-8)
  assert rouge_l(captions, references) == pytest.approx(1, rel=1e-14)
  np.testing.assert_allclose(cider_d(captions, references)[1], 5, rtol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_candidates_of_other_images_score_less(score):
  candidates, references = random_captions(3, 50, 300)
  right = parts(score, candidates, references)[0]
  wrong = parts(score, candidates[1:] + candidates[:1], references)[0]
  assert wrong < 0.8 * right


@pytest.mark.parametrize("score", SCORES)
def test_scores_do_not_depend_on_any_order(score):
  candidates, references = random_captions(4, 30, 50)
  found = parts(score, candidates, references)
  turned = [x[::-1] for x in references]
  np.testing.assert_allclose(parts(score, candidates, turned), found, 1e-13)
  order = np.random.default_rng(0).permutation(30)
  shuffled = [[x[i] for i in order] for x in (candidates, references)]
  expected = found
  if score is cider_d:
    expected = np.hstack([found[0], found[1:][order]])
  np.testing.assert_allclose(parts(score, *shuffled), expected, rtol=1e-13)


def test_scores_do_not_depend_on_what_words_are_called():
  candidates, references = random_captions(5, 30, 50)
  named = [[f"{x} of" for x in own] for own in candidates]
  others = [[[f"{x} of" for x in y] for y in own] for own in references]
  for score in SCORES:
    np.testing.assert_array_equal(
      parts(score, named, others), parts(score, candidates, references)
    )


def test_a_candidate_without_tokens_scores_nothing_and_counts():
  candidates, references = random_captions(6, 20, 50)
  before = bleu(candidates, references), rouge_l(candidates, references)
  candidates[3] = []
  found = bleu(candidates, references), rouge_l(candidates, references)
  assert all(math.isfinite(x) and x > 0 for x in found[0])
  assert found[1] < before[1]
  assert cider_d(candidates, references)[1][3] == 0


def test_nothing_but_empty_captions_scores_nothing():
  assert bleu([[], []], several(("a b",), ("c",))) == (0, 0, 0, 0)
  assert rouge_l([[], []], several(("a b",), ("c",))) == 0
  assert cider_d([[], []], several(("a b",), ("c",)))[0] == 0
  # One empty token each, for pycocoevalcap.
  assert rouge_l([[]], [[[]]]) == pytest.approx(1, rel=1e-14)
  assert bleu([[]], [[[]]]) == (0, 0, 0, 0)
  assert cider_d([[]], [[[]]])[0] == 0


@pytest.mark.parametrize(
  ("candidates", "references", "message"),
  [
    ([], [], r"candidates = \[\]; expected the tokens of one image or more\."),
    (
      [["a"]],
      [[["a"]], [["b"]]],
      r"len\(references\) = 2; expected 1, as there are candidates\. Each",
    ),
    (
      [["a"], ["b"]],
      [[["a"]], []],
      r"references\[1\] = \[\]; expected one reference or more\. Leave out",
    ),
    (
      ["a cat"],
      [[["a"]]],
      r"candidates\[0\] = 'a cat'; expected a list of tokens\. Split a",
    ),
    (
      [["a"]],
      [[["a"], "a cat"]],
      r"references\[0\]\[1\] = 'a cat'; expected a list of tokens\.",
    ),
    (
      [["a"]],
      ["a cat"],
      r"references\[0\] = 'a cat'; expected a list of references, each a list ",
    ),
  ],
)
@pytest.mark.parametrize("score", SCORES)
def test_what_cannot_be_scored_is_a_users_mistake(
  score, candidates, references, message
):
  with pytest.raises(errors.UserError, match=f"^{message}"):
    score(candidates, references)


def same_as_theirs(candidates, references, rel=1e-12):
  """All three beside pycocoevalcap 1.2, which takes joined tokens."""
  packages = "bleu.bleu", "rouge.rouge", "cider.cider"
  blue, rouge, cider = (
    pytest.importorskip(f"pycocoevalcap.{x}") for x in packages
  )
  theirs = {i: [" ".join(x)] for i, x in enumerate(candidates)}
  truth = {i: [" ".join(y) for y in x] for i, x in enumerate(references)}
  expected, _ = blue.Bleu(4).compute_score(truth, theirs, verbose=0)
  np.testing.assert_allclose(bleu(candidates, references), expected, rel)
  expected, _ = rouge.Rouge().compute_score(truth, theirs)
  np.testing.assert_allclose(rouge_l(candidates, references), expected, rel)
  expected, each = cider.Cider().compute_score(truth, theirs)
  mean, ours = cider_d(candidates, references)
  np.testing.assert_allclose(ours, each, rel)
  np.testing.assert_allclose(mean, expected, rel)


@pytest.mark.parametrize("images", [1, 2, 200])
@pytest.mark.parametrize("words", [3, 40, 3000])
@pytest.mark.peers
def test_scores_are_pycocoevalcaps_on_random_text(images, words):
  for seed in range(5):
    candidates, references = random_captions(seed, images, words)
    same_as_theirs(candidates, references)
    # None shares a word; one is empty; all are.
    same_as_theirs([["none"]] * images, references)
    same_as_theirs([[], *candidates[1:]], references)
    same_as_theirs([[]] * images, references)
    references[0].append([])
    same_as_theirs([[], *candidates[1:]], references)


def grocery() -> tuple[list[str], list[list[str]]]:
  """A description, and those of other goods of its coarse class."""
  with open(SHARED / "grocery" / "classes.tsv") as f:
    rows = list(csv.DictReader(f, delimiter="\t"))
  found = {
    row["description"]: [
      x["description"]
      for x in rows
      if x["coarse"] == row["coarse"] and x is not row
    ]
    for row in rows
  }
  found = {x: others for x, others in found.items() if others}
  return list(found), list(found.values())


def emoji() -> tuple[list[str], list[list[str]]]:
  """The name of each, and its keywords."""
  with open(SHARED / "emoji" / "captions.tsv") as f:
    rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
    pairs = [(row["name"], row["keywords"].split("; ")) for row in rows]
  return [x for x, _ in pairs], [x for _, x in pairs]


@pytest.mark.parametrize("captions", [grocery, emoji])
@pytest.mark.peers
def test_scores_are_pycocoevalcaps_on_captions(captions):
  if not SHARED.exists():
    pytest.skip("no shared/")
  own, others = captions()
  candidates = [tokenize(x) for x in own]
  references = [[tokenize(y) for y in x] for x in others]
  same_as_theirs(candidates, references)
  assert cider_d(candidates, references)[0] > 0.01


@pytest.mark.peers
def test_tokens_are_those_of_pycocoevalcaps_java():
  theirs = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
  if not shutil.which("java"):
    pytest.skip("no java")
  texts = list(TEXTS)
  if SHARED.exists():
    for captions in (grocery, emoji):
      own, others = captions()
      texts += own + [y for x in others for y in x]
  # The one difference that is meant: theirs keeps these within a word.
  texts = [x.replace("’", "'").replace("\t", " ") for x in texts]
  rows = {i: [{"caption": x}] for i, x in enumerate(texts)}
  expected = theirs.PTBTokenizer().tokenize(rows)
  for i, text in enumerate(texts):
    assert tokenize(text) == expected[i][0].split(), text
