"""Tokenizers: ids, rules, errors, and that a spec and a blob are enough."""

import gzip
import io
import json
import pathlib
import pickle
import subprocess
import sys
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import sentencepiece
import tokenizers

from big_contrastive.config import errors, schema
from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  build_tokenizer,
  clean,
  restore_tokenizer,
)

ROOT = pathlib.Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data" / "tokenizers"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no shared/")
KINDS = ["bytes", "bpe", "sentencepiece", "bert", "clip_bpe"]
CAPTIONS = [
  f"{article} {color} {animal} under water, seen by 17 people"
  for article in ("a", "the", "one more")
  for color in ("red", "green", "Blue", "weiß")
  for animal in ("cat", "dog", "horse", "猫")
]
ODD = ["", " \n\t", "🦄🦄", "naïve café", "\ud800", "a\0b", "İI ſ", "x" * 500]


def published(kind: str) -> list[tuple[str, list[int]]]:
  found = json.loads((SHARED / "published_ids.json").read_text())[kind]
  return [(k, v) for k, v in found.items() if k != "note"]


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
  """A small vocabulary file of each kind that reads one."""
  folder = tmp_path_factory.mktemp("vocabularies")
  model = io.BytesIO()
  ids = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
  size = dict(vocab_size=90, hard_vocab_limit=False, minloglevel=2)
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CAPTIONS), model_writer=model, **ids, **size
  )
  words = "[PAD] [UNK] [CLS] [SEP] a the cat dog ##s red , ! in snow cafe naive"
  merges = ["#version: 0.2", "c a", "ca t</w>", "d o", "do g</w>"]
  clip = gzip.compress("\n".join(merges).encode())
  (folder / "sentencepiece").write_bytes(model.getvalue())
  (folder / "bert").write_text("\n".join(words.split()) + "\n")
  (folder / "clip_bpe").write_bytes(clip)
  (folder / "bpe").write_bytes(
    build_tokenizer("bpe", 8, captions=CAPTIONS).blob
  )
  return {kind: folder / kind for kind in KINDS[1:]}


@pytest.fixture
def make(files):
  """make(kind, length, ...): a tokenizer with the small vocabulary."""

  def build(kind: str, length: int = 16, **kwargs) -> Tokenizer:
    path = str(files[kind]) if kind in files else None
    return build_tokenizer(kind, length, path=path, **kwargs)

  return build


def test_bytes_are_utf8_after_pad_eos_and_bos():
  tok = build_tokenizer("bytes", 8, bos=True)
  assert tok("Ab é").tolist() == [2, *(b + 3 for b in "ab é".encode()), 1, 0]
  assert tok.decode(tok("Abcdeé")) == "abcde"  # Half an é is nothing.
  assert (tok.pad_id, tok.eos_id, tok.bos_id, tok.vocab_size) == (0, 1, 2, 259)


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_even_an_empty_one_gives_a_row(kind, make):
  tok = make(kind)
  for caption in CAPTIONS + ODD:
    row = tok(caption)
    assert row.dtype == np.int32 and row.shape == (16,)
    assert row.min() >= 0 and row.max() < tok.vocab_size
  head = [] if tok.bos_id is None else [tok.bos_id]
  want = [*head, tok.eos_id, *[tok.pad_id] * 16][:16]
  assert tok("").tolist() == tok("  \n").tolist() == want
  assert tok.decode(tok("")) == ""
  row = tok("the cat")
  assert tok.decode(np.insert(row, 1, tok.vocab_size)) == tok.decode(row)


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_keeps_bos_and_eos_and_the_text_before(kind, make):
  caption = "a red cat, a dog in the snow " * 5
  long, short = make(kind, 300)(caption), make(kind, 7)
  row = short(caption)
  assert row.tolist() == [*long[:6], short.eos_id]
  assert short.bos_id in (None, row[0])
  bare = make(kind, 5, bos=False, eos=False)
  assert bare.eos_id is None and bare.bos_id is None
  assert bare(caption)[-1] == long[4 + (short.bos_id is not None)]


def test_sentencepiece_pads_with_eos_so_that_the_last_id_is_eos(make):
  tok = make("sentencepiece", 64)
  row = tok("the red cat")
  end = row.tolist().index(tok.eos_id)
  assert tok.pad_id == tok.eos_id == 1 and (row[end:] == 1).all()
  for pad, want in (("pad", 0), ("eos", 1), (7, 7)):
    row = make("sentencepiece", 64, pad=pad)("the red cat")
    assert row[end] == 1 and (row[end + 1 :] == want).all()


def test_canonicalize_is_siglips():
  tok = build_tokenizer("bytes", 64, canonicalize=True)
  said = tok.decode(tok("  A photo_of  my-dog's (new) house!\n"))
  assert said == "a photo of mydogs new house"
  tok = build_tokenizer("bytes", 64, canonicalize=True, lower=False)
  assert tok.decode(tok("It's A “Dog”.")) == "Its A “Dog”"


@pytest.mark.parametrize("kind", KINDS)
def test_lower_case_is_the_default_and_can_be_turned_off(kind, make):
  assert (make(kind)("A Red CAT") == make(kind)("a red cat")).all()
  assert make(kind).decode(make(kind)("The Cat")) == "the cat"
  tok = make(kind, lower=False)
  assert (tok("A Red CAT") != tok("a red cat")).any()


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_decoding_gives_the_cleaned_text_back(kind, make):
  tok = make(kind, 800)
  for caption in CAPTIONS[::7] + ODD + ["tabs\tand  unseen ¿letters?"]:
    assert tok.decode(tok(caption)) == clean(caption, tok.spec)


@pytest.mark.parametrize("kind", ["bpe", "bert", "clip_bpe", "sentencepiece"])
def test_text_cannot_spell_a_special_id(kind, make):
  tok = make(kind, 200)
  row = tok("<eos> </s> <|endoftext|> [SEP] <pad> <bos> [CLS] " * 2).tolist()
  content = row[tok.bos_id is not None : row.index(tok.eos_id)]
  assert not {tok.eos_id, tok.bos_id} & set(content)
  assert len(content) > 20


def test_bert_splits_strips_accents_and_frames(make):
  row = make("bert", 12)("The CAFÉ, dogs!")
  assert row.tolist() == [2, 5, 14, 10, 7, 8, 11, 3, 0, 0, 0, 0]
  assert make("bert", 4)("zebra").tolist() == [2, 1, 3, 0]


def test_clip_ids_follow_from_the_merges_after_html_and_quotes_are_mended(make):
  tok = make("clip_bpe", 12)
  # 256 bytes, 256 of them ending a word, ca, cat</w>, do, dog</w>, BOS, EOS.
  assert tok.vocab_size == 518 and (tok.bos_id, tok.eos_id) == (516, 517)
  assert tok("Cat  DOG99").tolist()[:6] == [516, 513, 515, 280, 280, 517]
  for broken in ("cat&amp;#39;s", "Cat’s "):
    assert (tok(broken) == tok("cat's")).all()


def test_bpe_learns_words_up_to_the_ceiling():
  free = build_tokenizer("bpe", 16, captions=CAPTIONS)
  tight = build_tokenizer("bpe", 16, captions=CAPTIONS, vocab_size=300)
  assert 300 < free.vocab_size < 8192 and tight.vocab_size == 300
  assert build_tokenizer("bpe", 8, captions=["ab ab cd"]).vocab_size == 259 + 2
  row = free("cat under water under cat").tolist()
  assert row.index(free.eos_id) == 5 and row[0] == row[4]
  build_tokenizer("bpe", 16, blob=free.blob, captions=iter(str, 1))  # Not read.


@pytest.mark.parametrize("kind", KINDS)
def test_spec_and_blob_rebuild_it_after_json(kind, make):
  for kwargs in ({}, dict(lower=False, canonicalize=True, pad=3, eos=False)):
    tok = make(kind, **kwargs)
    again = restore_tokenizer(json.loads(json.dumps(tok.spec)), tok.blob)
    assert again.spec == tok.spec and again.blob == tok.blob
    for caption in CAPTIONS[::11] + ODD:
      assert (again(caption) == tok(caption)).all()


def test_another_process_gives_the_same_ids_and_bpe(make, tmp_path):
  toks = {kind: make(kind) for kind in KINDS}
  captions = CAPTIONS[::5] + ODD
  (tmp_path / "in.pkl").write_bytes(pickle.dumps((toks, captions, CAPTIONS)))
  program = (
    "import pickle, random, sys;"
    "from big_contrastive.data.tokenizers import tokenizer as text;"
    "toks, some, every = pickle.load(open(sys.argv[1], 'rb'));"
    "rows = {k: [t(c) for c in some] for k, t in toks.items()};"
    "random.shuffle(every);"
    "blob = text.build_tokenizer('bpe', 8, captions=iter(every)).blob;"
    "pickle.dump((rows, blob), open(sys.argv[2], 'wb'))"
  )
  paths = [str(tmp_path / "in.pkl"), str(tmp_path / "out.pkl")]
  command = [sys.executable, "-c", program, *paths]
  subprocess.run(command, cwd=ROOT, check=True)
  rows, blob = pickle.loads((tmp_path / "out.pkl").read_bytes())
  assert blob == toks["bpe"].blob
  for kind, tok in toks.items():
    assert (np.stack(rows[kind]) == np.stack([tok(c) for c in captions])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_disturb_each_other(kind, make):
  tok = make(kind)
  want = [tok(c) for c in CAPTIONS * 5]
  with ThreadPool(8) as pool:
    got = pool.map(tok, CAPTIONS * 5, chunksize=1)
  assert (np.stack(got) == np.stack(want)).all()


def test_a_config_section_is_checked_against_build(files):
  section = dict(kind="bert", length=8, path=str(files["bert"]), pad="eos")
  assert schema.call(build_tokenizer, section, "config.tokenizer").pad_id == 3
  with pytest.raises(errors.UserError, match=r"config\.tokenizer\.pad"):
    schema.call(build_tokenizer, section | {"pad": "end"}, "config.tokenizer")


WRONG = {
  "kind": dict(kind="wordpiece"),
  "length": dict(kind="bytes", length=1),
  "length, no room": dict(kind="bytes", length=2, bos=True),
  "path, missing": dict(kind="clip_bpe", path="/no/such/file"),
  "path, a folder": dict(kind="bert", path=""),
  "path, none": dict(kind="sentencepiece"),
  "path, no captions either": dict(kind="bpe"),
  "path, but no file needed": dict(kind="bytes", path="vocab.txt"),
  "captions": dict(kind="bpe", captions=[]),
  "vocab_size": dict(kind="bpe", captions=CAPTIONS, vocab_size=259),
  "vocab_size, of bytes": dict(kind="bytes", vocab_size=256),
  "vocab_size, of a file": dict(kind="bert", file="bert", vocab_size=30522),
  "vocab_size, over": dict(kind="bpe", file="bpe", vocab_size=260),
  "pad, too large": dict(kind="bytes", pad=259),
  "pad, negative": dict(kind="bytes", pad=-1),
  "pad, none there": dict(kind="clip_bpe", file="clip_bpe", pad="pad"),
  "bos": dict(kind="sentencepiece", file="sentencepiece", bos=True),
  "blob": dict(kind="sentencepiece", blob=b""),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_one_line_that_names_it(case, files):
  kwargs = {"length": 8, **WRONG[case]}
  if file := kwargs.pop("file", None):
    kwargs["path"] = str(files[file])
  with pytest.raises(errors.UserError) as e:
    build_tokenizer(**kwargs)
  field = case.partition(",")[0]
  missing = kwargs.get(field) is None
  told = "is missing" if missing else "= "
  assert str(e.value).startswith(f"config.tokenizer.{field} {told}")
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("content", [*KINDS[1:], "text", "png", "empty"])
def test_a_file_of_another_kind_is_refused(kind, content, files, tmp_path):
  (tmp_path / "text").write_text("To be\nor not to be")
  (tmp_path / "png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
  (tmp_path / "empty").touch()
  path = str(files.get(content, tmp_path / content))
  if kind != content:
    with pytest.raises(errors.UserError) as e:
      build_tokenizer(kind, 8, path=path)
    assert str(e.value).startswith(f"config.tokenizer.path = {path!r}")
    assert "\n" not in str(e.value)


@needs_shared
def test_clip_ids_are_the_published_ones():
  path = str(SHARED / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz")
  tok = build_tokenizer("clip_bpe", 77, path=path, vocab_size=49408)
  assert (tok.bos_id, tok.eos_id) == (49406, 49407)
  for caption, ids in published("clip"):
    assert tok(caption).tolist() == ids + [0] * (77 - len(ids))


@needs_shared
def test_t5_ids_are_the_published_ones():
  path = str(next((SHARED / "t5_cc_all").glob("*.model")))
  tok = build_tokenizer("sentencepiece", 9, path=path, lower=False, pad="pad")
  for caption, (*ids, eos) in published("t5"):
    # Our model file has one id more than the published one, at 2.
    assert tok(caption).tolist() == [*(i + 1 for i in ids), eos]


@needs_shared
def test_siglips_rules_are_the_published_ones():
  # With another model of 32,000 pieces and the same specials: c4_en's own
  # isn't there. Lower case, no punctuation, EOS, and padding that is EOS.
  path = str(SHARED / "c4_bpe32k" / "bpe_32k_c4.model")
  tok = build_tokenizer("sentencepiece", 64, path=path, canonicalize=True)
  for caption, ids in published("siglip_c4_en"):
    row = tok(caption)
    assert ids[-1] == row[-1] == tok.eos_id == tok.pad_id
    assert tok.decode(row) == caption.lower().replace(".", "")


@needs_shared
def test_bert_ids_are_those_of_the_librarys_own_tokenizer():
  path = SHARED / "bert_uncased" / "vocab.txt"
  tok = build_tokenizer("bert", 64, path=str(path), vocab_size=30522)
  theirs = tokenizers.BertWordPieceTokenizer(str(path), lowercase=True)
  for caption in [*CAPTIONS[::9], "Ünaffable, isn't it? 中文", "naïve 🦄"]:
    ids = theirs.encode(caption).ids
    assert tok(caption).tolist() == ids + [0] * (64 - len(ids))
