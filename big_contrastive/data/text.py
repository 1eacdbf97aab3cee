"""Tokenizers: a caption becomes a row of token ids of fixed length.

A checkpoint holds its `spec`, the rules as JSON, and its `blob`, the
vocabulary file's bytes; `restore` needs neither that file nor the captions.
"""

import gzip
import html
import pathlib
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from big_contrastive import errors, resolve

# What PAD, EOS and BOS are called; the first ones are ours, ids 0, 1, 2.
_NAMES = (
  ("<pad>", "[PAD]"),
  ("<eos>", "</s>", "<|endoftext|>", "[SEP]"),
  ("<bos>", "<s>", "<|startoftext|>", "[CLS]"),
)
_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))
_QUOTES = str.maketrans("‘’‚‛“”„‟", "''''" + '""""')
_CLIP_MERGES = 49408 - 2 * 256 - 2  # The file has more; CLIP has no more.
_CLIP_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class _Vocabulary(NamedTuple):
  """Text <-> ids without specials, and the specials it has."""

  encode: Callable[[str], Sequence[int]]
  decode: Callable[[Sequence[int]], str]
  size: int
  pad: int | None
  eos: int | None
  bos: int | None


class Tokenizer:
  """Made by `build` or `restore`; for many threads and for pickle.

  Attributes:
    length, vocab_size: ids in a row, ids there are.
    pad_id: fills the row.
    bos_id, eos_id: begin and end every text; None if they don't.
    spec: keyword arguments of `build`, as JSON knows them.
    blob: the vocabulary file's content; b"" for kind="bytes".
  """

  def __init__(self, vocab: _Vocabulary, spec: dict[str, Any], blob: bytes):
    self.length: int = spec["length"]
    self.vocab_size, self.pad_id = vocab.size, int(spec["pad"])
    self.bos_id = vocab.bos if spec["bos"] else None
    self.eos_id = vocab.eos if spec["eos"] else None
    self.spec, self.blob, self._vocab = spec, blob, vocab

  def __call__(self, text: str) -> np.ndarray:
    """Returns the caption's ids, int32 [l]."""
    ids = self._vocab.encode(clean(text, self.spec))
    head = [] if self.bos_id is None else [self.bos_id]
    tail = [] if self.eos_id is None else [self.eos_id]
    ids = [*head, *ids[: self.length - len(head) - len(tail)], *tail]
    row = np.full(self.length, self.pad_id, np.int32)
    row[: len(ids)] = ids
    return row

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text of a row of ids, up to its EOS or padding."""
    ids = [int(i) for i in ids]
    ids = ids[1:] if ids[:1] == [self.bos_id] else ids
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    while ids and ids[-1] == self.pad_id:
      ids.pop()
    return self._vocab.decode(ids).strip()

  def __reduce__(self):
    return restore, (self.spec, self.blob)


def build(
  kind: str,
  length: int,
  *,
  path: str | None = None,
  vocab_size: int | None = None,
  lower: bool = True,
  canonicalize: bool = False,
  bos: bool | None = None,
  eos: bool = True,
  pad: Literal["pad", "eos"] | int | None = None,
  captions: Iterable[str] | None = None,
  blob: bytes | None = None,
) -> Tokenizer:
  """Returns the tokenizer that a config's `tokenizer` section asks for.

  Args:
    kind: where the ids come from.
      "bytes": pad, EOS, BOS, then the bytes of UTF-8.
      "bpe": byte-level, from a tokenizers JSON or trained on the captions, in
        any order: hosts that each train it on the same ones get the same.
      "sentencepiece": a .model file. As it is for SigLIP's c4_en and mc4;
        SigLIP 2 (Gemma) and T5 take pad="pad", T5 also lower=False.
      "bert": WordPiece's vocab.txt. LiT has eos=False.
      "clip_bpe": bpe_simple_vocab_16e6.txt.gz. Of CLIP's repairs by ftfy only
        NFC and straight quotes are done.
    length: ids in a row.
    path, blob: the vocabulary file, or its content.
    vocab_size: the most ids a BPE may have (8192 if None and trained here);
      otherwise the size that the vocabulary must turn out to have.
    lower: whether to lower-case.
    canonicalize: whether to drop punctuation and spare white space (SigLIP).
    bos: whether a text begins with BOS; None: yes for bert and clip_bpe.
    eos: whether a text ends with EOS, also when truncated ("sticky").
    pad: the vocabulary's "pad", its "eos", or an id; None: "eos" for
      sentencepiece, 0 for clip_bpe, else "pad".
    captions: texts to train the BPE on, read only if there is no file.

  Raises:
    UserError: naming the field, for a value or a file that won't do.
  """
  errors.choice("config.tokenizer.kind", kind, _KINDS)
  bos = kind in ("bert", "clip_bpe") if bos is None else bos
  if length < (least := max(2, bos + eos + 1)):
    raise _error("length", length, f"at least {least}", "Make room for text.")
  if pad is None:
    pad = {"sentencepiece": "eos", "clip_bpe": 0}.get(kind, "pad")
  spec = dict(kind=kind, length=length, lower=lower, canonicalize=canonicalize)
  if blob is None and kind == "bpe" and path is None and captions is not None:
    cleaned = (clean(caption, spec) for caption in captions)
    blob = _train_bpe(cleaned, 8192 if vocab_size is None else vocab_size)
  elif blob is None:
    blob = _read(kind, path)
  load, file = _KINDS[kind]
  try:
    vocabulary = load(blob, lower)
  except Exception as e:  # Nothing narrower: the libraries raise just that.
    field, value = ("path", path) if path else ("blob", f"{len(blob)} bytes")
    raise _error(field, value, file, f"Check the file ({e}).") from e
  spec |= dict(vocab_size=vocab_size, bos=bos, eos=eos, pad=pad)
  return Tokenizer(vocabulary, spec | _settle(spec, vocabulary), blob)


def restore(spec: dict[str, Any], blob: bytes) -> Tokenizer:
  """Returns the tokenizer that had this spec and blob: same text, same ids."""
  return resolve.call(build, {**spec, "blob": blob}, "config.tokenizer")


def _error(field: str, value: object, allowed: str, remedy: str) -> Exception:
  return errors.UserError(f"config.tokenizer.{field}", value, allowed, remedy)


def clean(text: str, spec: dict[str, Any]) -> str:
  """Returns the text that a tokenizer with this spec encodes."""
  # JSON can hold half a surrogate pair, which no vocabulary takes.
  text = text.encode("utf-8", "replace").decode("utf-8")
  if spec["kind"] == "clip_bpe":
    text = html.unescape(html.unescape(text)).translate(_QUOTES)
    text = unicodedata.normalize("NFC", text)
  text = text.translate(_PUNCTUATION) if spec["canonicalize"] else text
  text = text.lower() if spec["lower"] else text
  # SentencePiece models bring their own rule for white space.
  as_is = spec["kind"] == "sentencepiece" and not spec["canonicalize"]
  return text if as_is else " ".join(text.split())


def _read(kind: str, path: str | None) -> bytes:
  file = _KINDS[kind][1]
  if (path is None) != (kind == "bytes"):
    remedy = {"bytes": "Leave it out.", "bpe": "Give it, or captions."}
    raise _error("path", path, file, remedy.get(kind, "Give it."))
  if path is None:
    return b""
  try:
    return pathlib.Path(path).expanduser().read_bytes()
  except OSError as e:
    raise _error("path", path, file, f"{e.strerror}.") from e


def _settle(spec: dict[str, Any], vocabulary: _Vocabulary) -> dict[str, int]:
  """Returns vocab_size and pad as they are; raises where they can't be."""
  size, given, pad = vocabulary.size, spec["vocab_size"], spec["pad"]
  exact = spec["kind"] != "bpe"
  if given is not None and (size > given or (exact and size < given)):
    raise _error("vocab_size", given, str(size), "Or leave it out.")
  for name in ("bos", "eos"):
    if spec[name] and getattr(vocabulary, name) is None:
      raise _error(name, True, "False", "The vocabulary has none.")
  found = getattr(vocabulary, pad) if pad in ("pad", "eos") else pad
  if not isinstance(found, int) or not 0 <= found < size:
    allowed = f'"pad" or "eos" if the vocabulary has it, or an id < {size}'
    raise _error("pad", pad, allowed, "Choose one of them.")
  return dict(vocab_size=size, pad=found)


def _train_bpe(captions: Iterable[str], vocab_size: int) -> bytes:
  """Returns the JSON of a BPE.

  Words are counted and the most frequent pair merged, of equals the one with
  the smaller ids: neither order nor threads nor hash seeds have a say.
  """
  special = [names[0] for names in _NAMES]
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  least, remedy = len(special) + len(alphabet) + 1, 'Or use kind="bytes".'
  if vocab_size < least:
    raise _error("vocab_size", vocab_size, f"at least {least}", remedy)
  bpe = tokenizers.Tokenizer(models.BPE())
  # With a space before it, a caption's first word has the id it has inside.
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  bpe.decoder = decoders.ByteLevel()
  start = dict(special_tokens=special, initial_alphabet=alphabet)
  limits = dict(vocab_size=vocab_size, min_frequency=2, show_progress=False)
  bpe.train_from_iterator(captions, BpeTrainer(**start, **limits))
  if bpe.get_vocab_size() < least:
    raise _error("captions", "too few", "text to learn from", remedy)
  return bpe.to_str().encode()


def _bytes(blob: bytes, lower: bool) -> _Vocabulary:
  return _Vocabulary(
    lambda text: [byte + 3 for byte in text.encode()],
    # Truncation may have cut a character in two.
    lambda ids: bytes(i - 3 for i in ids if i >= 3).decode(errors="ignore"),
    *(3 + 256, 0, 1, 2),
  )


def _bpe(blob: bytes, lower: bool) -> _Vocabulary:
  return _wrap(tokenizers.Tokenizer.from_str(blob.decode()))


def _sentencepiece(blob: bytes, lower: bool) -> _Vocabulary:
  m = sentencepiece.SentencePieceProcessor()
  m.LoadFromSerializedProto(blob)
  ids = (m.pad_id(), m.eos_id(), m.bos_id())
  special = (None if i < 0 else i for i in ids)
  return _Vocabulary(m.encode, m.decode, m.vocab_size(), *special)


def _bert(blob: bytes, lower: bool) -> _Vocabulary:
  # Not splitlines(): exotic line ends may be tokens.
  lines = blob.decode().removesuffix("\n").split("\n")
  vocab = {line.rstrip("\r"): i for i, line in enumerate(lines)}
  if missing := {"[UNK]", "[CLS]", "[SEP]"} - vocab.keys():
    raise ValueError(f"no {min(missing)}")
  bert = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
  bert.normalizer = normalizers.BertNormalizer(lowercase=lower)
  bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  bert.decoder = decoders.WordPiece()
  return _wrap(bert)


def _clip_bpe(blob: bytes, lower: bool) -> _Vocabulary:
  text = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
  header, *lines = text.decode().rstrip("\n").split("\n")
  merges = [tuple(line.split()) for line in lines[:_CLIP_MERGES]]
  if "#version" not in header or any(len(m) != 2 for m in merges):
    raise ValueError("not a #version line, then two symbols a line")
  # In the order of code points, which is also that of CLIP's table.
  symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokens = [*symbols, *(s + "</w>" for s in symbols), *map("".join, merges)]
  tokens += ["<|startoftext|>", "<|endoftext|>"]
  vocab = {token: i for i, token in enumerate(tokens)}
  bpe = models.BPE(vocab, merges, end_of_word_suffix="</w>")
  clip = tokenizers.Tokenizer(bpe)
  words = pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True)
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  clip.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
  space = decoders.Replace("</w>", " ")
  clip.decoder = decoders.Sequence([decoders.ByteLevel(), space])
  return _wrap(clip)


def _wrap(tokenizer: tokenizers.Tokenizer) -> _Vocabulary:
  tokenizer.no_padding()
  tokenizer.no_truncation()
  tokenizer.encode_special_tokens = True  # Spelt out, they are just text.
  vocab = tokenizer.get_vocab()
  return _Vocabulary(
    lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    max(vocab.values()) + 1,
    *(next((vocab[n] for n in ns if n in vocab), None) for ns in _NAMES),
  )


_KINDS: dict[str, tuple[Callable[[bytes, bool], _Vocabulary], str]] = {
  "bytes": (_bytes, "no file"),
  "bpe": (_bpe, "a tokenizers JSON"),
  "sentencepiece": (_sentencepiece, "a SentencePiece .model file"),
  "bert": (_bert, "BERT's vocab.txt"),
  "clip_bpe": (_clip_bpe, "CLIP's bpe_simple_vocab_16e6.txt.gz"),
}
