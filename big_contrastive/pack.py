"""Writes any source as WebDataset tars or as Parquet.

  python -m big_contrastive.pack --data folder:photos --out packed/photos.tar
  python -m big_contrastive.pack --data table:captions.tsv,images=photos \\
    --out packed/train.parquet --per_file 1000

--data is SOURCE:VALUE,KEY=VALUE,...: a file of data/sources and its arguments.
--out NAME.tar writes NAME-00000.tar, NAME-00001.tar and so on, with the bytes
of the images unchanged, and beside each its index. Read them as

  wds:NAME-*.tar,caption=json:captions,id=json:id,label=json:label
  parquet:NAME-*.parquet,id=id,label=label

(without label where the source has none; caption=none for images alone). With
--keep LIST only the records of a list are, such as big_contrastive.keep writes.
Records that can't be read are left out, counted and named. If they are more
than 20 and more than one in a hundred, that is an error and no file is kept.
"""

if __name__ == "__main__":  # Before what takes seconds to import.
  from big_contrastive.parallel import signals

  signals.end_at_once()

import contextlib
import glob
import io
import json
import pathlib
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from big_contrastive.config import errors
from big_contrastive.data import bad_records, filters
from big_contrastive.data.build import build_source
from big_contrastive.data.files import tar_index
from big_contrastive.data.source import Source
from big_contrastive.data.transforms import decode
from big_contrastive.factory import cli
from big_contrastive.parallel import signals
from big_contrastive.storage import atomic, paths, urls
from big_contrastive.storage.paths import Path

_GROUP = 100  # Rows in a row group: reading one row reads its group.


def run() -> None:
  """Parses the flags and writes the files."""
  parser = cli.parser(__doc__)
  parser.add_argument("--data", required=True, help="SOURCE:VALUE,...")
  parser.add_argument("--out", required=True, help="NAME.tar or NAME.parquet")
  parser.add_argument("--per_file", type=int, default=10_000)
  parser.add_argument("--keep", help="a list of records, as filter.keep")
  flags = parser.parse_args()
  source = build_source(flags.data, "--data")
  if flags.keep is not None:
    try:
      source = filters.apply(source, keep=flags.keep)
    except errors.UserError as e:
      raise e.replaced("filter.keep", "--keep") from e
  pack(source, flags.out, flags.per_file)


def pack(source: Source, out: str, per_file: int) -> list[str]:
  """Returns the files written, all of them or none.

  Args:
    source: random access to records.
    out: a path that ends in .tar or .parquet; also gs://... or s3://...
    per_file: records in each file.

  Raises:
    UserError: for another extension, existing files, or too many bad records.
  """
  path = _free(out)
  errors.at_least("--per_file", per_file, 1)
  away = urls.remote(out)
  if not away:
    path.parent.mkdir(parents=True, exist_ok=True)
  records, files = _Good(source), []

  def remove(*_: object) -> None:
    for file in files:
      with contextlib.suppress(FileNotFoundError):
        file.unlink()

  write = _parquet if path.suffix == ".parquet" else _tar
  try:
    with signals.removing(remove):
      while not records.done:
        name = path.with_name(f"{path.stem}-{len(files):05}{path.suffix}")
        files.append(name.with_name(name.name + ".new"))
        if away:
          _send(write, files[-1], records.take(per_file), source)
        else:
          write(files[-1], records.take(per_file), source)
      records.check()
      signals.end_no_more()  # All files get their names.
  except BaseException:
    remove()
    raise
  for file in files:
    atomic.rename(file, file.with_suffix(""))
  names = [str(file.with_suffix("")) for file in files]
  if path.suffix == ".tar" and not away:
    for name in names:  # Its index beside it, to be copied with it.
      tar_index.load(name, "--out")
  left = f", {sum(records.bad.values())} left out {records.bad}"
  print(
    f"{records.good} records in {len(names)} files{left * bool(records.bad)}",
    file=sys.stderr,
  )
  return names


def _send(
  write: Callable[[pathlib.Path, Iterator, Source], None],
  target: Path,
  records: Iterator,
  source: Source,
) -> None:
  """Writes a file here, and copies it, and a tar's index, to a bucket."""
  name = target.with_suffix("")
  with tempfile.TemporaryDirectory() as folder:
    here = pathlib.Path(folder) / name.name
    write(here, records, source)
    if here.suffix == ".tar":
      tar_index.load(str(here), "--out")
    for file in pathlib.Path(folder).iterdir():  # The file, and its index.
      to = target if file == here else name.with_name(file.name)
      atomic.send(file, to)


def _free(out: str) -> Path:
  """The path of `out`, after checking that none of its files exist."""
  path = paths.at(out, "--out")
  if path.suffix not in (".tar", ".parquet"):
    allowed = "a name that ends in .tar or .parquet"
    raise errors.UserError("--out", out, allowed, "Add the extension.")
  pattern = f"{glob.escape(path.stem)}-?????{path.suffix}"
  with urls.reached("--out", out):
    there = sorted(path.parent.glob(pattern))
  if there:
    remedy = "Remove them or choose another name."
    raise errors.UserError("--out", str(there[0]), "a new name", remedy)
  return path


class _Good:
  """Iterates over the records that can be read, and counts the others."""

  def __init__(self, source: Source):
    self.source, self.at, self.good = source, 0, 0
    self.bad: dict[str, int] = {}

  @property
  def done(self) -> bool:
    return self.at >= len(self.source)

  def take(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields up to `count` pairs (number, record) with "text" a list."""
    while count and not self.done:
      at, self.at = self.at, self.at + 1
      try:
        record = self.source[at]
        if (texts := record.get("text")) is not None:
          record["text"] = [texts] if isinstance(texts, str) else list(texts)
        record["image"] = _bytes(record["image"])
        if (uid := self.source.uid(at)) is not None:
          record["uid"] = uid
      except (OSError, ValueError) as e:
        kind, name = bad_records.kind(e), self.source.name(at)
        self.bad[kind] = self.bad.get(kind, 0) + 1
        print(f"left out ({kind}): {name}: {e}", file=sys.stderr)
        continue
      count, self.good = count - 1, self.good + 1
      yield at, record

  def check(self) -> None:
    count = sum(self.bad.values())
    if not self.good or count > max(20, self.at / 100):
      raise errors.UserError(
        f"bad records among {self.at} of --data", count,
        "at most 20, or one in a hundred, and a record that is not bad",
        f"By kind: {self.bad}. Fix the data.",
      )  # fmt: skip


def _bytes(image: Any) -> bytes:
  if isinstance(image, bytes):
    return image
  file = io.BytesIO()
  decode.decode(image).save(file, "PNG")
  return file.getvalue()


def _ending(image: bytes) -> str:
  """The file extension for an encoded image."""
  for start, ending in _STARTS.items():
    if image.startswith(start):
      return ending
  return {b"WEBP": "webp", b"avif": "avif"}.get(image[8:12], "jpg")


_STARTS = {
  b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp",
  b"II*\0": "tif", b"MM\0*": "tif", b"P5": "pgm", b"P6": "ppm",
}  # fmt: skip


def _tar(path: pathlib.Path, records: Iterator, source: Source) -> None:
  with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
    for number, record in records:
      names = {"captions": "text", "id": "id", "label": "label", "uid": "uid"}
      about = {k: record[v] for k, v in names.items() if v in record}
      text = json.dumps(about, ensure_ascii=False).encode()
      for kind, data in (
        (_ending(record["image"]), record["image"]),
        ("json", text),
      ):
        member = tarfile.TarInfo(f"{number:09}.{kind}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _parquet(path: pathlib.Path, records: Iterator, source: Source) -> None:
  rows = [record for _, record in records]
  numbers = [n for n in ("id", "label") if any(n in row for row in rows)]
  images = [{"bytes": row["image"], "path": None} for row in rows]
  struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
  kind = pa.list_(pa.string())
  texts = {}
  if any("text" in row for row in rows):  # Otherwise there are only images.
    texts["captions"] = pa.array([row.get("text") for row in rows], kind)
  columns = {
    "image": pa.array(images, struct),
    **texts,
    **{n: pa.array([r.get(n) for r in rows], pa.int64()) for n in numbers},
  }
  # Hugging Face's `datasets` learns from this which column is an image.
  features: dict[str, Any] = {"image": {"_type": "Image"}}
  string = {"dtype": "string", "_type": "Value"}
  features |= {k: {"feature": string, "_type": "List"} for k in texts}
  features |= {n: {"dtype": "int64", "_type": "Value"} for n in numbers}
  if any("uid" in row for row in rows):
    columns["uid"] = pa.array([row.get("uid") for row in rows], pa.string())
    features["uid"] = string
  if "label" in numbers and source.classes:
    features["label"] = {"names": source.classes, "_type": "ClassLabel"}
  note = json.dumps({"info": {"features": features}})
  table = pa.table(columns).replace_schema_metadata({"huggingface": note})
  pq.write_table(table, path, row_group_size=_GROUP, compression="none")


if __name__ == "__main__":
  cli.main(run)
