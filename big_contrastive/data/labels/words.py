"""Words of a caption, as CatLIP's code gets them from NLTK 3.8.1.

Its rules are those of the Penn Treebank with NLTK's additions; where sentences
end NLTK learns from a corpus, and here a full stop ends one unless it belongs
to an abbreviation.
"""

import re
import urllib.parse

import ftfy

_TAGS = re.compile("<.*?>")
_SPACES = re.compile(" +")
# Sentences: a mark, closing quotes and brackets, then white space.
_STOP = re.compile(r"(?<=[.?!])([\"')\]}»”’]*)\s+")
_ABBREVIATION = re.compile(
  r"(?:^|[\s(\[\"'])(?:[a-z]|(?:[a-z]\.)+[a-z]|mr|mrs|ms|dr|prof|st|jr|sr|rev"
  r"|gen|col|lt|sgt|capt|vs|etc|inc|ltd|co|corp|dept|est|no|vol|fig|approx"
  r"|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|ft|ave|blvd|rd|mt)\.$"
)
_QUOTES_BEGIN = (
  (re.compile("([«“‘„]|[`]+)"), r" \1 "),
  (re.compile('^"'), "``"),
  (re.compile("(``)"), r" \1 "),
  (re.compile(r"([ (\[{<])(\"|'{2})"), r"\1 `` "),
  (re.compile(r"(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", re.I), r"\1 \2"),
)
_MARKS = (
  # The full stop at the end, with what closes behind it.
  (re.compile(r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$"), r"\1 \2 \3 "),
  (re.compile(r"([:,])(\D)"), r" \1 \2"),
  (re.compile("([:,])$"), r" \1 "),
  (re.compile(r"\.{2,}"), r" \g<0> "),
  (re.compile("[;@#$%&]"), r" \g<0> "),
  (re.compile("[?!]"), r" \g<0> "),
  (re.compile("([^'])' "), r"\1 ' "),
  (re.compile("[*]"), r" \g<0> "),
  (re.compile(r"[\]\[(){}<>]"), r" \g<0> "),
  (re.compile("--"), " -- "),
)
_QUOTES_END = (
  (re.compile("([»”’])"), r" \1 "),
  (re.compile("''"), " '' "),
  (re.compile('"'), " '' "),
  (re.compile("([^' ])('s|'m|'d|') ", re.I), r"\1 \2 "),
  (re.compile("([^' ])('ll|'re|'ve|n't) ", re.I), r"\1 \2 "),
)
_TOGETHER = tuple(
  (re.compile(rf"\b({a})({b}){end}", re.I), r" \1 \2 ")
  for a, b, end in (
    ("can", "not", r"\b"), ("d", "'ye", r"\b"), ("gim", "me", r"\b"),
    ("gon", "na", r"\b"), ("got", "ta", r"\b"), ("lem", "me", r"\b"),
    ("more", "'n", r"\b"), ("wan", "na", r"(?=\s)"),
  )
) + (
  (re.compile(r" ('t)(is)\b", re.I), r" \1 \2 "),
  (re.compile(r" ('t)(was)\b", re.I), r" \1 \2 "),
)  # fmt: skip


def clean(caption: str) -> str:
  """Returns a caption without %20, "+" and tags, repaired and lower case."""
  text = urllib.parse.unquote(caption).replace("+", " ")
  text = _SPACES.sub(" ", _TAGS.sub("", text).strip("\n"))
  return ftfy.fix_text(text).strip().lower()


def of(caption: str) -> list[str]:
  """Returns the words and marks of a caption, cleaned."""
  return [w for one in sentences(clean(caption)) for w in of_sentence(one)]


def sentences(text: str) -> list[str]:
  """Returns the sentences of a text."""
  found, start = [], 0
  for stop in _STOP.finditer(text):
    before = text[start : stop.start()]
    if not _ABBREVIATION.search(before):
      found.append(before + stop.group(1))
      start = stop.end()
  return [*found, text[start:]]


def of_sentence(text: str) -> list[str]:
  """Returns the words and marks of a sentence."""
  for pattern, new in (*_QUOTES_BEGIN, *_MARKS):
    text = pattern.sub(new, text)
  text = f" {text} "
  for pattern, new in (*_QUOTES_END, *_TOGETHER):
    text = pattern.sub(new, text)
  return text.split()
