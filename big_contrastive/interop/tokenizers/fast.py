"""Our tokenizers built with the tokenizers library: text -> framed ids."""

import json
from typing import Any

import tokenizers
from tokenizers import (
  Regex,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from big_contrastive.data.tokenizers import vocabulary
from big_contrastive.data.tokenizers.tokenizer import Tokenizer, squeezes

# The pattern of transformers' CLIPTokenizer.
_CLIP_WORDS = (
  r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
  r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

_LOWERCASE = {"type": "Lowercase"}


def build(ours: Tokenizer) -> tokenizers.Tokenizer:
  """Returns a tokenizer with the ids of `ours`, without padding.

  Not for kind "sentencepiece". It doesn't repair texts with ftfy, and
  lower-cases a final sigma to the ordinary one.
  """
  spec, blob = ours.spec, ours.blob
  kind, lower = spec["kind"], spec["lower"]
  if kind == "bytes":
    tokenizer = _bytes()
  elif kind == "bert":
    tokenizer = vocabulary.bert(blob, lower)
  elif kind == "clip_bpe":
    tokenizer = vocabulary.clip(blob)
  else:
    tokenizer = tokenizers.Tokenizer.from_str(blob.decode())
  prepend(tokenizer, _cleaning(spec))
  bos, eos = ours.bos_id, ours.eos_id
  set_frame(tokenizer, [bos] if bos is not None else [], eos)
  return tokenizer


def prepend(tokenizer: tokenizers.Tokenizer, steps: list[Any]) -> None:
  """Inserts normalizers before the tokenizer's own."""
  normalizer = tokenizer.normalizer
  if steps:
    every = steps if normalizer is None else [*steps, normalizer]
    tokenizer.normalizer = normalizers.Sequence(every)


def set_frame(
  tokenizer: tokenizers.Tokenizer, head: list[int], eos: int | None
) -> None:
  """Makes texts begin with the ids of `head` and end with `eos`."""
  ids = [*head, *([] if eos is None else [eos])]
  names = [tokenizer.id_to_token(i) for i in ids]
  if vocabulary.frame(tokenizer) == (head, ids[len(head) :]):
    return
  pieces = [*names[: len(head)], "$A", *names[len(head) :]]
  tokenizer.post_processor = processors.TemplateProcessing(
    single=pieces, special_tokens=list(zip(names, ids, strict=True))
  )


def clip(vocab: dict[str, int], merges: list[Any]) -> tokenizers.Tokenizer:
  """Returns transformers' CLIPTokenizer from the content of its two files."""
  bpe = models.BPE(
    vocab, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"
  )
  clip = tokenizers.Tokenizer(bpe)
  spaces = normalizers.Replace(Regex(r"\s+"), " ")
  steps = [normalizers.NFC(), spaces, normalizers.Lowercase()]
  clip.normalizer = normalizers.Sequence(steps)
  words = pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True)
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
  clip.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
  space = decoders.Replace("</w>", " ")
  clip.decoder = decoders.Sequence([decoders.ByteLevel(), space])
  set_frame(clip, [vocab["<|startoftext|>"]], vocab["<|endoftext|>"])
  return clip


def is_gemmas(tokenizer: tokenizers.Tokenizer, lowered: bool = False) -> bool:
  """Whether it is Gemma's except for vocabulary and case.

  It compares the parts that transformers' Siglip2Tokenizer overrides, whatever
  a tokenizer.json says.

  Args:
    tokenizer: the tokenizer.
    lowered: whether it must also lower-case texts first.
  """
  content = json.loads(tokenizer.to_str())
  model, cut = content["model"], content["pre_tokenizer"]
  cleaning = _normalizers(content)
  spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
  return (
    model["type"] == "BPE"
    and model["byte_fallback"]
    and model["fuse_unk"]
    and cut is not None
    and cut["type"] == "Split"
    and cut["pattern"] == {"String": " "}
    and [x for x in cleaning if x != _LOWERCASE] == [spaces]
    and (not lowered or cleaning[:1] == [_LOWERCASE])
  )


def _normalizers(part: dict[str, Any]) -> list[dict[str, Any]]:
  """The normalizers of a tokenizer.json, nested sequences flattened."""
  normalizer = part.get("normalizer", part)
  if normalizer is None:
    return []
  if normalizer["type"] != "Sequence":
    return [normalizer]
  return [x for each in normalizer["normalizers"] for x in _normalizers(each)]


def clip_files(
  tokenizer: tokenizers.Tokenizer,
) -> tuple[dict[str, int], list[tuple[str, str]]] | None:
  """Returns ids and merges if it is a BPE like CLIP's, else None."""
  model = json.loads(tokenizer.to_str())["model"]
  ends = "<|startoftext|>", "<|endoftext|>"
  is_clip = model.get("end_of_word_suffix") == "</w>"
  if not is_clip or any(tokenizer.token_to_id(t) is None for t in ends):
    return None
  # Older files write a merge as one string.
  pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
  return tokenizer.get_vocab(), [(first, second) for first, second in pairs]


def _cleaning(spec: dict[str, Any]) -> list[Any]:
  """The normalizers that do the same as tokenizer.clean."""
  steps: list[Any] = []
  if spec["canonicalize"]:
    if spec["canonicalize"] != "transformers":
      steps.append(normalizers.Replace("_", " "))
    steps.append(normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""))
  if spec["lower"] and spec["kind"] != "bert":
    steps.append(normalizers.Lowercase())
  if squeezes(spec):
    # Python's white space is Unicode's plus four separators.
    spaces = Regex(r"[\s\x{1c}-\x{1f}]+")
    steps += [normalizers.Replace(spaces, " "), normalizers.Strip()]
  if spec["kind"] == "clip_bpe":
    steps.append(normalizers.NFC())
  return steps


def _bytes() -> tokenizers.Tokenizer:
  special = [names[0] for names in vocabulary.NAMES]
  # ByteLevel writes a printable byte as its own character, others as the next
  # character from 256 on.
  plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
  rest = iter(range(256, 512))
  letters = [chr(b if b in plain else next(rest)) for b in range(256)]
  vocab = {token: i for i, token in enumerate([*special, *letters])}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab, []))
  byte_level = pre_tokenizers.ByteLevel
  tokenizer.pre_tokenizer = byte_level(False, use_regex=False)
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer
