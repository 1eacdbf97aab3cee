"""Labels from captions: WordNet's nouns, words, and vocabularies of synsets."""

import collections
import json
import pickle
import re

import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.data.build import build_source
from big_contrastive.data.labels import published, synsets, wordnet, words
from big_contrastive.data.tokenizers.tokenizer import (
  build_tokenizer,
  restore_tokenizer,
)

NOUNS = {
  # lemma: offset of its first sense
  "dog": 2084071, "domestic_dog": 2084071, "man": 10287213, "photo": 3925226,
  "photograph": 3925226, "exposure": 3925226, "a": 13637958, "as": 14622893,
  "glass": 3438257, "goose": 1855672, "half_dozen": 13747989, "wa": 8910668,
  "leaf": 13152742, "box": 2883344, "class": 7997703, "u": 14684000,
}  # fmt: skip
# Of those that are no head of their synset.
HEADS = {
  2084071: "dog", 3925226: "photograph", 13637958: "angstrom",
  14622893: "arsenic", 13747989: "six", 8910668: "Evergreen_State",
  14684000: "uracil",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  """A folder with WordNet's three files, in Windows' form."""
  heads = {n: w for w, n in reversed(NOUNS.items())} | HEADS
  licence = "  1 This software and database is being provided to you  \n"
  data = [f"{n:08} 05 n 01 {w} 0 000 | what" for n, w in sorted(heads.items())]
  index = [
    f"{w} n 2 1 @ 2 0 {n:08} 00000001  " for w, n in sorted(NOUNS.items())
  ]
  for name, lines in (
    ("index.noun", index), ("data.noun", data),
    ("noun.exc", ["geese goose", "leaves leaf leave", "oxen ox"]),
  ):  # fmt: skip
    text = licence + "\n".join(lines) + "\n"
    (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode())
  return tmp_path


def test_lemmas_are_those_of_the_first_sense(folder):
  nouns = wordnet.read(str(folder), "--wordnet")
  assert nouns.synset == NOUNS
  assert nouns.head[13637958] == "angstrom" and nouns.head[2084071] == "dog"
  assert nouns.head[8910668] == "evergreen_state"  # Lower case, as NLTK's.


@pytest.mark.parametrize(
  ("word", "lemma"),
  [
    ("dogs", "dog"), ("men", "man"), ("geese", "goose"), ("boxes", "box"),
    ("leaves", "leaf"), ("glasses", "glass"), ("classeses", "class"),
    ("was", "wa"), ("as", "a"), ("us", "u"), ("zebras", "zebras"), ("", ""),
    ("oxen", "oxen"),  # Its lemma is not in this WordNet.
    ("goose", "goose"),
  ],
)  # fmt: skip
def test_the_shortest_lemma_of_a_form_is_taken(word, lemma, folder):
  assert wordnet.read(str(folder), "x").lemma(word) == lemma


@pytest.mark.parametrize(
  ("name", "text", "said"),
  [
    ("index.noun", "dog n 1 1 @ 1 1 xyz", "index.noun:1 = 'dog n 1 1 @ 1 1 xy"),
    ("index.noun", "dog v 1 0 1 1 02084071", "index.noun:1"),
    ("index.noun", "dog n 1 0 1 1 00000007", "index.noun:1"),
    ("index.noun", "dog n", "index.noun:1"),
    ("data.noun", "02084071 05 v 01 dog 0", "data.noun:1"),
    ("noun.exc", "geese", "noun.exc:1 = 'geese'; expected a form and its lem"),
    ("index.noun", "", "It has no lemmas"),
    ("index.noun", b"\xff\xfe", "UnicodeDecodeError"),
    ("data.noun", None, "data.noun'; expected a folder with WordNet's index"),
  ],
)  # fmt: skip
def test_another_file_is_named_with_its_line(name, text, said, folder):
  if text is None:
    (folder / name).unlink()
  elif isinstance(text, bytes):
    (folder / name).write_bytes(text)
  else:
    (folder / name).write_text(text)
  with pytest.raises(errors.UserError, match="--wordnet.*" + re.escape(said)):
    wordnet.read(str(folder), "--wordnet")


@pytest.mark.parametrize(
  ("caption", "found"),
  [
    ("A Dog, two dogs.", "a dog , two dogs ."),
    ("don't cannot gonna dog's dogs' o'clock",
     "do n't can not gon na dog 's dogs ' o'clock"),
    ("<b>red%20car</b>+blue", "red car blue"),
    ("A dog. A cat. mr. b. jones", "a dog . a cat . mr. b. jones"),
    ("3,000 cats: \"nice\" (3.5 kg)...",
     "3,000 cats : `` nice '' ( 3.5 kg ) ..."),
    ("schÃ¶n — “x”", "schön — `` x ''"),
    ("  \n", ""),
  ],
)  # fmt: skip
def test_words_are_those_of_the_treebank(caption, found):
  assert words.of(caption) == found.split()


def test_a_label_is_a_word_that_heads_its_first_synset(folder):
  nouns = wordnet.read(str(folder), "x")
  head = synsets.from_wordnet(nouns, "head")
  merge = synsets.from_wordnet(nouns, "merge")
  caption = "A photo of dogs, a dog and a photograph as men do"
  assert head(caption) == [2084071, 3925226, 10287213]
  a, photograph, man = 13637958, 3925226, 10287213
  assert merge(caption) == [a, photograph, 2084071, man]  # "as" is "a".
  assert head("") == head("of and") == []


def test_a_vocabulary_gives_the_same_labels_without_wordnet(folder):
  nouns = wordnet.read(str(folder), "x")
  counts = [(2084071, 5), (3925226, 4), (10287213, 1)]
  blob = synsets.vocabulary(nouns, "merge", counts, 5)
  found = synsets.Vocabulary(blob)
  assert found.heads == ["dog", "photograph", "man"]
  # All have a dog: its odds would be infinite.
  np.testing.assert_allclose(found.frequency, [0.9, 0.8, 0.2])
  assert found.labels("exposures of geese, domestic_dog") == [1, 0]
  assert found.labels("a class was as us") == []
  assert (
    synsets.Vocabulary(synsets.vocabulary(nouns, "head", counts, 0)).frequency
    is None
  )


def test_the_shipped_vocabulary_is_that_of_the_embedded_data():
  """Counted here in a plain way, over other draws of the same captions."""
  shipped = synsets.Vocabulary(synsets.SHAPES.read_bytes())
  nouns = wordnet.read("shapes", "x")
  source = build_source("shapes:split=train,train_size=600,size=32", "x")
  counts, captions = collections.Counter(), 0
  for i in range(len(source)):
    texts = source[i]["text"]
    for text in [texts] if isinstance(texts, str) else texts:
      captions += 1
      found = set()
      for word in re.findall(r"\w+", text):
        lemma = nouns.lemma(word)
        if nouns.head.get(nouns.synset.get(lemma)) == lemma:
          found.add(nouns.synset[lemma])
      counts.update(found)
  assert counts.keys() <= set(shipped.offsets.tolist())
  share = np.array([counts[n] / captions for n in shipped.offsets.tolist()])
  # A record's captions tell of the same things.
  sigma = np.sqrt(shipped.frequency / len(source))
  assert (np.abs(share - shipped.frequency) < 5 * sigma + 1e-3).all()


def test_the_tokenizer_of_synsets_has_classes_and_a_padding(folder):
  nouns = wordnet.read(str(folder), "x")
  counts = [(2084071, 3), (10287213, 1)]
  path = folder / "v.json"
  path.write_bytes(synsets.vocabulary(nouns, "head", counts, 4))
  made = build_tokenizer("synsets", 3, path=str(path))
  assert (made.vocab_size, made.pad_id) == (3, 2)
  assert made("two men and dogs. A man.").tolist() == [1, 0, 2]
  assert made.rows(["DOG", "no"]).tolist() == [[0, 2, 2], [2, 2, 2]]
  assert made.decode([1, 0, 2]) == "man, dog"
  again = restore_tokenizer(made.spec, made.blob)
  assert again("a dog").tolist() == [0, 2, 2]
  again = pickle.loads(pickle.dumps(made))
  np.testing.assert_array_equal(again.frequency, [0.75, 0.25])


@pytest.mark.parametrize(
  "content", ["{}", "[]", "x", '{"synsets": []}', '{"synsets": [[1, 2]]}']
)
def test_another_file_is_no_vocabulary(content, tmp_path):
  (tmp_path / "v.json").write_text(content)
  with pytest.raises(errors.UserError, match="path = .*big_contrastive.synset"):
    build_tokenizer("synsets", 3, path=str(tmp_path / "v.json"))


def test_published_counts_are_read_and_checked(folder):
  nouns = wordnet.read(str(folder), "x")
  counts = {"n2084071": 7, "n10287213": 2}
  (folder / "c.json").write_text(json.dumps(counts))
  (folder / "c.pkl").write_bytes(pickle.dumps(counts))
  for name in ("c.json", "c.pkl"):
    found = published.read(str(folder / name), nouns, "--published")
    assert found == {2084071: 7, 10287213: 2}


class Runs:
  def __reduce__(self):
    return print, ("it ran",)


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b'{"n7": 1}', "n7 in .*first sense of their head"),
    (b'{"n13637958": 1}', "n13637958 in"),  # Angstrom's is not "a".
    (b'{"n2084071": 0}', "Each count is 1 or more"),
    (b'{"dog": 1}', "ValueError"),
    (b"[1]", "AttributeError|KeyError|UnpicklingError|EOFError|ValueError"),
    (pickle.dumps({"n2084071": Runs()}), "it wants builtins.print"),
  ],
)
def test_other_counts_are_an_error(content, said, folder, capsys):
  nouns = wordnet.read(str(folder), "x")
  (folder / "c").write_bytes(content)
  with pytest.raises(errors.UserError, match=f"--published = .*({said})"):
    published.read(str(folder / "c"), nouns, "--published")
  assert capsys.readouterr().out == ""


def test_classes_come_by_count_then_by_offset():
  counts = {5: 2, 3: 2, 9: 7, 1: 1}
  assert synsets.chosen(counts, 2, None) == [(9, 7), (3, 2), (5, 2)]
  assert synsets.chosen(counts, 1, 2) == [(9, 7), (3, 2)]
  with pytest.raises(errors.UserError, match="--least = 8; expected at most 7"):
    synsets.chosen(counts, 8, None)
