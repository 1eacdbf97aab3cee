"""WebDataset tars, with random access: a sample is the files of one name.

000123.jpg  000123.txt  000123.json  000123.cls
"""

import collections
import dataclasses
import functools
import logging
from concurrent import futures
from typing import Any

import numpy as np

from big_contrastive.config import errors
from big_contrastive.data.files import (
  block_cache,
  class_names,
  fields,
  label_matching,
  paths,
  tar_blocks,
  tar_index,
  tar_samples,
  uids,
)
from big_contrastive.data.source import Source
from big_contrastive.data.transforms.decode import ENDINGS
from big_contrastive.storage.urls import remote

_URLS = "urls"
_BLOCK = 8  # MiB of a tar behind a URL that are read at once.
_TRIED = 200  # First samples that are searched for repeated images.


@dataclasses.dataclass
class Samples(Source):
  """Random access to the samples of tars; see `source`.

  Args:
    tars: their paths.
    shard: int32 [n], each sample's tar.
    number: int64 [n], each sample's index in its tar.
    start, size: int64 [n, m], offset and size of the image and of each of the
      other members; size is -1 for one that is missing.
    fields: ending of each other member.
    caption: (ending, path in its JSON) of each caption.
    label, id, uid_in: the same for these, or None; ("image", "") for an id by
      image.
    ids: int32 [n], if they are derived from the names; or None.
    first: the number of the first sample of each tar among all.
    classes: names by label.
    skipped: reason -> number of samples that were left out.
    folder: where indices are stored.
    block: bytes of a tar that are read at once, with the samples in them; 0
      reads each sample alone.
    cache: bytes of blocks to keep in memory.
  """

  tars: list[str]
  shard: np.ndarray
  number: np.ndarray
  start: np.ndarray
  size: np.ndarray
  fields: list[str]
  caption: list[tuple[str, str]]
  label: tuple[str, str] | None
  id: tuple[str, str] | None
  uid_in: tuple[str, str] | None
  ids: np.ndarray | None
  first: np.ndarray
  classes: list[str] | None = dataclasses.field()
  skipped: dict[str, int] = dataclasses.field()
  folder: str | None
  block: int = 0
  cache: int = 0

  def __post_init__(self):
    self._reader = paths.Reader(_URLS)
    if self.block:
      self._spans = tar_blocks.spans(
        self.shard, self.start, self.size, self.block
      )
      self.blocks = np.diff(self._spans.first)
      self._ends = self._spans.first[1:].tolist()
      bytes_of_one = self._spans.nbytes / len(self)
      self.window = max(1, int(self.cache / 2 / bytes_of_one))
      self._blocks = block_cache.BlockCache(self._span, len, self.cache)
    used = [*self.caption, self.label, self.id]
    self._json = any(where and where[1] for where in used)

  def __len__(self) -> int:
    return len(self.shard)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns "image" (encoded), "text", "id", and maybe "label"."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    image, *others = self._read(index)
    members = dict(zip(self.fields, others))
    parse = fields.parse_json
    if self._json:  # The same text for several fields is parsed once.
      parse = functools.cache(parse)
    texts = []
    for where in self.caption:
      value = tar_samples.value(members.get(where[0]), where[1], parse)
      if where == self.label and self.classes and value is not None:
        value = self.classes[class_names.label(value, self.classes)]
      texts += fields.caption(value)
    record = {"image": image, "id": self._id(index, image, members, parse)}
    if self.caption:
      record["text"] = fields.one_or_several(texts)
    if self.label is not None:
      kind, field = self.label
      value = tar_samples.value(members.get(kind), field, parse)
      record["label"] = class_names.label(value, self.classes)
    return record

  def _id(
    self, index: int, image: bytes, members: dict[str, bytes | None], parse: Any
  ) -> int:
    if self.ids is not None:
      return int(self.ids[index])
    if self.id is None:
      return fields.number(
        int(self.first[self.shard[index]] + self.number[index])
      )
    kind, field = self.id
    if kind == "image":
      return fields.picture(image)
    return fields.number(tar_samples.value(members.get(kind), field, parse))

  def _span(self, block: int) -> bytes:
    """The bytes of a block."""
    path = self.tars[self.shard[self._spans.first[block]]]
    start, stop = self._spans.start[block], self._spans.stop[block]
    return self._reader.read(path, int(start), int(stop))

  def _of_block(self, index: int) -> list[bytes | None]:
    """The members' bytes, of the block that they are in."""
    block, _ = fields.place(index, self._ends)
    data, first = self._blocks[block], int(self._spans.start[block])
    starts = (self.start[index] - first).tolist()
    sizes = self.size[index].tolist()
    return [
      data[start : start + size] if size >= 0 else None
      for start, size in zip(starts, sizes)
    ]

  def _read(self, index: int) -> list[bytes | None]:
    """The members' bytes; members near each other take a single read."""
    if self.block:
      return self._of_block(index)
    path = self.tars[self.shard[index]]
    # Python's numbers are faster than NumPy's, one at a time.
    starts, sizes = self.start[index].tolist(), self.size[index].tolist()

    def read(start: int, stop: int) -> bytes:
      return self._reader.read(path, start, stop)

    return tar_blocks.members(read, starts, sizes)

  def key(self, index: int) -> str:
    """Returns the sample's name without its tar: "000123"."""
    path = self.tars[self.shard[index]]
    return _keys(path, self.folder)[self.number[index]]

  def name(self, index: int) -> str:
    """Returns a name by which a person can find it: "a.tar:000123"."""
    return f"{self.tars[self.shard[index]]}:{self.key(index)}"

  def uid(self, index: int) -> str | None:
    """Returns the sample's uid; None if the source was not told of any."""
    if self.uid_in is None:
      return None
    kind, field = self.uid_in
    at, data = 1 + self.fields.index(kind), None
    start, size = int(self.start[index, at]), int(self.size[index, at])
    if self.block:
      data = self._of_block(index)[at]
    elif size >= 0:
      path = self.tars[self.shard[index]]
      data = self._reader.read(path, start, start + size)
    return uids.checked(tar_samples.value(data, field, fields.parse_json))

  def outline(self) -> list[bytes]:
    """Returns where the members lie, in order, for a digest."""
    return [a.tobytes() for a in (self.shard, self.start, self.size)]

  def first_images(self) -> list[bytes]:
    """Returns those of the first images whose neighbor has the same size.

    An image that is repeated in the next sample is among them.
    """
    sizes = self.size[:_TRIED, 0]
    same = np.flatnonzero(sizes[1:] == sizes[:-1])
    near = sorted({*same.tolist(), *(same + 1).tolist()})
    return [self._read(i)[0] for i in near]


@functools.lru_cache(maxsize=8)
def _keys(path: str, folder: str | None) -> list[str]:
  return tar_index.load(path, _URLS, folder).keys


def source(
  split: str | None = None,
  *,
  urls: str,
  image: str = "|".join(ENDINGS),
  caption: str | None = None,
  label: str | None = None,
  id: str | None = None,
  uid: str | None = None,
  classes: str | None = None,
  index: str | None = None,
  block_mb: int | None = None,
  cache_mb: int = 1024,
) -> Samples:
  """Returns the samples of tars, in the order of their names.

  Each tar is indexed once, which reads its headers. The index is stored beside
  it, or in ~/.cache/big_contrastive/tars if that folder is not writable, and
  is rebuilt when the tar's size or time changes.

  Args:
    split: replaces "{split}" in urls.
    urls: paths or URLs (gs://, s3:// with fsspec's library for it), with
      braces "{0000..0123}" and globs; several with "," or "::" between them.
    image: endings of images, separated by "|"; the first that exists is taken.
      By default all that can be decoded.
    caption: "txt", "txt:lines" (one a line) or "json:FIELD" (FIELD may hold a
      list, and be "outer/inner"); several are separated by "|". By default txt
      if there is one, else a JSON field like "caption", else the name of the
      label's class. "none" for only images.
    label: "cls" or "json:FIELD": a number, or one of classes.
    id: "key" (the sample's name), "image" (its bytes) or "json:FIELD": samples
      with equal values are not each other's negatives. By default all differ;
      but if neighbors among the first samples have the same image (there is
      one sample per caption), the default is "image".
    uid: "json:FIELD", by which a filter.keep of DataComp's kind names samples.
    classes: names by label, as class_names.read takes them.
    index: a folder for the indices.
    block_mb: how much of a tar is read at once; the order of training then
      stays for a while within as many blocks as fit into half of cache_mb. 0
      reads each sample alone, in any order. By default 8 of a URL, 0 of a file.
    cache_mb: memory for blocks, in each process that reads.

  Raises:
    UserError: for a file that is missing or not a tar, and for tars without
      captions.
  """
  tars = paths.find(urls.replace("{split}", split or ""), _URLS)
  if block_mb is None:
    block_mb = _BLOCK if any(map(remote, tars)) else 0
  errors.at_least("block_mb", block_mb, 0)
  errors.at_least("cache_mb", cache_mb, 1)
  with futures.ThreadPoolExecutor(8) as pool:
    indices = list(pool.map(lambda p: tar_index.load(p, _URLS, index), tars))
  names = label_matching.of_labels(classes, "classes") if classes else None
  kinds = {k: None for i in indices for k in i.kinds}
  captions = tar_samples.captions(caption, label, kinds, tars, indices, names)
  extra_fields = [
    tar_samples.field(text, kinds) for text in (label, id) if text
  ]
  uid_in = tar_samples.uid(uid, kinds) if uid else None
  extra_fields += [uid_in] * bool(uid_in)
  members = dict.fromkeys(
    k for k, _ in (*captions, *extra_fields) if k not in tar_samples.NO_MEMBERS
  )
  choices = [image.lower().split("|"), *([k] for k in members)]
  skipped: collections.Counter[str] = collections.Counter()
  columns = []
  for i, (path, one) in enumerate(zip(tars, indices, strict=True)):
    skipped.update(tar_samples.told(path, one, choices))
    columns.append(
      tar_samples.rows(i, one, choices, {k for k, _ in captions}, skipped)
    )
  shard, number, start, size = map(np.concatenate, zip(*columns, strict=True))
  if not len(shard):
    listed = ", ".join(sorted(kinds)) or "nothing"
    allowed = f"tars with images ({image}) and captions"
    remedy = f"The endings in them are: {listed}. Left out: {dict(skipped)}."
    raise errors.UserError(_URLS, urls, allowed, remedy)
  samples = Samples(
    tars, shard, number, start, size, list(members), captions,
    tar_samples.field(label, kinds) if label else None,
    tar_samples.field(id, kinds) if id else None,
    uid_in,
    tar_samples.ids(indices, shard, number) if id == "key" else None,
    np.cumsum([0, *(len(one.keys) for one in indices)]), names,
    dict(skipped), index, block_mb * 2**20, cache_mb * 2**20,
  )  # fmt: skip
  if id is None and fields.repeat(samples.first_images()):
    samples.id = ("image", "")
    logging.warning("%s: %s", urls, fields.REPEATED)
  return samples
