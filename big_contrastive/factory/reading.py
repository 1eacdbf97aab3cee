"""Reads the files that a config names; for a plan, only their shapes."""

import pathlib
from typing import Any

import jax
import numpy as np

from big_contrastive.config import durations, errors, schema
from big_contrastive.data.build import build_source
from big_contrastive.data.source import Source
from big_contrastive.data.tokenizers import vocabulary
from big_contrastive.data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from big_contrastive.evals import Evaluator
from big_contrastive.factory import evaluators, parts, warm_start
from big_contrastive.training.sinks import Sink

# Sizes of vocabularies that are always the same, by a tokenizer's kind.
_PUBLISHED = {"clip_bpe": 49_408, "bert": 30_522}

# And by file name: a SentencePiece model may have any size.
_NAMED = {"c4_en.model": 32_000}


class Reading:
  """Reads data sets, vocabularies and weights: see the functions it calls."""

  def source(self, config: dict[str, Any] | str, where: str) -> Source:
    return build_source(config, where)

  def tokenizer(
    self, config: dict[str, Any], data: Source, blob: bytes | None
  ) -> Tokenizer:
    return parts.tokenizer(config, data, blob)

  def evaluator(self, config: dict[str, Any], where: str) -> Evaluator:
    return evaluators.evaluator(config, where)

  def sink(self, config: dict[str, Any], name: str) -> Sink:
    return parts.sink(config, name, used=jax.process_index() == 0)

  def weights(
    self,
    init: Any,
    abstract: dict[str, Any],
    model: dict[str, Any],
    path: Any,
    long_texts: str | None = None,
  ) -> warm_start.Load:
    return warm_start.loader(init, abstract, model, str(path), long_texts)


class Blank(Source):
  """A source with one record: a black picture with a caption.

  Args:
    width: of the vector that stands in the picture's place; None for a picture.
  """

  def __init__(self, width: int | None = None):
    self._width = width

  def __len__(self) -> int:
    return 1

  def __getitem__(self, index: int) -> dict[str, Any]:
    picture = np.zeros((1024, 1024, 3), np.uint8)
    if self._width is not None:
      picture = np.zeros((1, self._width), np.float32)
    return {"image": picture, "text": "a", "id": 0, "label": 0}


class Shapes(Reading):
  """Reads only what shapes depend on, as far as it exists.

  No data set is opened, except for the captions that a BPE is trained on; the
  fields of sections are still checked. Each assumption is a line in `notes`.

  Args:
    config: the whole config.
  """

  def __init__(self, config: dict[str, Any]):
    self._config = config
    self.notes: list[str] = []

  def source(self, config: dict[str, Any] | str, where: str) -> Source:
    image = schema.section(self._config["model"], "config.model").get("image")
    stored = image and image.get("tower") == "vectors"
    width = image.get("width") if stored else None
    return build_source(config, where, lambda make: Blank(width))

  def tokenizer(
    self, config: dict[str, Any], data: Source, blob: bytes | None
  ) -> Tokenizer:
    kwargs = dict(config)
    kind, path = kwargs.get("kind"), kwargs.get("path")
    if blob is not None or kind in ("checkpoint", "bytes"):
      return parts.tokenizer(config, data, blob)
    extra = {"captions": None, "blob": None}
    schema.complete(build_tokenizer, kwargs, "config.tokenizer", extra)
    errors.choice("config.tokenizer.kind", kind, vocabulary.KINDS)
    if path is not None and not pathlib.Path(path).expanduser().exists():
      return self._assumed(kwargs, f"{path} is not here")
    if path is None and kind == "bpe":
      try:
        data = build_source(self._config["source"], "config.source")
      except (errors.UserError, OSError) as e:
        why = f"the captions that it is trained on can't be read: {e}"
        return self._assumed({"vocab_size": 8192} | kwargs, why)
    return parts.tokenizer(config, data, None)

  def _assumed(self, kwargs: dict[str, Any], why: str) -> Tokenizer:
    """A tokenizer of the right shape, whose ids mean nothing."""
    kind, path = kwargs["kind"], kwargs.get("path") or ""
    towers = schema.section(self._config["model"], "config.model")
    tower = schema.section(towers.get("text", {}), "config.model.text")
    cased = kind == "bert" and not kwargs.get("lower", True)
    known = _NAMED.get(pathlib.Path(path).name, _PUBLISHED.get(kind))
    stated = (
      kwargs.get("vocab_size"), tower.get("vocab_size"), self._labels(kind)
    )  # fmt: skip
    known = None if cased else known
    size = next((n for n in stated if type(n) is int), known)
    if size is None:
      raise errors.UserError(
        "config.tokenizer.path", path, "a file that exists here",
        "Or set config.tokenizer.vocab_size: a plan needs only its size.",
      )  # fmt: skip
    self.notes.append(f"a vocabulary of {size:,}: {why}")
    # Any kind will do: only its shape matters.
    begins = kwargs.get("bos", kind in ("bert", "clip_bpe"))
    tokenizer = build_tokenizer("bytes", kwargs["length"], bos=begins)
    tokenizer.vocab_size, tokenizer.pad_id = size, tower.get("pad_id") or 0
    tokenizer.eos_id = tokenizer.eos_id if kwargs.get("eos", True) else None
    tokenizer.spec = tokenizer.spec | {"kind": kind}
    if kind == "synsets":
      tokenizer.frequency = np.full(size - 1, 0.5)
    return tokenizer

  def _labels(self, kind: str) -> int | None:
    """The ids of a tokenizer that fits the classifier; None without one."""
    towers = schema.section(self._config["model"], "config.model")
    heads = schema.section(towers.get("heads") or {}, "config.model.heads")
    where = "config.model.heads.classifier"
    head = schema.section(heads.get("classifier") or {}, where)
    classes = head.get("classes")
    if type(classes) is not int:
      return None
    return classes + (kind == "synsets")

  def evaluator(self, config: dict[str, Any], where: str) -> Evaluator:
    evaluators.evaluation(config, where, self.source)
    return lambda embed: iter(())

  def sink(self, config: dict[str, Any], name: str) -> Sink:
    return parts.sink(config, name, used=False)

  def weights(
    self,
    init: Any,
    abstract: dict[str, Any],
    model: dict[str, Any],
    path: Any,
    long_texts: str | None = None,
  ) -> warm_start.Load:
    if isinstance(init, dict):
      missing = {k for k, v in init.items() if not warm_start.is_there(v)}
      for name in sorted(missing):
        errors.choice("config.init", name, warm_start.part_names(abstract))
        why = f"config.init.{name} = {init[name]!r} is not here"
        self.notes.append(f"weights of config.model's shapes: {why}")
      init = {k: v for k, v in init.items() if k not in missing}
    return super().weights(init, abstract, model, path, long_texts)


def without_epochs(config: dict[str, Any]) -> dict[str, Any]:
  """Returns a config whose durations don't depend on the data set's size.

  A step takes the same memory and time in a run of any length.
  """

  def short(value: Any) -> Any:
    if isinstance(value, dict):
      return {k: short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
      return [short(v) for v in value]
    return 1 if durations.in_epochs(value) else value

  long = {"total": 10**9}
  changed = {
    k: long.get(k, 1) if durations.in_epochs(v) else v
    for k, v in config.items()
  }
  inside = {"schedule", "schedules", "start"} & changed.keys()
  changed |= {k: short(changed[k]) for k in inside}
  placed = {"objective"} & config.keys()
  return changed | {k: _placed(config[k]) for k in placed}


def _placed(value: Any) -> Any:
  """Returns config.objective with starts and stops in steps, in their order."""
  if isinstance(value, dict):
    return {k: _placed(v) for k, v in value.items()}
  if not durations.in_epochs(value):
    return value
  return durations.steps(value, "", batch_size=1, epoch=1000)
