"""Vocabularies: text to ids and back, by the files that hold them."""

import gzip
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from big_contrastive.config import errors
from big_contrastive.data.labels import synsets

# Names of PAD, EOS and BOS; the first of each are ours, with ids 0, 1, 2.
NAMES = (
  ("<pad>", "[PAD]"),
  ("<eos>", "</s>", "<|endoftext|>", "[SEP]"),
  ("<bos>", "<s>", "<|startoftext|>", "[CLS]"),
)
_CLIP_MERGES = 49408 - 2 * 256 - 2  # The file has more than CLIP uses.
_CLIP_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class Vocabulary(NamedTuple):
  """Texts <-> ids without special tokens, and the ids of those.

  Attributes:
    encode: cleaned texts -> their ids.
    decode: ids -> text.
    size: the largest id plus one.
    pad, eos, bos: ids, None if there is no such token.
    starts: whether texts begin with BOS by default.
    frequency: share of texts that have each id but the padding, float64; None
      where it is not known.
  """

  encode: Callable[[list[str]], list[Sequence[int]]]
  decode: Callable[[Sequence[int]], str]
  size: int
  pad: int | None
  eos: int | None
  bos: int | None
  starts: bool = False
  frequency: np.ndarray | None = None


def train_bpe(captions: Iterable[str], vocab_size: int) -> bytes:
  """Trains a BPE and returns its JSON.

  The most frequent pair is merged, and of equally frequent ones that with the
  smaller ids: order, threads and hash seeds don't affect the result.
  """
  special = [names[0] for names in NAMES]
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  least, remedy = len(special) + len(alphabet) + 1, 'Or use kind="bytes".'
  if vocab_size < least:
    where = "config.tokenizer.vocab_size"
    allowed = f"a whole number from {least} up"
    raise errors.UserError(where, vocab_size, allowed, remedy)
  bpe = tokenizers.Tokenizer(models.BPE())
  # With a space before it, a caption's first word has the same id as inside.
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  bpe.decoder = decoders.ByteLevel()
  start = dict(special_tokens=special, initial_alphabet=alphabet)
  limits = dict(vocab_size=vocab_size, min_frequency=2, show_progress=False)
  bpe.train_from_iterator(captions, BpeTrainer(**start, **limits))
  if bpe.get_vocab_size() < least:
    where = "config.tokenizer.captions"
    raise errors.UserError(where, "too few", "text to learn from", remedy)
  return bpe.to_str().encode()


def _bytes(blob: bytes, lower: bool) -> Vocabulary:
  return Vocabulary(
    lambda texts: [[byte + 3 for byte in text.encode()] for text in texts],
    # Truncation may have cut a character in two.
    lambda ids: bytes(i - 3 for i in ids if i >= 3).decode(errors="ignore"),
    *(3 + 256, 0, 1, 2),
  )


def _bpe(blob: bytes, lower: bool) -> Vocabulary:
  return _wrap(tokenizers.Tokenizer.from_str(blob.decode()))


def _json(blob: bytes, lower: bool) -> Vocabulary:
  tokenizer = tokenizers.Tokenizer.from_str(blob.decode())
  head, _ = frame(tokenizer)
  return _wrap(tokenizer)._replace(starts=bool(head))


def frame(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
  """Returns the ids that a tokenizer puts before and after a text."""
  tokenizer.no_padding()
  tokenizer.no_truncation()
  ids = tokenizer.encode("a").ids
  inner = tokenizer.encode("a", add_special_tokens=False).ids
  for i in range(len(ids) - len(inner) + 1):
    if ids[i : i + len(inner)] == inner:
      return ids[:i], ids[i + len(inner) :]
  raise ValueError("it changes the text's own ids")


def processor(blob: bytes) -> sentencepiece.SentencePieceProcessor:
  """Returns the SentencePiece model of a .model file."""
  m = sentencepiece.SentencePieceProcessor()
  m.LoadFromSerializedProto(blob)
  return m


def _sentencepiece(blob: bytes, lower: bool) -> Vocabulary:
  m = processor(blob)
  ids = (m.pad_id(), m.eos_id(), m.bos_id())
  special = (None if i < 0 else i for i in ids)
  return Vocabulary(m.encode, m.decode, m.vocab_size(), *special)


def _behind_unk(blob: bytes) -> Vocabulary:
  """As SiglipTokenizer: leading white space is not dropped."""
  plain, m = _sentencepiece(blob, True), processor(blob)
  unk = m.IdToPiece(m.unk_id())
  cut = len(m.encode(unk))

  def encode(texts: list[str]) -> list[Sequence[int]]:
    return [ids[cut:] for ids in m.encode([unk + text for text in texts])]

  return plain._replace(encode=encode)


def bert(blob: bytes, lower: bool) -> tokenizers.Tokenizer:
  """Returns BERT's WordPiece of a vocab.txt."""
  # Not splitlines(): unusual line separators may be tokens.
  lines = blob.decode().removesuffix("\n").split("\n")
  vocab = {line.rstrip("\r"): i for i, line in enumerate(lines)}
  if missing := {"[UNK]", "[CLS]", "[SEP]"} - vocab.keys():
    raise ValueError(f"no {min(missing)}")
  bert = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
  bert.normalizer = normalizers.BertNormalizer(lowercase=lower)
  bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  bert.decoder = decoders.WordPiece()
  return bert


def clip_tokens(blob: bytes) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Returns the ids and the merges of bpe_simple_vocab_16e6.txt.gz."""
  text = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
  header, *lines = text.decode().rstrip("\n").split("\n")
  merges = [tuple(line.split()) for line in lines[:_CLIP_MERGES]]
  if "#version" not in header or any(len(m) != 2 for m in merges):
    raise ValueError("not a #version line, then two symbols a line")
  # In the order of code points, as in CLIP's table.
  symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokens = [*symbols, *(s + "</w>" for s in symbols), *map("".join, merges)]
  tokens += ["<|startoftext|>", "<|endoftext|>"]
  vocab = {token: i for i, token in enumerate(tokens)}
  return vocab, [(first, second) for first, second in merges]


def clip(blob: bytes) -> tokenizers.Tokenizer:
  """Returns CLIP's BPE of bpe_simple_vocab_16e6.txt.gz."""
  vocab, merges = clip_tokens(blob)
  bpe = models.BPE(vocab, merges, end_of_word_suffix="</w>")
  clip = tokenizers.Tokenizer(bpe)
  words = pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True)
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  clip.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
  space = decoders.Replace("</w>", " ")
  clip.decoder = decoders.Sequence([decoders.ByteLevel(), space])
  return clip


def _bert(blob: bytes, lower: bool) -> Vocabulary:
  return _wrap(bert(blob, lower))._replace(starts=True)


def _clip_bpe(blob: bytes, lower: bool) -> Vocabulary:
  return _wrap(clip(blob))._replace(starts=True)


def _synsets(blob: bytes, lower: bool) -> Vocabulary:
  """The classes of a caption; the padding is none of them, the last id."""
  found = synsets.Vocabulary(blob)
  n = len(found.heads)

  def decode(ids: Sequence[int]) -> str:
    return ", ".join(found.name(i) for i in ids if i < n)

  return Vocabulary(
    lambda texts: [found.labels(text) for text in texts], decode, n + 1,
    pad=n, eos=None, bos=None, frequency=found.frequency,
  )  # fmt: skip


def special_ids(tokenizer: tokenizers.Tokenizer) -> tuple[int | None, ...]:
  """Returns the ids of pad, EOS and BOS, None for a missing one."""
  vocab = tokenizer.get_vocab()
  return tuple(
    next((vocab[name] for name in names if name in vocab), None)
    for names in NAMES
  )


def _wrap(tokenizer: tokenizers.Tokenizer) -> Vocabulary:
  tokenizer.no_padding()
  tokenizer.no_truncation()
  tokenizer.encode_special_tokens = True  # In a caption they are just text.
  vocab = tokenizer.get_vocab()
  if not vocab:
    raise ValueError("no tokens")

  def encode(texts: list[str]) -> list[Sequence[int]]:
    if len(texts) == 1:  # Starts no threads, which a fork would break.
      return [tokenizer.encode(texts[0], add_special_tokens=False).ids]
    batch = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in batch]

  return Vocabulary(
    encode,
    lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    max(vocab.values()) + 1,
    *special_ids(tokenizer),
  )


def load(blob: bytes, spec: dict[str, Any]) -> Vocabulary:
  """Returns the vocabulary of a spec; raises what the libraries raise."""
  if spec["canonicalize"] == "transformers" and spec["kind"] == "sentencepiece":
    return _behind_unk(blob)
  return KINDS[spec["kind"]][0](blob, spec["lower"])


KINDS: dict[str, tuple[Callable[[bytes, bool], Vocabulary], str]] = {
  "bytes": (_bytes, "no file"),
  "bpe": (_bpe, "a tokenizers JSON"),
  "json": (_json, "a tokenizer.json of the tokenizers library"),
  "sentencepiece": (_sentencepiece, "a SentencePiece .model file"),
  "bert": (_bert, "BERT's vocab.txt"),
  "clip_bpe": (_clip_bpe, "CLIP's bpe_simple_vocab_16e6.txt.gz"),
  "synsets": (_synsets, "a vocabulary of big_contrastive.synsets"),
}
