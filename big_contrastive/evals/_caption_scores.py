"""Scores of captions beside references: BLEU, ROUGE-L and CIDEr-D.

The figures are those of pycocoevalcap, which COCO's papers report, without
Java: `tokenize` stands in for the Stanford tokenizer that it starts.
"""

import collections
import math
import re
from collections.abc import Sequence

import numpy as np

from big_contrastive.config import errors

Tokens = Sequence[str]

_ORDERS = 1, 2, 3, 4  # The lengths of n-grams, in BLEU and in CIDEr-D.
_BETA = 1.2  # ROUGE-L's weight of recall relative to precision.
_SIGMA = 6.0  # CIDEr-D's tolerance of another length, in tokens.
# What pycocoevalcap adds to numerators and denominators in BLEU, against 0 / 0:
# they show in the tenth digit, and where nothing matches.
_TINY, _SMALL = 1e-15, 1e-9

_PLAIN = str.maketrans(
  {"‘": "'", "’": "'", "“": '"', "”": '"', "–": " - ", "—": " - ", "…": "..."}
)
_TOKEN = re.compile(
  r"""
  (?-i:[A-Z]+(?:&[A-Z]+)+)              # AT&T, but m & m
  | (?:[^\W\d_]\.)+(?!\w)               # u.s.  p.m.  j.
  | (?:mr|mrs|ms|dr|st|mt|ft|vs|etc|al|est|dept|univ|lt|gen|col|sgt|capt|prof
      |rev|hon|gov|sen|rep|pres|jr|sr|inc|co|corp|ltd|ave|rd|blvd|cf
      |jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu
      |thurs|fri)\.(?!\w)
  | (?:no|fig)\.(?=\s*\d)
  | (?:(?<!\w)[-+])?(?:\d+(?:[.,:]\d+)+(?:-\w+)*|\.\d+)   # 3:30  1,000-foot
  | (?<!\w)[-+]\d+(?!\w)
  | can(?=not(?!\w)) | (?:gon|wan)(?=na(?!\w)) | got(?=ta(?!\w))
  | (?:gim|lem)(?=me(?!\w))
  | [^\W\d_]+?(?=n't(?!\w)) | n't(?!\w)           # ca n't
  | '(?:s|m|d|ve|re|ll)(?!\w)                     # it 's
  | '(?:em|til|n'|n|\d\ds)(?!\w)                  # rock 'n' roll  '90s
  | 't(?=is(?!\w)|was(?!\w))
  | ma'am | y'(?=(?:all|know)(?!\w))
  | [dlo]'(?!(?:s|m|d|ve|re|ll)(?!\w))\w+         # o'clock
  | [#@][^\W\d]\w*                                # @home, but # 1
  | \w+(?:[-/]\w+|(?<=[^\W\d_])[.?!](?=[^\W\d_])\w+)*
  | [?!]{2,} | \*+ | \S
  """,
  re.IGNORECASE | re.VERBOSE,
)
# As the Stanford tokenizer writes them. pycocoevalcap means to drop round and
# curly ones, but in upper case, so that these stay.
_BRACKETS = {
  "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-",
  "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
_DROPPED = set("'\"`.?!,:;-")


def tokenize(caption: str) -> list[str]:
  """Returns an English caption's tokens, in lower case, for the scores here.

  They are those of the Penn Treebank, without punctuation, as COCO's evaluation
  (Chen et al. 2015, arXiv:1504.00325) makes them: "A man's hat, isn't it?" is
  "a", "man", "'s", "hat", "is", "n't", "it". As there, brackets are tokens
  ("-lrb-"), and so is "?!". Words keep hyphens and slashes, abbreviations
  ("dr.", "u.s.") their period.

  It is a small tokenizer. It differs from the Stanford tokenizer on addresses,
  tags and entities of HTML, smileys, the signs of fractions and currencies, and
  rare abbreviations. A curly apostrophe is always a straight one; there, one
  inside a word ("o’clock") stays curly.

  Args:
    caption: any text; of nothing but punctuation it leaves no token.
  """
  found = _TOKEN.findall(caption.translate(_PLAIN))
  return [_BRACKETS.get(x, x.lower()) for x in found if x not in _DROPPED]


def bleu(
  candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[float, float, float, float]:
  """Returns BLEU-1 to BLEU-4 of all images together, from 0 to 1.

  BLEU-n is the geometric mean of the precisions of 1-grams to n-grams, where an
  n-gram counts as often as in the reference that has it most, times a penalty
  for candidates that are shorter than their references of closest length, the
  shorter of two (Papineni et al. 2002, aclanthology.org/P02-1040). Counts and
  lengths are sums over the images: it is no mean of their scores.

  As in pycocoevalcap, 1e-9 is added to each denominator and 1e-15 to each
  numerator: a perfect score is 1 - 1e-9 or so, and one without a matching
  n-gram is not quite 0. A candidate without tokens shortens the total.

  Args:
    candidates: each image's tokens, [images][tokens].
    references: each image's references, [images][references][tokens].

  Raises:
    UserError: for no image, an image without references, different numbers of
      candidates and images, or a text in place of its tokens.
  """
  _check(candidates, references)
  matched, possible = np.zeros(4), np.zeros(4)
  length = closest = 0
  for own, several in zip(candidates, references):
    length += len(own)
    lengths = (len(other) for other in several)
    closest += min(lengths, key=lambda n: (abs(n - len(own)), n))
    for i, order in enumerate(_ORDERS):
      counts = _grams(own, order)
      others = [_grams(other, order) for other in several]
      possible[i] += sum(counts.values())
      matched[i] += sum(
        min(count, max(other.get(gram, 0) for other in others))
        for gram, count in counts.items()
      )
  precision = (matched + _TINY) / (possible + _SMALL)
  scores = np.cumprod(precision) ** (1 / np.array(_ORDERS))
  ratio = (length + _TINY) / (closest + _SMALL)
  if ratio < 1:
    scores *= math.exp(1 - 1 / ratio)
  one, two, three, four = scores.tolist()
  return one, two, three, four


def rouge_l(
  candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> float:
  """Returns the mean over images of ROUGE-L, from 0 to 1.

  The longest common subsequence with a reference, over the candidate's length,
  is the precision; over the reference's length, the recall. The score is
  (1 + b^2) P R / (R + b^2 P) with b = 1.2 (Lin 2004,
  aclanthology.org/W04-1013). As in pycocoevalcap, P and R are each the largest
  over the references, which need not be of the same one.

  As there too, a caption without tokens is one empty token: 0, or 1 where a
  reference has none either.

  Args, Raises: see `bleu`.
  """
  _check(candidates, references)
  scores = []
  for own, several in zip(candidates, references):
    own = list(own) or [""]
    precision = recall = 0.0
    for other in several:
      other = list(other) or [""]
      common = _common(own, other)
      precision = max(precision, common / len(own))
      recall = max(recall, common / len(other))
    bottom = recall + _BETA**2 * precision
    top = (1 + _BETA**2) * precision * recall
    scores.append(top / bottom if bottom else 0.0)
  return float(np.mean(scores))


def cider_d(
  candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[float, np.ndarray]:
  """Returns the mean of CIDEr-D, and each image's: float64 [images].

  A caption is a vector of its n-grams' counts, each times log(images / images
  with the n-gram in a reference). The score is ten times the cosine with a
  reference, with the candidate's weights clipped to the reference's, times
  exp(-d^2 / 72) for lengths that differ by d tokens; the mean over references
  and over n = 1 to 4 (Vedantam et al. 2015, arXiv:1411.5726). It is from 0 to
  10, but 10 only where the references of an image are equal, and have four
  tokens or more.

  The frequencies are those of the references given here. An image's score
  therefore depends on the others: scores of a subset differ from those that the
  same images have in the whole, one image alone scores 0, and figures are
  comparable only on the same images.

  A candidate without tokens scores 0.

  Args, Raises: see `bleu`.
  """
  _check(candidates, references)
  scores = np.zeros(len(candidates))
  for order in _ORDERS:  # One at a time: a quarter of the memory.
    scores += _similarities(candidates, references, order)
  scores *= 10 / len(_ORDERS)
  return float(np.mean(scores)), scores


def _similarities(
  candidates: Sequence[Tokens],
  references: Sequence[Sequence[Tokens]],
  order: int,
) -> np.ndarray:
  """CIDEr-D's part of the n-grams of one length, from 0 to 1: [images]."""
  images = [[_grams(other, order) for other in x] for x in references]
  having = collections.Counter()
  for grams in images:
    having.update(set().union(*grams))
  most = math.log(len(images))
  weight = {gram: most - math.log(n) for gram, n in having.items()}

  def vector(grams: dict) -> tuple[dict, float]:
    x = {gram: n * weight.get(gram, most) for gram, n in grams.items()}
    return x, math.sqrt(sum(value * value for value in x.values()))

  scores = np.zeros(len(images))
  for i, (own, grams) in enumerate(zip(candidates, images)):
    x, x_norm = vector(_grams(own, order))
    for other, theirs in zip(references[i], grams):
      y, y_norm = vector(theirs)
      if not x_norm * y_norm:
        continue
      shared = [gram for gram in x if gram in y]
      dot = sum(min(x[gram], y[gram]) * y[gram] for gram in shared)
      differ = len(own) - len(other)
      near = math.exp(-(differ**2) / (2 * _SIGMA**2))
      scores[i] += near * dot / (x_norm * y_norm)
    scores[i] /= len(grams)
  return scores


def _grams(tokens: Tokens, order: int) -> dict[tuple[str, ...], int]:
  """How often each n-gram of one length is in a caption."""
  counts = {}
  for gram in zip(*(tokens[i:] for i in range(order))):
    counts[gram] = counts.get(gram, 0) + 1
  return counts


def _common(x: Tokens, y: Tokens) -> int:
  """The length of the longest common subsequence.

  A column of the usual table is one integer: a bit of it is 0 where the length
  grows from one token of y to the next (Hyyro 2004, "Bit-parallel LCS-length
  computation revisited"). One addition carries all of them on.
  """
  places = {}
  for i, token in enumerate(y):
    places[token] = places.get(token, 0) | 1 << i
  column = full = (1 << len(y)) - 1
  for token in x:
    hit = column & places.get(token, 0)
    column = (column + hit) | (column - hit)
  return len(y) - (column & full).bit_count()


def _check(
  candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> None:
  """Raises UserError for what cannot be scored."""
  if not len(candidates):
    allowed = "the tokens of one image or more"
    remedy = "Give candidates and their references."
    raise errors.UserError("candidates", list(candidates), allowed, remedy)
  if len(references) != len(candidates):
    allowed = f"{len(candidates)}, as there are candidates"
    remedy = "Each image needs one candidate and a list of references."
    raise errors.UserError("len(references)", len(references), allowed, remedy)
  for i, (own, several) in enumerate(zip(candidates, references)):
    _refuse_text(f"candidates[{i}]", own, "tokens")
    thing = f"references[{i}]"
    _refuse_text(thing, several, "references, each a list of tokens")
    if not len(several):
      allowed = "one reference or more"
      remedy = "Leave out images without a reference."
      raise errors.UserError(thing, list(several), allowed, remedy)
    for j, other in enumerate(several):
      _refuse_text(f"{thing}[{j}]", other, "tokens")


def _refuse_text(thing: str, value: Sequence, items: str) -> None:
  # A text is a sequence of its letters, and would score as one.
  if isinstance(value, str):
    remedy = "Split a caption with tokenize()."
    raise errors.UserError(thing, value, f"a list of {items}", remedy)
