"""Reads tokenizers of other projects: files in a directory -> spec and blob.

They give the same ids as in the other library, except that a text can't spell a
special token: "</s>" in a caption is four characters here.
"""

import importlib.util
import json
import logging
import pathlib
from typing import Any

import tokenizers
from tokenizers import normalizers

from big_contrastive.config import errors
from big_contrastive.data.tokenizers import vocabulary
from big_contrastive.data.tokenizers.tokenizer import restore_tokenizer
from big_contrastive.interop.tokenizers import fast as fast_tokenizers
from big_contrastive.interop.tokenizers.write import write_hugging_face

__all__ = ["read_hugging_face", "read_open_clip", "write_hugging_face"]

Spec = dict[str, Any]  # Arguments of build_tokenizer, without path and blob.

CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
# The defaults of transformers if config.json lacks the length.
_LENGTHS = {"clip": 77, "siglip": 64, "siglip2": 64}
# BLIP's texts were shorter than BERT's table of 512 positions.
_MOST = {"blip": 40}
_LOWERED = ("GemmaTokenizer", "Siglip2Tokenizer")  # SigLIP 2 in lower case.


def read_hugging_face(
  directory: str | pathlib.Path, length: int | None = None
) -> tuple[Spec, bytes]:
  """Returns spec and blob, for restore_tokenizer, of a transformers directory.

  Args:
    directory: with spiece.model (SigLIP), tokenizer.json (any), vocab.json
      and merges.txt (CLIP) or vocab.txt (BERT), and tokenizer_config.json.
    length: ids per row; None for the length in config.json.

  Raises:
    UserError: for a file that is missing or broken.
  """
  folder = pathlib.Path(directory)
  config = _optional(folder / "config.json")
  settings = _settings(folder)
  kind = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
  siglip = kind == "SiglipTokenizer"
  siglip |= not kind and config.get("model_type") == "siglip"
  # A missing file is reported before a missing length.
  if siglip and (folder / "spiece.model").is_file():
    length = length or _length(folder, config, settings)
    return _read_siglip(folder, settings, length)
  if (folder / "tokenizer.json").is_file():
    tokenizer = _parse(folder / "tokenizer.json")
    # transformers reads it as Gemma's, whatever class its files name.
    gemmas = config.get("model_type") == "siglip2"
    gemmas = gemmas and fast_tokenizers.is_gemmas(tokenizer)
    if kind in _LOWERED or gemmas:
      fast_tokenizers.prepend(tokenizer, [normalizers.Lowercase()])
  elif (folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
    tokenizer = _clip(folder)
  elif (folder / "vocab.txt").is_file():
    length = length or _length(folder, config, settings)
    lower, blob = settings.get("do_lower_case", True), folder / "vocab.txt"
    return _settled("bert", length, _bytes(blob), lower=lower)
  else:
    raise _no_files(folder, kind)
  length = length or _length(folder, config, settings)
  return _of_json(folder, tokenizer, settings, length)


def read_open_clip(
  text_cfg: dict[str, Any], directory: str | pathlib.Path
) -> tuple[Spec, bytes]:
  """Returns spec and blob of an OpenCLIP model.

  Args:
    text_cfg: of open_clip_config.json's model_cfg.
    directory: with the tokenizer's files, as transformers writes them; for
      CLIP's own, its merges, unless an installed open_clip has them.

  Returns:
    ({}, b"") if CLIP's merges can't be found, which is logged.

  Raises:
    UserError: for a file that is missing or broken, or an unknown cleaning.
  """
  folder = pathlib.Path(directory)
  name = text_cfg.get("hf_tokenizer_name")
  length = text_cfg.get("context_length", 77)
  kwargs = text_cfg.get("tokenizer_kwargs") or {}
  where = "open_clip_config.json: tokenizer_kwargs"
  clean = kwargs.get("clean", "whitespace" if name else "lower")
  known = ("canonicalize", "lower", "whitespace")
  errors.choice(f"{where}.clean", clean, known)
  if kwargs.get("strip_sep_token"):
    remedy = "There is no such rule here."
    raise errors.UserError(f"{where}.strip_sep_token", True, "False", remedy)
  rules = {"canonicalize": clean == "canonicalize", "repair": True}
  rules["lower"] = clean != "whitespace"
  if not name:
    merges = _merges(folder)
    if merges is None:
      message = (
        "%s: no tokenizer, copy CLIP's %s, merges.txt or tokenizer.json there"
      )
      logging.warning(message, folder, CLIP_FILE)
      return {}, b""
    return _settled("clip_bpe", length, merges, **rules)
  spec, blob = read_hugging_face(folder, length)
  return _settled(blob=blob, **spec | rules)


def _read_siglip(
  folder: pathlib.Path, settings: dict[str, Any], length: int
) -> tuple[Spec, bytes]:
  rules = {"lower": settings.get("do_lower_case", True)}
  rules["canonicalize"] = "transformers"
  blob = _bytes(folder / "spiece.model")
  return _settled("sentencepiece", length, blob, **rules)


def _of_json(
  folder: pathlib.Path,
  tokenizer: tokenizers.Tokenizer,
  settings: dict[str, Any],
  length: int,
) -> tuple[Spec, bytes]:
  """Spec and blob; tokenizer_config.json overrides the tokenizer's BOS, EOS."""
  try:
    head, tail = vocabulary.frame(tokenizer)
  except ValueError as e:
    path = folder / "tokenizer.json"
    raise _broken(path, "a text's ids between BOS and EOS", str(e)) from e
  rules = {"lower": False, "pad": 0}
  rules["bos"] = settings.get("add_bos_token", bool(head))
  rules["eos"] = settings.get("add_eos_token", bool(tail))
  blob = tokenizer.to_str().encode()
  spec, _ = _settled("json", length, blob, **rules)
  ours = restore_tokenizer(spec, blob)
  for ids, our_id in ((head, ours.bos_id), (tail, ours.eos_id)):
    if ids and our_id is not None and ids != [our_id]:
      where = f"{folder / 'tokenizer.json'}: post_processor"
      remedy = "This tokenizer is of no model like CLIP or SigLIP."
      raise errors.UserError(where, ids, f"one token, {our_id}", remedy)
  pad = settings.get("pad_token")
  pad_id = tokenizer.token_to_id(pad) if pad else ours.eos_id
  if pad_id is None:
    remedy = "Name one in tokenizer_config.json."
    allowed = "a token of tokenizer.json"
    raise errors.UserError(f"{folder}: pad_token", pad, allowed, remedy)
  return _settled(blob=blob, **spec | {"pad": pad_id})


def _settled(
  kind: str, length: int, blob: bytes, **rules: Any
) -> tuple[Spec, bytes]:
  """The complete, checked spec, and the blob."""
  return restore_tokenizer(
    {"kind": kind, "length": length, **rules}, blob
  ).spec, blob


def _settings(folder: pathlib.Path) -> dict[str, Any]:
  """tokenizer_config.json, with special tokens as plain strings."""
  settings = _optional(folder / "special_tokens_map.json")
  settings |= _optional(folder / "tokenizer_config.json")
  return {
    k: v["content"] if isinstance(v, dict) and "content" in v else v
    for k, v in settings.items()
  }


def _length(
  folder: pathlib.Path, config: dict[str, Any], settings: dict[str, Any]
) -> int:
  stated = (config.get("text_config") or {}).get("max_position_embeddings")
  stated = stated or _LENGTHS.get(config.get("model_type", ""))
  stated = stated or settings.get("model_max_length")
  if not isinstance(stated, int) or stated > 2**20:  # transformers' "none".
    where = f"{folder}: length of a text"
    allowed = "text_config.max_position_embeddings in config.json"
    raise errors.UserError(where, stated, allowed, "Add it.")
  return min(stated, _MOST.get(config.get("model_type", ""), stated))


def _clip(folder: pathlib.Path) -> tokenizers.Tokenizer:
  vocab = _optional(folder / "vocab.json")
  merges = _pairs(folder / "merges.txt")
  try:
    return fast_tokenizers.clip(vocab, merges)
  except Exception as e:  # Nothing narrower: the library raises just that.
    allowed = "vocab.json and merges.txt of CLIP"
    remedy = f"Check the files ({e!r})."
    raise errors.UserError("tokenizer", str(folder), allowed, remedy) from e


def _pairs(path: pathlib.Path) -> list[Any]:
  lines = _bytes(path).decode(errors="replace").strip().split("\n")
  pairs = [tuple(x.split()) for x in lines if not x.startswith("#version")]
  if any(len(pair) != 2 for pair in pairs):
    raise _broken(path, "two symbols a line", "not a list of merges")
  return pairs


def _merges(folder: pathlib.Path) -> bytes | None:
  """CLIP's file of merges, or its equivalent; None if there is none."""
  package = importlib.util.find_spec("open_clip")
  installed = pathlib.Path(package.origin or "").parent if package else folder
  for place in (folder, installed):
    if (place / CLIP_FILE).is_file():
      return _bytes(place / CLIP_FILE)
  pairs = None
  if (folder / "merges.txt").is_file():
    pairs = _pairs(folder / "merges.txt")
  elif (folder / "tokenizer.json").is_file():
    files = fast_tokenizers.clip_files(_parse(folder / "tokenizer.json"))
    pairs = files[1] if files else None
  if pairs is None:
    return None
  return "\n".join(["#version: 0.2", *map(" ".join, pairs)]).encode()


def _no_files(folder: pathlib.Path, kind: str) -> errors.UserError:
  allowed = "a directory with tokenizer.json, SigLIP's spiece.model, "
  allowed += "CLIP's vocab.json and merges.txt, or BERT's vocab.txt"
  remedy = f"Copy a tokenizer.json there{f' for {kind}' if kind else ''}."
  return errors.UserError("tokenizer", str(folder), allowed, remedy)


def _parse(path: pathlib.Path) -> tokenizers.Tokenizer:
  try:
    return tokenizers.Tokenizer.from_str(_bytes(path).decode())
  except Exception as e:  # Nothing narrower: the library raises just that.
    raise _broken(path, "a tokenizers JSON", str(e)) from e


def _bytes(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as e:
    raise _broken(path, "a file", str(e.strerror)) from e


def _optional(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_bytes())
  except ValueError as e:
    raise _broken(path, "JSON", str(e)) from e
  if not isinstance(content, dict):
    raise _broken(path, "a JSON object", f"a {type(content).__name__}")
  return content


def _broken(path: pathlib.Path, allowed: str, why: str) -> errors.UserError:
  remedy = f"Check the file ({why})."
  return errors.UserError("tokenizer", str(path), allowed, remedy)
