"""Finds the data of suites, and checks all of it before anything is run."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_contrastive.config import errors, registry, schema
from big_contrastive.data.build import build_source
from big_contrastive.data.files import class_names, clip_benchmark, paths
from big_contrastive.data.files.clip_benchmark import (
  ALL_CLASSES,
  ALL_PROMPTS,
  CLASSES,
  PROMPTS,
  there,
)
from big_contrastive.data.loader.fingerprint import fingerprint
from big_contrastive.data.source import Source
from big_contrastive.evals import Evaluator
from big_contrastive.evals.suites import METRICS, Set, Suite
from big_contrastive.factory import evaluators
from big_contrastive.storage import urls

_HUB = "https://huggingface.co/"
_SAMPLED = 64  # Labels that are read of data sets whose labels are not cheap.


@dataclasses.dataclass(frozen=True)
class Found:
  """A set of a suite, with its data.

  Attributes:
    suite: its name.
    name: the set's, in it.
    task: of the set.
    mean: whether the suite is complete here, and wants its mean.
    same_images: see Suite.
    data: the folder, or the TFDS data set and split.
    records: how many there are.
    digest: of all that figures depend on beside the model.
    run: evaluates a model.
  """

  suite: str
  name: str
  task: str
  mean: bool
  same_images: bool
  data: str
  records: int
  digest: str
  run: Evaluator


class _Chosen(NamedTuple):
  """A set of a suite; `whole` if all of its sets are chosen."""

  suite: str
  name: str
  set: Set
  of: Suite
  whole: bool

  @property
  def where(self) -> str:
    return f"{self.suite}/{self.name}"


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where a set is: `section` describes its source."""

  data: str
  section: dict[str, Any]
  folder: str = ""  # In CLIP_benchmark's layout; "" in TFDS.


def find(names: str, data: str, prompts: str | None = None) -> list[Found]:
  """Returns the sets of suites, in order, all checked.

  Args:
    names: with "," between them: a suite, one of its sets as "imagenet/a", or
      the path of a file that ends in ".py" and has SUITE.
    data: the folder, or URL, that all of the sets are in.
    prompts: the folder of CLIP_benchmark's JSON files of class names and
      prompts, for TFDS's data sets; None for `data`.

  Raises:
    UserError: for an unknown suite, and for data that is missing, incomplete,
      empty, or has another number of classes than there are names.
  """
  if data.startswith(_HUB):
    allowed = "a folder, or a URL such as hf://datasets/clip-benchmark"
    remedy = "A page of the Hub is no folder."
    raise errors.UserError("--data", data, allowed, remedy)
  root, prompts = map(_folder, (data, prompts or data))
  chosen = _chosen(names)
  # All places first: a missing folder should not wait for the others' tars.
  places = [_place(c.where, c.set, root) for c in chosen]
  return [
    _found(c, place, prompts) for c, place in zip(chosen, places, strict=True)
  ]


def _folder(path: str) -> str:
  return path if urls.remote(path) else os.path.expanduser(path)


def _found(chosen: _Chosen, place: _Place, prompts: str) -> Found:
  one, where = chosen.set, chosen.where
  with evaluators.inside(where, ("classes", "templates", "source", "member")):
    source = build_source(place.section, where)
    if source.skipped:
      allowed, remedy = "data that are complete", "Download them again."
      raise errors.UserError("source", dict(source.skipped), allowed, remedy)
    arguments = _arguments(one, place, source, prompts)
  config = {"task": one.task} | arguments
  run = evaluators.evaluation(config, where, lambda *_: source)()
  digest = _digest(config, place, source)
  mean = chosen.whole and chosen.of.mean
  return Found(
    chosen.suite, chosen.name, one.task, mean, chosen.of.same_images,
    place.data, len(source), digest, run,
  )  # fmt: skip


def _chosen(names: str) -> list[_Chosen]:
  """The sets of suites, in order."""
  chosen: dict[str, _Chosen] = {}
  for text in filter(None, map(str.strip, names.split(","))):
    name, _, only = text.partition("/")
    if text.endswith(".py"):
      name, only = text, ""
    module = registry.module("evals.suites", name, "--suite")
    suite = getattr(module, "SUITE", None)
    if not isinstance(suite, Suite):
      allowed = "a file with SUITE, a Suite"
      raise errors.UserError("--suite", name, allowed, "See evals/suites.")
    name, sets = pathlib.Path(name).stem, list(suite.sets)
    if only:
      sets = [errors.choice(f"set of --suite {name}", only, sets)]
    for key in sets:
      one = _Chosen(name, key, suite.sets[key], suite, whole=not only)
      if one.where in chosen:
        allowed, remedy = "each set once", f"{one.where} is there twice."
        raise errors.UserError("--suite", names, allowed, remedy)
      chosen[one.where] = one
  if not chosen:
    known = ", ".join(registry.names("evals.suites"))
    raise errors.UserError("--suite", names, f"one of {known}", "Name one.")
  return list(chosen.values())


def _place(where: str, one: Set, root: str) -> _Place:
  """Finds the folder of a set; its tars are all there."""
  errors.choice(f"task of {where}", one.task, METRICS)
  retrieval, thing = one.task == "retrieval", f"data of {where}"
  if one.wds and there(folder := f"{root}/{one.wds}", thing):
    kind = clip_benchmark.kind(folder, thing)
    wanted = "retrieval" if retrieval else "classification"
    if kind != wanted:
      remedy = "dataset_type.txt says so."
      raise errors.UserError(f"{thing}: {folder}", kind, wanted, remedy)
    tars = clip_benchmark.shards(folder, thing)
    section = {"name": "webdataset", "urls": "::".join(tars)}
    fields = {"caption": "none", "label": "cls"}
    section |= {"caption": "txt:lines"} if retrieval else fields
    return _Place(one.wds, section, folder)
  if one.tfds and there(f"{root}/{one.tfds.split('/')[0]}", thing):
    section = {"name": "tfds", "dataset": one.tfds, "data_dir": root}
    section |= {"split": one.split, "text": one.text if retrieval else "none"}
    section |= {} if retrieval else {"label": one.label}
    return _Place(f"{one.tfds}:{one.split}", section)
  wds = [f"{one.wds} of CLIP_benchmark"] if one.wds else []
  tfds = [f"{one.tfds} of TFDS"] if one.tfds else []
  remedy = "Put it there, or name the sets that are: --suite imagenet/val."
  allowed = f"a folder with {' or '.join(wds + tfds)}"
  raise errors.UserError(thing, root, allowed, remedy)


def _arguments(
  one: Set, place: _Place, source: Source, prompts: str
) -> dict[str, Any]:
  """The evaluator's arguments; names and labels fit."""
  if not len(source):
    allowed, remedy = "one record or more", "There is nothing to evaluate on."
    raise errors.UserError("source", "0 records", allowed, remedy)
  if one.task == "retrieval":
    return {"merge": False}
  if place.folder:
    names = class_names.read(f"{place.folder}/{CLASSES}", "classes")
    templates = class_names.read(f"{place.folder}/{PROMPTS}", "templates")
    _check_labels(_labels(place, source), names, complete=_local(place))
    return {"classes": names, "templates": templates}
  known = source.classes
  names = [one.rename(name) for name in known or ()]
  if one.names:
    names = _of_all(prompts, ALL_CLASSES, one.names, "classes")
  given: dict[str, Any] = {
    "templates": _of_all(prompts, ALL_PROMPTS, one.templates, "templates")
  }
  if len(names) != len(known or names) or not names:
    allowed = f"{len(known or ())}, as many as the data has classes"
    value, remedy = f"{len(names)} names", "Is it the list of another set?"
    raise errors.UserError("classes", value, allowed, remedy)
  given["classes"] = names
  if one.task == "zero_shot":
    given["match"] = "order" if known else "name"
    given["only"] = list(one.only)
    _check_labels(_labels(place, source), names, one.only, complete=False)
  return given


def _of_all(prompts: str, file: str, key: str, thing: str) -> list[str]:
  """What CLIP_benchmark's JSON files have for a data set."""
  path = f"{prompts}/{file}"
  if not there(path, thing):
    remedy = "--prompts names the folder of CLIP_benchmark's two JSON files."
    raise errors.UserError(thing, path, "a file", remedy)
  return class_names.read(f"{path}:{key}", thing)


def _local(place: _Place) -> bool:
  return bool(place.folder) and not urls.remote(place.folder)


def _labels(place: _Place, source: Source) -> list[int]:
  """Labels: all if they can be read without images, else some."""
  rows: Iterable[int] = np.linspace(0, len(source) - 1, _SAMPLED).astype(int)
  if _local(place):
    # The label in the image's place: no image is read.
    alone = {"image": "cls", "id": "key"}
    count, source = len(source), build_source(place.section | alone, "labels")
    if len(source) != count:
      allowed, remedy = f"one for each of {count} images", "Pack them anew."
      raise errors.UserError("source", f"{len(source)} .cls", allowed, remedy)
    rows = range(count)
  labels = []
  for i in rows:
    try:
      labels.append(int(source[int(i)].get("label", -1)))
    except (OSError, ValueError) as e:
      thing, allowed = f"source: {source.name(int(i))}", "a record with a label"
      raise errors.UserError(thing, "unreadable", allowed, f"{e}.") from e
  return labels


def _check_labels(
  labels: Sequence[int],
  names: Sequence[str],
  only: Sequence[int] = (),
  *,
  complete: bool,
) -> None:
  """Raises UserError unless there is a name for each label.

  And, if the labels are all of the data's, a label of the last name.
  """
  least, most = min(labels), max(labels)
  if not 0 <= least <= most < len(names) or (
    complete and most + 1 != len(names)
  ):
    allowed = f"as many as there are labels, {least} to {most}"
    value, remedy = f"{len(names)} names", "Is a line too many, or one missing?"
    raise errors.UserError("classes", value, allowed, remedy)
  if only and (wrong := {*labels} - {*only}):
    allowed = f"the {len(only)} classes of the suite"
    remedy = "Is it this data set?"
    raise errors.UserError("source: label", min(wrong), allowed, remedy)


def _digest(config: dict[str, Any], place: _Place, source: Source) -> str:
  """Covers prompts, names and data; not where the data lies."""
  tars = place.section.get("urls", "").split("::") if place.folder else []
  text = json.dumps([
    schema.plain(config),
    {k: v for k, v in place.section.items() if k not in ("urls", "data_dir")},
    fingerprint(source),
    [paths.version(tar, "--data") for tar in tars],
  ])  # fmt: skip
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
