"""Tokenizers: a caption becomes a row of token ids of fixed length.

A checkpoint holds its `spec`, the rules as JSON, and its `blob`, the
vocabulary file's bytes; `restore_tokenizer` needs neither that file nor the
captions.
"""

import html
import string
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import ftfy
import numpy as np

from big_contrastive.config import errors, schema
from big_contrastive.data.labels import synsets
from big_contrastive.data.tokenizers import vocabulary
from big_contrastive.data.tokenizers.vocabulary import Vocabulary
from big_contrastive.storage import paths

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Their own rules for white space and lower case are the reference.
_AS_IS = ("sentencepiece", "json", "bert", "synsets")


class Tokenizer:
  """Text to ids; many threads may share it, and it can be pickled.

  Attributes:
    length, vocab_size: ids per row, number of different ids.
    pad_id: fills the row.
    bos_id, eos_id: begin and end every text; None if texts have none.
    spec: keyword arguments of `build_tokenizer`, in JSON's types.
    blob: the vocabulary file's content; b"" for kind="bytes".
    frequency: see Vocabulary.
  """

  def __init__(self, vocab: Vocabulary, spec: dict[str, Any], blob: bytes):
    self.length: int = spec["length"]
    self.vocab_size, self.pad_id = vocab.size, int(spec["pad"])
    self.bos_id = vocab.bos if spec["bos"] else None
    self.eos_id = vocab.eos if spec["eos"] else None
    self.spec, self.blob, self._vocab = spec, blob, vocab
    self.frequency = vocab.frequency
    self._head = [] if self.bos_id is None else [self.bos_id]
    self._tail = [] if self.eos_id is None else [self.eos_id]
    self._room = self.length - len(self._head) - len(self._tail)

  def __call__(self, text: str) -> np.ndarray:
    """Returns the caption's ids, int32 [l]."""
    (inner,) = self._vocab.encode([clean(text, self.spec)])
    row = np.empty(self.length, np.int32)
    self._fill(row, inner)
    return row

  def rows(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the captions' ids, int32 [len(texts), l]."""
    rows = np.empty((len(texts), self.length), np.int32)
    cleaned = [clean(text, self.spec) for text in texts]
    for row, inner in zip(rows, self._vocab.encode(cleaned), strict=True):
      self._fill(row, inner)
    return rows

  def _fill(self, row: np.ndarray, inner: Sequence[int]) -> None:
    row.fill(self.pad_id)
    ids = [*self._head, *inner[: self._room], *self._tail]
    row[: len(ids)] = ids

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text of a row of ids, up to its EOS or padding.

    Ids beyond the vocabulary, of which a model may have some, are left out.
    """
    ids = [int(i) for i in ids if i < self.vocab_size]
    ids = ids[1:] if ids[:1] == [self.bos_id] else ids
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    while ids and ids[-1] == self.pad_id:
      ids.pop()
    return self._vocab.decode(ids).strip()

  def __reduce__(self):
    return restore_tokenizer, (self.spec, self.blob)


def build_tokenizer(
  kind: str,
  length: int,
  *,
  path: str | None = None,
  vocab_size: int | None = None,
  lower: bool = True,
  canonicalize: bool | Literal["transformers"] = False,
  repair: bool | None = None,
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
      "bpe": byte-level, from a tokenizers JSON or trained on the captions. The
        order of captions does not matter: all hosts get the same vocabulary.
      "sentencepiece": a .model file. The defaults fit SigLIP's c4_en and mc4;
        SigLIP 2 (Gemma) and T5 need pad="pad", T5 also lower=False.
      "bert": WordPiece's vocab.txt. LiT has eos=False.
      "clip_bpe": bpe_simple_vocab_16e6.txt.gz.
      "json": any tokenizer.json, with its own rules for white space.
      "synsets": the classes of the nouns in it (CatLIP), of a vocabulary that
        big_contrastive.synsets made, or path="shapes" for the embedded data;
        rows have neither BOS nor EOS.
    length: ids per row.
    path, blob: the vocabulary file, or its content.
    vocab_size: the most ids a BPE may have (8192 if None and trained here);
      otherwise the size that the vocabulary must have.
    lower: whether to lower-case.
    canonicalize: whether to drop punctuation and extra white space (SigLIP).
      True turns "_" into a space, as big_vision and OpenCLIP do.
      "transformers", for a sentencepiece, does as SiglipTokenizer: "_" is
      dropped, and white space before a text, or an empty text, is a token.
    repair: whether to fix broken Unicode and HTML as CLIP does, with ftfy and
      html.unescape; None: for clip_bpe only.
    bos: whether a text begins with BOS; None: for bert, clip_bpe, and a json
      that says so.
    eos: whether a text ends with EOS, also when truncated ("sticky"); classes
      never do.
    pad: the vocabulary's "pad", its "eos", or an id; None: "eos" for
      sentencepiece, 0 for clip_bpe, else "pad".
    captions: texts to train the BPE on, read only if there is no file.

  Raises:
    UserError: naming the field, for a value or a file that can't be used.
  """
  errors.choice("config.tokenizer.kind", kind, vocabulary.KINDS)
  repair = kind == "clip_bpe" if repair is None else repair
  if pad is None:
    pad = {"sentencepiece": "eos", "clip_bpe": 0}.get(kind, "pad")
  spec: dict[str, Any] = dict(kind=kind, length=length, lower=lower)
  spec |= dict(canonicalize=canonicalize, repair=repair)
  if blob is None and kind == "bpe" and path is None and captions is not None:
    cleaned = (clean(caption, spec) for caption in captions)
    size = 8192 if vocab_size is None else vocab_size
    blob = vocabulary.train_bpe(cleaned, size)
  elif blob is None:
    blob = _read(kind, path)
  vocab = _load(spec, blob, path)
  bos = vocab.starts if bos is None else bos
  eos = eos and kind != "synsets"
  spec |= dict(vocab_size=vocab_size, bos=bos, eos=eos, pad=pad)
  return Tokenizer(vocab, spec | _settle(spec, vocab), blob)


def restore_tokenizer(spec: dict[str, Any], blob: bytes) -> Tokenizer:
  """Returns the tokenizer of a spec and blob: same text, same ids."""
  return schema.call(
    build_tokenizer, {**spec, "blob": blob}, "config.tokenizer"
  )


def clean(text: str, spec: dict[str, Any]) -> str:
  """Returns the text that a tokenizer with this spec encodes."""
  if not text.isascii():
    # JSON can contain half a surrogate pair, which no vocabulary accepts.
    text = text.encode("utf-8", "replace").decode("utf-8")
  if spec["repair"]:
    text = _repair(text)
  if spec["canonicalize"] == "transformers":
    text = "▁" + text.replace("▁", " ")
  elif spec["canonicalize"]:
    text = text.replace("_", " ")
  if spec["canonicalize"]:
    text = text.translate(_NO_PUNCTUATION)
  # BERT's own lower-casing is not Python's; synsets repair the text before.
  if spec["lower"] and spec["kind"] not in ("bert", "synsets"):
    text = text.lower()
  return " ".join(text.split()) if squeezes(spec) else text


def squeezes(spec: dict[str, Any]) -> bool:
  """Returns whether white space becomes single spaces between words."""
  return bool(
    spec["kind"] not in _AS_IS or spec["canonicalize"] or spec["repair"]
  )


def _repair(text: str) -> str:
  if text.isascii() and text.isprintable() and "&" not in text:
    return text  # ftfy would not change it, only take longer.
  return html.unescape(html.unescape(ftfy.fix_text(text)))


def _error(field: str, value: object, allowed: str, remedy: str) -> Exception:
  return errors.UserError(f"config.tokenizer.{field}", value, allowed, remedy)


def _load(spec: dict[str, Any], blob: bytes, path: str | None) -> Vocabulary:
  file = vocabulary.KINDS[spec["kind"]][1]
  try:
    return vocabulary.load(blob, spec)
  except Exception as e:  # The libraries raise nothing narrower.
    field, value = ("path", path) if path else ("blob", f"{len(blob)} bytes")
    raise _error(field, value, file, f"Check the file ({e}).") from e


def _read(kind: str, path: str | None) -> bytes:
  file = vocabulary.KINDS[kind][1]
  if (path is None) != (kind == "bytes"):
    remedy = {"bytes": "Leave it out.", "bpe": "Give it, or captions."}
    raise _error("path", path, file, remedy.get(kind, "Give it."))
  if path is None:
    return b""
  try:
    if (kind, path) == ("synsets", "shapes"):
      return synsets.SHAPES.read_bytes()
    return paths.local(path, "path").read_bytes()
  except OSError as e:
    raise _error("path", path, file, f"{e.strerror}.") from e


def _settle(spec: dict[str, Any], vocab: Vocabulary) -> dict[str, int]:
  """Returns the final vocab_size and pad; raises if the spec does not fit."""
  size, stated, pad = vocab.size, spec["vocab_size"], spec["pad"]
  exact = spec["kind"] != "bpe"
  if stated is not None and (size > stated or (exact and size < stated)):
    allowed = f"{size}, the vocabulary's size"
    raise _error("vocab_size", stated, allowed, "Or leave it out.")
  for name in ("bos", "eos"):
    if spec[name] and getattr(vocab, name) is None:
      raise _error(name, True, "False", "The vocabulary has none.")
  if spec["length"] < (least := max(2, spec["bos"] + spec["eos"] + 1)):
    allowed = f"a whole number from {least} up"
    raise _error("length", spec["length"], allowed, "Make room for text.")
  pad_id = getattr(vocab, pad) if pad in ("pad", "eos") else pad
  if not isinstance(pad_id, int) or not 0 <= pad_id < size:
    allowed = f'"pad" or "eos" if the vocabulary has it, or an id < {size}'
    raise _error("pad", pad, allowed, "Choose one of them.")
  return dict(vocab_size=size, pad=pad_id)
