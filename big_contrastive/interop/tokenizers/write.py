"""Writes a tokenizer's files for transformers."""

import json
import pathlib
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.tokenizers import vocabulary
from big_contrastive.data.tokenizers.tokenizer import (
  Tokenizer,
  restore_tokenizer,
)
from big_contrastive.interop import sections
from big_contrastive.interop.tokenizers import fast as fast_tokenizers


def write_hugging_face(
  spec: dict[str, Any],
  blob: bytes,
  directory: str | pathlib.Path,
  family: str = "",
  padding_seen: bool = False,
) -> list[str]:
  """Writes files with which transformers' AutoTokenizer gives our ids.

  With padding="max_length" and truncation=True, lengths are ours too.

  Args:
    spec, blob: see tokenizer.restore_tokenizer.
    directory: created if it doesn't exist.
    family: of the model beside it, config.json's model_type.
    padding_seen: whether that model's vectors depend on the padding.

  Returns:
    What their classes do differently, for the user, one sentence each.

  Raises:
    UserError: for a SentencePiece model that none of their classes takes, and
      for padding that the model sees and they can't produce.
  """
  ours, folder = restore_tokenizer(spec, blob), pathlib.Path(directory)
  _check(ours.spec)
  if padding_seen:
    _check_padding(ours)
  notes = _notes(ours.spec)
  folder.mkdir(parents=True, exist_ok=True)
  write = _write_siglip if spec["kind"] == "sentencepiece" else _write_json
  settings: dict[str, Any] = write(ours, folder, notes)
  named = {k: v for k, v in settings.items() if k.endswith("_token")}
  _dump(folder / "special_tokens_map.json", named)
  if family == "siglip2" and not _is_siglip_2s(ours):
    notes.append(
      "transformers takes Siglip2Tokenizer for every Siglip2Model, which is "
      "Gemma's in lower case and not this one: read it by "
      f"{settings['tokenizer_class']}.from_pretrained, not by AutoTokenizer."
    )
  settings |= {"model_max_length": ours.length, "padding_side": "right"}
  settings |= {"clean_up_tokenization_spaces": False}
  if family == "blip":
    settings["model_input_names"] = ["input_ids", "attention_mask"]
  elif family != "clip":
    # A mask would hide padding, which these towers attend to.
    settings["model_input_names"] = ["input_ids"]
  _dump(folder / "tokenizer_config.json", settings)
  return notes


def _check(spec: dict[str, Any]) -> None:
  fits = spec["canonicalize"] and spec["eos"] and not spec["bos"]
  if spec["kind"] == "sentencepiece" and not fits:
    allowed = "canonicalize=True, bos=False, eos=True, as SiglipTokenizer has"
    fields = {k: spec[k] for k in ("canonicalize", "bos", "eos")}
    remedy = "Give the same vocabulary as a tokenizer.json, kind json."
    raise errors.UserError("config.tokenizer", fields, allowed, remedy)


def _check_padding(ours: Tokenizer) -> None:
  if ours.spec["kind"] == "sentencepiece":
    return
  if ours.pad_id not in vocabulary.special_ids(fast_tokenizers.build(ours)):
    allowed = "a special token: transformers pads with no other, and this"
    allowed += " text tower sees padding"
    thing = "padding of the tokenizer"
    raise errors.UserError(thing, ours.pad_id, allowed, sections.ANOTHER)


def _notes(spec: dict[str, Any]) -> list[str]:
  """What their classes unavoidably do differently."""
  notes, siglip = [], spec["kind"] == "sentencepiece"
  if spec["repair"]:
    notes.append("transformers mends neither HTML nor broken Unicode.")
  if siglip and spec["canonicalize"] != "transformers":
    notes.append(
      'SiglipTokenizer drops "_", which is a space here, and makes a token of '
      "white space before a text, and of an empty one."
    )
  if not siglip and spec["lower"] and spec["kind"] != "bert":
    notes.append("transformers lower-cases a final sigma to the ordinary one.")
  return notes


def _is_siglip_2s(ours: Tokenizer) -> bool:
  """Whether Siglip2Tokenizer, with the same vocabulary and merges, is the same.

  Ignores that it may lower-case a final sigma differently.
  """
  if ours.spec["kind"] == "sentencepiece":
    return False
  built = fast_tokenizers.build(ours)
  return fast_tokenizers.is_gemmas(built, lowered=True)


def _write_siglip(
  ours: Tokenizer, folder: pathlib.Path, notes: list[str]
) -> dict[str, Any]:
  """Writes the model for SiglipTokenizer; returns its settings."""
  vocab = vocabulary.processor(ours.blob)
  (folder / "spiece.model").write_bytes(ours.blob)
  return {
    "tokenizer_class": "SiglipTokenizer",
    "do_lower_case": ours.spec["lower"],
    "eos_token": vocab.IdToPiece(ours.eos_id),
    "pad_token": vocab.IdToPiece(ours.pad_id),
    "unk_token": vocab.IdToPiece(vocab.unk_id()),
  }


def _write_json(
  ours: Tokenizer, folder: pathlib.Path, notes: list[str]
) -> dict[str, Any]:
  """Writes a tokenizer.json, and for CLIP the two files of its own class."""
  tokenizer = fast_tokenizers.build(ours)
  files = fast_tokenizers.clip_files(tokenizer)
  settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
  both = ours.bos_id is not None and ours.eos_id is not None
  if files and both and not ours.spec["canonicalize"]:
    settings["tokenizer_class"] = "CLIPTokenizer"
    vocab, merges = files
    tokenizer = fast_tokenizers.clip(vocab, merges)
    _dump(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
  tokenizer.save(str(folder / "tokenizer.json"))
  special = {"bos": ours.bos_id, "eos": ours.eos_id, "pad": ours.pad_id}
  known = vocabulary.special_ids(tokenizer)
  if ours.pad_id not in known:
    notes.append(f"transformers pads with EOS, not with {ours.pad_id}.")
    special["pad"] = ours.eos_id
  names = {
    f"{name}_token": tokenizer.id_to_token(i)
    for name, i in special.items()
    if i is not None
  }
  return settings | names


def _dump(path: pathlib.Path, content: dict[str, Any]) -> None:
  path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
