"""Any TFDS data set that was prepared in array_record format.

Read by tfds.data_source, without TensorFlow and without the code that
prepared it.
"""

import contextlib
import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from big_contrastive.config import errors
from big_contrastive.data import bad_records
from big_contrastive.data.files import class_names, fields
from big_contrastive.data.files.array_records import ArrayRecords
from big_contrastive.data.source import Source

_FORMAT = tfds.core.FileFormat.ARRAY_RECORD
_INFO = "dataset_info.json"
_AS_STORED = (
  tfds.features.Image,
  tfds.features.Text,
  tfds.features.ClassLabel,
)


@dataclasses.dataclass
class Records(Source):
  """Random access to one split; opened anew in every process that uses it.

  Args:
    folder: of the prepared version, with dataset_info.json.
    split: a split or a slice of one.
    image, text, label, id: features, "outer/inner" if nested; None for no
      feature, except for image.
    classes: class names by label.
    text_names: names by number where the text feature holds class numbers.
  """

  folder: str
  split: str
  image: str
  text: str | None
  label: str | None
  id: str | None
  classes: list[str] | None = None
  text_names: list[str] | None = None

  # Two threads may both open it at first, which does no harm.
  @functools.cached_property
  def _opened(self) -> tuple[Any, Callable[[bytes], dict[str, Any]]]:
    """The serialized records, and a function that parses the features."""
    builder = tfds.builder_from_directory(self.folder)
    # The data set may also exist in other formats.
    builder.as_data_source(self.split, file_format=_FORMAT)
    data = ArrayRecords(builder.info.splits[self.split].file_instructions)
    paths = {self.image, self.text, self.label, self.id} - {None}
    leaves = _leaves(builder.info.features)
    if all(_single(builder.info.features, path, leaves) for path in paths):
      return data, functools.partial(_values, paths=sorted(paths))
    return data, self._parser(builder.info.features, paths)

  def _parser(
    self, features: Any, paths: set[str]
  ) -> Callable[[bytes], dict[str, Any]]:
    """TFDS's own parser: for features of any kind."""
    outer = {path.split("/")[0] for path in paths}
    needed = tfds.features.FeaturesDict({k: features[k] for k in sorted(outer)})
    decoders = {}
    if isinstance(_leaves(features)[self.image], tfds.features.Image):
      decoders = tfds.decode.SkipDecoding()
      for key in reversed(self.image.split("/")):
        decoders = {key: decoders}

    def parse(record: bytes) -> dict[str, Any]:
      values = needed.deserialize_example_np(record, decoders=decoders)
      return {path: _at(values, path) for path in paths}

    return parse

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in vars(self).items() if k != "_opened"}

  def __len__(self) -> int:
    return len(self._opened[0])

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns "image" (encoded, or uint8), "text", "id", and maybe "label"."""
    data, parse = self._opened
    if not 0 <= index < len(data):
      raise IndexError(index)
    try:
      values = parse(data[index])
    except Exception as e:  # Broken bytes: C++ and protobuf raise many kinds.
      raise bad_records.BadRecord("read", f"{type(e).__name__}: {e}") from e
    id = int(index) if self.id is None else fields.number(values[self.id])
    out = {"image": values[self.image], "id": id}
    if self.text is not None:
      out["text"] = _captions(values[self.text], self.text_names)
    if self.label is not None:
      value = values[self.label]
      if np.ndim(value):
        out["labels"] = [class_names.label(v, self.classes) for v in value]
      else:  # TFDS writes an unknown label as -1.
        none = fields.whole(value) == -1
        out["label"] = -1 if none else class_names.label(value, self.classes)
    return out

  def outline(self) -> list[str]:
    """Returns the number of records, for a digest."""
    data, _ = self._opened
    return [str(len(data))]


def source(
  split: str,
  *,
  dataset: str,
  data_dir: str | None = None,
  image: str = "image",
  text: str = "text",
  label: str = "label",
  id: str | None = None,
) -> Records:
  """Returns a split of a prepared data set.

  Args:
    split: "train", or a slice like "train[:90%]".
    dataset: "name", "name/config", "name/config:version", or a folder that
      contains a dataset_info.json. The newest version if none is named.
    data_dir: where TFDS prepared it; None for TFDS's default.
    image, text: features; "captions/text" is the text in captions. A list of
      texts is several captions. Without a text feature the text is the name
      of the label. text="none" is for only images.
    label: a feature, maybe a list; the default "label" need not exist.
    id: a feature that is equal for the same pairs; None: all pairs differ.

  Raises:
    UserError: for a data set, split or feature that doesn't exist, and for
      another format than array_record.
  """
  folder = _find(dataset, data_dir)
  with _clear_errors(folder):
    info = tfds.builder_from_directory(folder).info
    leaves = _leaves(info.features)
    names = {k: _names(feature) for k, feature in leaves.items()}
  if _FORMAT not in info.available_file_formats():
    actual = f"{dataset} in {info.file_format.value} format"
    remedy = f"""Run tfds convert_format --dataset_version_dir={folder}
      --out_file_format=array_record on a machine with TensorFlow."""
    raise errors.UserError("dataset", actual, "array_record format", remedy)
  _check_split(info.splits, split)
  has_label = label != "label" or label in leaves
  if text == "text" and text not in leaves and names.get(label):
    text = label
  errors.choice("image", image, leaves)
  texts = [k for k in leaves if names[k] or leaves[k].np_dtype == np.object_]
  alone = text == fields.NO_CAPTION
  if not alone:
    errors.choice("text", text, texts)
  if has_label:
    errors.choice("label", label, leaves)
  if id is not None:
    errors.choice("id", id, leaves)
  records = Records(
    str(folder),
    split,
    image,
    None if alone else text,
    label if has_label else None,
    id,
    classes=names.get(label),
    text_names=None if alone else names[text],
  )
  with _clear_errors(folder):
    len(records)  # Opens the files.
  return records


@contextlib.contextmanager
def _clear_errors(folder: Any) -> Iterator[None]:
  """Turns what TFDS raises on a damaged data set into one clear error."""
  try:
    yield
  except Exception as e:
    allowed = "a complete data set that TFDS prepared"
    remedy = f"{type(e).__name__}: {str(e)[:300]}."
    raise errors.UserError("dataset", str(folder), allowed, remedy) from e


def _find(dataset: str, data_dir: str | None) -> Any:
  """Returns the folder of the requested or newest version."""
  root = tfds.core.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  name, _, version = dataset.partition(":")
  folder = root / name  # Just `name` if that is absolute.
  if (folder / _INFO).exists():
    return folder
  versions = [p.parent for d in ("*/", "*/*/") for p in folder.glob(d + _INFO)]
  versions = [
    v
    for v in versions
    if fnmatch.fnmatch(v.name, version or "*")
    and tfds.core.Version.is_valid(v.name)  # Not an unfinished one.
  ]
  if not versions:
    depths = ("*/*/", "*/*/*/")
    there = {str(p.parent) for d in depths for p in root.glob(d + _INFO)}
    listed = ", ".join(sorted(there)) or "nothing"
    allowed = f"what TFDS prepared in {root}: {listed}"
    remedy = "Set data_dir, or prepare it there in array_record format."
    raise errors.UserError("dataset", dataset, allowed, remedy)
  if len(configs := sorted({v.parent.name for v in versions})) > 1:
    listed = "one of " + ", ".join(f"{name}/{c}" for c in configs)
    raise errors.UserError("dataset", dataset, listed, "Say which config.")
  return max(versions, key=lambda v: tfds.core.Version(v.name))


def _check_split(splits: Any, split: str) -> None:
  allowed = (
    f"one of {', '.join(splits)} or a part like {next(iter(splits))}[:90%]"
  )
  try:
    size = splits[split].num_examples
  except (KeyError, ValueError) as e:
    remedy = errors.closest(split, splits)
    raise errors.UserError("split", split, allowed, remedy) from e
  if not size:
    raise errors.UserError("split", split, allowed, "It has no examples.")


def _leaves(feature: Any, path: str = "") -> dict[str, Any]:
  """Returns the features by path: "image", "captions/text"."""
  inner = getattr(feature, "feature", feature)  # The element of a sequence.
  if not isinstance(inner, tfds.features.FeaturesDict):
    return {path: feature}
  leaves = {}
  for key, value in inner.items():
    leaves |= _leaves(value, f"{path}/{key}" if path else key)
  return leaves


def _names(feature: Any) -> list[str] | None:
  """Returns a class feature's names; None if they are just its numbers."""
  feature = getattr(feature, "feature", feature)
  if not isinstance(feature, tfds.features.ClassLabel):
    return None
  numbers = [str(i) for i in range(feature.num_classes or 0)]
  return None if feature.names == numbers else feature.names


def _single(features: Any, path: str, leaves: dict[str, Any]) -> bool:
  """Whether a feature is a single value, stored unchanged in its record."""
  outer = features
  for key in path.split("/")[:-1]:
    outer = outer[key]
    if not isinstance(outer, tfds.features.FeaturesDict):
      return False  # A sequence.
  leaf = leaves[path]
  integer = type(leaf) is tfds.features.Scalar and leaf.np_dtype.kind == "i"
  return integer or type(leaf) in _AS_STORED


def _values(record: bytes, paths: list[str]) -> dict[str, Any]:
  """The values of features, in a tenth of the time of TFDS's parser."""
  features = tf_example_pb2.Example.FromString(record).features.feature
  values = {}
  for path in paths:
    feature = features[path]
    kind = feature.WhichOneof("kind")
    if kind is None:
      raise ValueError(f"no {path}")
    (values[path],) = getattr(feature, kind).value
  return values


def _at(record: dict[str, Any], path: str) -> Any:
  for key in path.split("/"):
    record = record[key]
  return record


def _captions(value: Any, names: list[str] | None) -> str | list[str]:
  """Returns a text, or a list of texts where the record holds several."""
  if names is None:
    captions = fields.caption(value)
  else:
    several = value if isinstance(value, list | np.ndarray) else [value]
    known = [v for v in several if fields.whole(v) != -1]
    captions = [names[class_names.label(v, names)] for v in known]
    if not captions:
      message = "a record without a label to take its caption from"
      raise bad_records.BadRecord("caption", message)
  first = fields.one_or_several(captions)
  return captions if isinstance(value, list | np.ndarray) else first
