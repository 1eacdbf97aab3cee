"""Ids are those of transformers and of OpenCLIP, read and written.

On a few hundred awkward texts, with the real vocabularies.
"""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest
import tokenizers as library
from awkward import texts
from tokenizers import models, normalizers, pre_tokenizers, trainers

import peers
from big_contrastive.config import errors
from big_contrastive.data.tokenizers import vocabulary
from big_contrastive.data.tokenizers.tokenizer import (
  build_tokenizer,
  clean,
  restore_tokenizer,
)
from big_contrastive.interop.tokenizers import read as read_tokenizers

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
pytestmark = pytest.mark.filterwarnings("ignore")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no shared/")
TEXTS = texts()
SIGMA = [i for i, t in enumerate(TEXTS) if "Σ" in t]


@pytest.fixture(scope="module")
def hf():
  """transformers."""
  peers.torch()
  return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip_file() -> str:
  if not SHARED.exists():
    pytest.skip("no shared/")
  return str(SHARED / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz")


def rows(spec, blob) -> np.ndarray:
  return restore_tokenizer(spec, blob).rows(TEXTS)


def reference(tokenizer, length: int) -> np.ndarray:
  """Their ids, as their processors ask for them."""
  how = dict(padding="max_length", truncation=True, max_length=length)
  return np.array(tokenizer(TEXTS, **how)["input_ids"])


def same(ours: np.ndarray, theirs: np.ndarray, but=()) -> None:
  wrong = np.flatnonzero((ours != theirs).any(axis=1))
  assert [TEXTS[i] for i in wrong if i not in but] == []


def folder(path: pathlib.Path, model_type: str, length: int | None = None):
  """A directory with a config.json."""
  path.mkdir(exist_ok=True)
  sized = {"text_config": {"max_position_embeddings": length}} if length else {}
  (path / "config.json").write_text(
    json.dumps({"model_type": model_type} | sized)
  )
  return path


@pytest.mark.parametrize("clean", ["lower", "canonicalize", "whitespace"])
@pytest.mark.peers
def test_clip_ids_are_open_clips_cleaning_included(clean, clip_file, tmp_path):
  peers.torch()
  open_clip = pytest.importorskip("open_clip")
  theirs = open_clip.tokenizer.SimpleTokenizer(clean=clean)(TEXTS).numpy()
  shutil.copy(clip_file, tmp_path)
  config = {"context_length": 77, "tokenizer_kwargs": {"clean": clean}}
  same(rows(*read_tokenizers.read_open_clip(config, tmp_path)), theirs)
  if clean == "lower":
    same(build_tokenizer("clip_bpe", 77, path=clip_file).rows(TEXTS), theirs)


@pytest.mark.peers
def test_clip_directories_of_transformers_give_its_ids(hf, clip_file, tmp_path):
  blob = pathlib.Path(clip_file).read_bytes()
  vocab, merges = vocabulary.clip_tokens(blob)
  source = folder(tmp_path / "source", "clip")
  hf.CLIPTokenizer(vocab=vocab, merges=merges).save_pretrained(source)
  theirs = reference(hf.CLIPTokenizer.from_pretrained(source), 77)
  spec, blob = read_tokenizers.read_hugging_face(source)
  assert spec["length"] == 77 and spec["vocab_size"] == 49408
  same(rows(spec, blob), theirs)
  # Written again they are two kinds of files; each alone is enough.
  written = folder(tmp_path / "written", "clip")
  assert read_tokenizers.write_hugging_face(spec, blob, written) == []
  same(reference(hf.AutoTokenizer.from_pretrained(written), 77), theirs)
  (written / "tokenizer.json").unlink()
  same(rows(*read_tokenizers.read_hugging_face(written)), theirs)


@pytest.mark.peers
def test_our_clip_tokenizer_written_is_transformers_but_for_repairs(
  hf, clip_file, tmp_path
):
  words = build_tokenizer("clip_bpe", 77, path=clip_file, pad="eos")
  target = folder(tmp_path, "clip")
  notes = read_tokenizers.write_hugging_face(words.spec, words.blob, target)
  assert len(notes) == 2 and "HTML" in notes[0] and "sigma" in notes[1]
  theirs = hf.AutoTokenizer.from_pretrained(target)
  assert type(theirs).__name__ == "CLIPTokenizer"
  bare = words.spec | {"repair": False}
  mended = [
    i for i, t in enumerate(TEXTS) if clean(t, words.spec) != clean(t, bare)
  ]
  assert len(mended) < 250
  # CLIP's own pattern ignores case, for which a long s is an s.
  long_s = [i for i, t in enumerate(TEXTS) if "'ſ" in t]
  but = {*SIGMA, *mended, *long_s}
  same(words.rows(TEXTS), reference(theirs, 77), but)
  padding = build_tokenizer("clip_bpe", 77, path=clip_file)
  notes = read_tokenizers.write_hugging_face(padding.spec, words.blob, target)
  assert any("pads" in n for n in notes)


@needs_shared
@pytest.mark.peers
def test_siglip_directories_give_the_ids_of_siglip_tokenizer(hf, tmp_path):
  pytest.importorskip("google.protobuf")
  path = str(SHARED / "c4_bpe32k" / "bpe_32k_c4.model")
  target = folder(tmp_path, "siglip")
  words = build_tokenizer("sentencepiece", 64, path=path, canonicalize=True)
  (note,) = read_tokenizers.write_hugging_face(words.spec, words.blob, target)
  theirs = hf.SiglipTokenizer.from_pretrained(target)
  assert theirs.pad_token_id == theirs.eos_token_id == 1
  spec, blob = read_tokenizers.read_hugging_face(target)
  assert spec["length"] == 64 and spec["pad"] == 1 and blob == words.blob
  same(rows(spec, blob), reference(theirs, 64))
  same(
    rows(spec, blob), reference(hf.AutoTokenizer.from_pretrained(target), 64)
  )
  # What the note says is all that our own training rule does otherwise.
  named = [i for i, t in enumerate(TEXTS) if "_" in t or t != t.lstrip()]
  named += [i for i, t in enumerate(TEXTS) if not clean(t, words.spec)]
  assert '"_"' in note and "white space" in note
  plain = [i for i in range(len(TEXTS)) if i not in named]
  leading = [
    i for i in plain if clean(TEXTS[i], spec).startswith("▁ ")
  ]  # White space behind punctuation.
  same(words.rows(TEXTS), reference(theirs, 64), {*named, *leading})


@pytest.mark.parametrize("name", ["Siglip2Tokenizer", "GemmaTokenizer"])
@pytest.mark.peers
def test_gemmas_tokenizer_is_lower_cased_for_siglip_2(hf, name, tmp_path):
  bpe = models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
  small = library.Tokenizer(bpe)
  small.normalizer = normalizers.Replace(" ", "▁")
  small.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
  special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
  special += [f"<0x{i:02X}>" for i in range(256)]
  short = [t.lower() for t in TEXTS if len(t) < 1000]
  small.train_from_iterator(
    short,
    trainers.BpeTrainer(
      vocab_size=1200, special_tokens=special, show_progress=False
    ),
  )
  content = json.loads(small.to_str())["model"]
  theirs = getattr(hf, name)(
    vocab=content["vocab"],
    merges=[tuple(m) for m in content["merges"]],
    add_bos_token=False,
    add_eos_token=True,
    padding_side="right",
  )
  source = folder(tmp_path / "source", "siglip2", 64)
  theirs.save_pretrained(source)
  theirs = reference(hf.AutoTokenizer.from_pretrained(source), 64)
  spec, blob = read_tokenizers.read_hugging_face(source)
  assert (spec["length"], spec["pad"], spec["bos"]) == (64, 0, False)
  same(rows(spec, blob), theirs)
  for kind in ("siglip", "siglip2"):
    target = folder(tmp_path / kind, kind)
    assert read_tokenizers.write_hugging_face(spec, blob, target, kind) == []
    same(reference(hf.AutoTokenizer.from_pretrained(target), 64), theirs)


@needs_shared
@pytest.mark.peers
def test_bert_ids_are_bert_tokenizers(hf, tmp_path):
  path = SHARED / "bert_uncased" / "vocab.txt"
  vocab = {t: i for i, t in enumerate(path.read_text().split("\n")[:-1])}
  theirs = hf.BertTokenizer(vocab=vocab)
  want = reference(theirs, 32)
  same(build_tokenizer("bert", 32, path=str(path)).rows(TEXTS), want)
  source = folder(tmp_path / "json", "clip", 32)
  theirs.save_pretrained(source)
  same(rows(*read_tokenizers.read_hugging_face(source)), want)
  source = folder(tmp_path / "txt", "clip", 32)
  shutil.copy(path, source)
  same(rows(*read_tokenizers.read_hugging_face(source)), want)


OURS = {
  "bytes": dict(kind="bytes", bos=True, canonicalize=True),
  "bpe": dict(kind="bpe"),
  "bpe, as it is": dict(kind="bpe", lower=False, eos=False),
  "bert": dict(kind="bert", eos=False),
}


@pytest.mark.parametrize("case", OURS)
@pytest.mark.peers
def test_our_own_tokenizers_written_give_our_ids(case, hf, tmp_path):
  kwargs = dict(OURS[case])
  if kwargs["kind"] == "bert":
    vocab = "[PAD] [UNK] [CLS] [SEP] the cat ##s , ! caf ##e"
    kwargs["blob"] = vocab.replace(" ", "\n").encode()
  if kwargs["kind"] == "bpe":
    kwargs["captions"] = [t for t in TEXTS if len(t) < 1000]
  words = build_tokenizer(length=40, **kwargs)
  notes = read_tokenizers.write_hugging_face(
    words.spec, words.blob, tmp_path / "x"
  )
  target = folder(tmp_path / "x", "siglip", 40)
  theirs = reference(hf.AutoTokenizer.from_pretrained(target), 40)
  lowered = words.spec["lower"] and words.spec["kind"] != "bert"
  assert len(notes) == lowered
  same(words.rows(TEXTS), theirs, SIGMA if lowered else ())
  same(rows(*read_tokenizers.read_hugging_face(target)), theirs)


@pytest.mark.parametrize("case", ["bytes", "bpe, as it is"])
@pytest.mark.peers
def test_a_tokenizer_that_siglip_2_s_class_can_t_be_is_told(case, tmp_path):
  """transformers has one class for Siglip2Model; its own case stays."""
  kwargs = dict(OURS[case])
  if kwargs["kind"] == "bpe":
    kwargs["captions"] = [t for t in TEXTS if len(t) < 1000]
  words = build_tokenizer(length=40, **kwargs)
  target, given = folder(tmp_path, "siglip2", 40), (words.spec, words.blob)
  notes = read_tokenizers.write_hugging_face(*given, target, "siglip2")
  assert "PreTrainedTokenizerFast.from_pretrained" in notes[-1]
  but = SIGMA if words.spec["lower"] else ()
  same(rows(*read_tokenizers.read_hugging_face(target)), words.rows(TEXTS), but)
  if importlib.util.find_spec("transformers"):
    peers.torch()
    import transformers as hf

    theirs = hf.PreTrainedTokenizerFast.from_pretrained(target)
    same(words.rows(TEXTS), reference(theirs, 40), but)


def small(path: pathlib.Path) -> pathlib.Path:
  """A directory with a tokenizer of ours."""
  words = build_tokenizer("bytes", 8)
  read_tokenizers.write_hugging_face(words.spec, words.blob, path)
  return path


def test_a_written_directory_is_read_without_transformers(tmp_path):
  words = build_tokenizer("bytes", 40, bos=True, canonicalize=True)
  read_tokenizers.write_hugging_face(words.spec, words.blob, tmp_path)
  spec, blob = read_tokenizers.read_hugging_face(tmp_path)
  assert spec["kind"] == "json" and spec["length"] == 40
  same(rows(spec, blob), words.rows(TEXTS), SIGMA)


def test_many_texts_at_once_have_the_ids_of_one_by_one(tmp_path):
  spec, blob = read_tokenizers.read_hugging_face(small(tmp_path))
  words = restore_tokenizer(spec, blob)
  some = TEXTS[:60]
  want = np.stack([words(t) for t in some])
  np.testing.assert_array_equal(words.rows(some), want)
  assert words.rows([]).shape == (0, 8)


def _set(path: pathlib.Path, **fields) -> None:
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


WRONG = {
  "tokenizer.json, broken": lambda d: (d / "tokenizer.json").write_text("{"),
  "tokenizer.json, none": lambda d: (d / "tokenizer.json").unlink(),
  "tokenizer_config.json": lambda d: (d / "tokenizer_config.json").write_text(
    "[]"
  ),
  "pad_token": lambda d: _set(d / "tokenizer_config.json", pad_token="<no>"),
  "length": lambda d: _set(
    d / "tokenizer_config.json", model_max_length=int(1e30)
  ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_directory_is_one_line_that_names_the_file(case, tmp_path):
  WRONG[case](small(tmp_path))
  with pytest.raises(errors.UserError) as e:
    read_tokenizers.read_hugging_face(tmp_path)
  line = str(e.value)
  assert case.partition(",")[0] in line and str(tmp_path) in line
  assert "\n" not in line


def test_an_unknown_class_without_a_tokenizer_json_is_named(tmp_path):
  config = {"tokenizer_class": "WhisperTokenizer"}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  with pytest.raises(errors.UserError, match="WhisperTokenizer"):
    read_tokenizers.read_hugging_face(tmp_path)


def test_broken_merges_are_named(tmp_path):
  (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
  (tmp_path / "vocab.json").write_text("{}")
  with pytest.raises(errors.UserError, match=r"merges\.txt"):
    read_tokenizers.read_hugging_face(tmp_path, 77)
  (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
  with pytest.raises(errors.UserError, match=r"vocab\.json and merges\.txt"):
    read_tokenizers.read_hugging_face(tmp_path, 77)


@pytest.mark.parametrize("field", ["clean", "strip_sep_token"])
def test_a_cleaning_that_open_clip_may_have_and_we_not_is_named(
  field, tmp_path
):
  config = {"tokenizer_kwargs": {field: "syntax"}}
  with pytest.raises(errors.UserError, match=field):
    read_tokenizers.read_open_clip(config, tmp_path)


@pytest.mark.peers
def test_what_no_class_of_theirs_takes_is_refused_and_leaves_nothing(tmp_path):
  sentencepiece = pytest.importorskip("sentencepiece")
  out = tmp_path / "model"
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([t for t in TEXTS if len(t) < 1000]),
    model_writer=out.open("wb"), vocab_size=2000, hard_vocab_limit=False,
    minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
  )  # fmt: skip
  words = build_tokenizer("sentencepiece", 8, path=str(out))
  with pytest.raises(errors.UserError, match="canonicalize"):
    read_tokenizers.write_hugging_face(words.spec, words.blob, tmp_path / "no")
  assert not (tmp_path / "no").exists()
