"""Speed of the input: JPEG 256 -> random 224 x 224 -> batches, on the host.

  python -m benchmarks.input speed --folder /tmp/input    # against others
  python -m benchmarks.input stages --folder /tmp/input   # where time goes
  python -m benchmarks.input large                        # scaled decoding

`speed` runs each loader in a process of its own, several times, in turn, and
prints medians; ours by threads, and by as many worker processes. The others,
tf.data and OpenCLIP's WebDataset loader, are run where tensorflow-cpu, and
open_clip_torch, "webdataset<=0.2.86", pandas, are installed: no requirement of
ours. All do the same: read, decode, cut a random 224 x 224, make a caption 16
numbers, stack uint8 batches of 128. The images are made: noise with the
spectrum of photographs.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import time

import numpy as np
import PIL.Image

BATCH, SIDE, LENGTH, SHARDS = 128, 224, 16, 8
SOURCES = ("tfds", "tar", "parquet", "parquet uncached")
OURS = tuple(f"{s}, {by}" for by in ("processes", "threads") for s in SOURCES)
OTHERS = ("tf.data", "open_clip")
_KEPT: list = []


def photo(side, seed, quality=90):
  """A JPEG of about 1.5 bits a pixel: 1/f noise, smoother in its colors."""
  rng = np.random.default_rng(seed)
  f = np.fft.fftfreq(side)
  steepness = np.hypot(*np.meshgrid(f, f))
  steepness[0, 0] = 1.0
  light, *colors = (rng.normal(size=(3, side, side))).astype(np.float32)

  def noise(values, power):
    wave = np.fft.ifft2(np.fft.fft2(values) / steepness**power).real
    return (wave - wave.mean()) / wave.std()

  base = 128 + 50 * noise(light, 1.25)
  bands = [base + 15 * noise(c, 1.6) for c in (*colors, colors[0] * -1)]
  pixels = np.stack(bands, -1).clip(0, 255).astype(np.uint8)
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality)
  return file.getvalue()


def prepare(folder, count):
  """Writes the same pairs in all formats, once."""
  if (folder / "done").exists():
    return
  folder.mkdir(parents=True, exist_ok=True)
  different = [photo(256, seed) for seed in range(min(count, 250))]
  images = [different[i % len(different)] for i in range(count)]
  texts = [f"caption {i}" for i in range(count)]
  for k in range(SHARDS):
    with tarfile.open(folder / f"s-{k}.tar", "w") as tar:
      for i in range(k * count // SHARDS, (k + 1) * count // SHARDS):
        for kind, data in (("jpg", images[i]), ("txt", texts[i].encode())):
          member = tarfile.TarInfo(f"{i:06}.{kind}")
          member.size = len(data)
          tar.addfile(member, io.BytesIO(data))
  import pyarrow as pa
  import pyarrow.parquet as pq

  table = pa.table({"image": images, "caption": texts})
  pq.write_table(table, folder / "a.parquet", row_group_size=100)
  _write_tfds(folder, images, texts)
  (folder / "done").touch()


def _write_tfds(folder, images, texts):
  import tensorflow_datasets as tfds

  class Photos(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "text": tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        yield i, {"image": image, "text": text}

  builder = Photos(data_dir=folder / "tfds", file_format="array_record")
  builder.download_and_prepare()


def specs(folder):
  return {
    "tfds": f"tfds:photos,data_dir={folder}/tfds,split=train",
    "tar": f"wds:{folder}/s-*.tar",
    "parquet": f"parquet:{folder}/a.parquet",
    # Each row group is read again in every epoch, as of larger files.
    "parquet uncached": f"parquet:{folder}/a.parquet,cache_mb=64",
  }


def ours(name, folder, count):
  """Endless batches, as `loop.fit` gets them, made by so many."""
  from big_contrastive.data.build import build_source
  from big_contrastive.data.loader import examples
  from big_contrastive.data.loader import training as training_loader
  from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
  from big_contrastive.data.transforms import operations

  of, by = name.split(", ")
  source = build_source(specs(folder)[of], "--data")
  ops = operations.parse([("random_crop", {"size": SIDE})], "ops")
  made = examples.Examples(source, ops, build_tokenizer("bytes", LENGTH))
  rows = np.arange(BATCH)
  kwargs = {"threads": count}
  if by == "processes":
    kwargs = {"threads": 1, "workers": count}
  # Threads, too, use memory again, as where devices are not the host.
  data = training_loader.Training(
    made, BATCH, rows, seed=0, reuse=True, **kwargs
  )
  # With workers, what is put on a CPU is copied first: nothing is put.
  put = None if by == "processes" else lambda batch: batch
  return (batch["image"] for batch in data.batches(0, 10**6, put))


def tf_data(folder, threads):
  """The same from TFRecords, decoding nothing but what is cut out."""
  import tensorflow as tf

  path = str(folder / "photos.tfrecord")
  if not os.path.exists(path):
    with tf.io.TFRecordWriter(path + ".new") as writer:
      for shard in sorted(folder.glob("s-*.tar")):
        with tarfile.open(shard) as tar:
          members = [tar.extractfile(m).read() for m in tar]
        for image, text in zip(members[::2], members[1::2], strict=True):
          features = {
            k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v]))
            for k, v in (("image", image), ("text", text))
          }
          example = tf.train.Example(
            features=tf.train.Features(feature=features)
          )
          writer.write(example.SerializeToString())
    os.replace(path + ".new", path)
  kinds = {k: tf.io.FixedLenFeature([], tf.string) for k in ("image", "text")}

  def one(record):
    record = tf.io.parse_single_example(record, kinds)
    h, w, _ = tf.unstack(tf.io.extract_jpeg_shape(record["image"]))
    top = tf.random.uniform([], 0, h - SIDE + 1, tf.int32)
    left = tf.random.uniform([], 0, w - SIDE + 1, tf.int32)
    image = tf.io.decode_and_crop_jpeg(
      record["image"], [top, left, SIDE, SIDE], 3
    )
    text = tf.io.decode_raw(record["text"], tf.uint8, fixed_length=LENGTH)
    return image, tf.cast(text, tf.int32)

  data = tf.data.TFRecordDataset(path).repeat().shuffle(1000, seed=0)
  data = data.map(one, tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
  return (image for image, _ in data.as_numpy_iterator())


def stand_in_torchvision():
  """Lets it be imported where its operators are not those of this torch."""
  import torch

  try:
    import torchvision  # noqa: F401
  except RuntimeError:  # A build for GPUs without its operators.
    library = torch.library.Library("torchvision", "DEF")
    _KEPT.append(library)  # A declaration lasts as long as its object.
    for op in ("nms", "qnms"):
      library.define(f"{op}(Tensor dets, Tensor scores, float t) -> Tensor")
    for module in [m for m in sys.modules if m.startswith("torchvision")]:
      del sys.modules[module]


def open_clip(folder, workers):
  """Its own loader of training, worker processes and all."""
  import types

  import torch

  stand_in_torchvision()
  from open_clip_train import data

  rng = np.random.default_rng()

  def preprocess(image):
    left, top = (rng.integers(n - SIDE + 1) for n in image.size)
    part = image.crop((left, top, left + SIDE, top + SIDE))
    return torch.from_numpy(np.array(part))

  def tokenize(text):
    numbers = np.frombuffer(text.encode()[:LENGTH], np.uint8)
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, : len(numbers)] = numbers
    return torch.from_numpy(padded)

  args = types.SimpleNamespace(
    train_data=f"{folder}/s-{{0..{SHARDS - 1}}}.tar", seed=0, workers=workers,
    train_num_samples=10**5, train_data_upsampling_factors=None,
    dataset_resampled=True, batch_size=BATCH, world_size=1,
  )  # fmt: skip
  loader = data.get_wds_dataset(args, preprocess, True, tokenizer=tokenize)
  return (images.numpy() for images, _ in loader.dataloader)


def cpu_seconds():
  """Seconds that this process and all below it have used of a core."""
  parents, used = {}, {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:  # It has ended.
      continue
    pid = int(path.parent.name)
    parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:13]))
  own = {os.getpid()}
  while more := {p for p, above in parents.items() if above in own} - own:
    own |= more
  return sum(used[p] for p in own if p in used) / os.sysconf("SC_CLK_TCK")


def measure(name, folder, threads, seconds):
  """Prints images a second, and CPU time an image, of one loader, once warm."""
  if name in OURS:
    batches = ours(name, folder, threads)
  elif name == "tf.data":
    batches = tf_data(folder, threads)
  else:
    batches = open_clip(folder, threads)
  for _ in range(4000 // BATCH):  # An epoch of the usual size.
    assert next(batches).shape == (BATCH, SIDE, SIDE, 3)
  began, cpu, count = time.perf_counter(), cpu_seconds(), 0
  while time.perf_counter() - began < seconds:
    count += len(next(batches))
  wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu
  print(json.dumps([count / wall, 1e3 * cpu / count]), flush=True)
  os._exit(0)  # Other people's workers and threads need not be waited for.


def speed(flags):
  """The table of images a second."""
  names = [*OURS, *OTHERS]
  found = {name: [] for name in names}
  for i in range(flags.rounds):
    for name in [*names[i % len(names) :], *names[: i % len(names)]]:
      python = sys.executable if name in OURS else flags.others
      run = subprocess.run(
        [python, "-m", "benchmarks.input", "one", "--name", name, "--folder",
         flags.folder, "--threads", str(flags.threads), "--seconds",
         str(flags.seconds)], capture_output=True, text=True, check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
      )  # fmt: skip
      if run.returncode:
        print(f"{name}: {run.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        continue
      found[name].append(json.loads(run.stdout.splitlines()[-1]))
  medians = {k: np.median(v, 0) for k, v in found.items() if v}
  others = [medians[k] for k in OTHERS if k in medians]
  rate, cpu = np.max(others, 0)[0], np.min(others, 0)[1]
  print(
    "| loader | images/s | of the faster other | CPU ms an image "
    "| of the cheaper other |\n|---|---|---|---|---|"
  )
  for name, (own, spent) in medians.items():
    name = f"ours, {name}" if name in OURS else name
    print(f"| {name} | {own:,.0f} | {own / rate:.2f} | {spent:.3f} | "
          f"{spent / cpu:.2f} |")  # fmt: skip


def stages(flags):
  """The table of CPU milliseconds an image, by stage, on one thread."""
  import jax

  from big_contrastive.data.build import build_source
  from big_contrastive.data.loader import shuffle
  from big_contrastive.data.tokenizers.tokenizer import build_tokenizer
  from big_contrastive.data.transforms import decode, geometry

  tokenizer = build_tokenizer("bytes", LENGTH)
  print("| source | read | decode | augment | tokenize | batch | copy |")
  print("|---|---|---|---|---|---|---|")
  for name, spec in specs(flags.folder).items():
    source, rng = build_source(spec, "x"), np.random.default_rng(0)
    numbered, spent = shuffle.stream(source, 0), []
    for i in range(flags.rounds):
      numbers = numbered(np.arange(i * BATCH, (i + 1) * BATCH)).tolist()
      laps = [time.process_time()]

      def lap(value, laps=laps):
        laps.append(time.process_time())
        return value

      records = lap([source[i] for i in numbers])
      pictures = lap([decode.pixels(r["image"]) for r in records])
      cut = lap([geometry.cut(p, rng, (SIDE, SIDE), 0) for p in pictures])
      lap([tokenizer(r["text"]) for r in records])
      batch = lap(np.stack(cut))
      jax.block_until_ready(jax.device_put(batch))
      lap(None)
      spent.append(np.diff(laps) / BATCH * 1e3)
    print(f"| {name} | " + " | ".join(
      f"{ms:.3f}" for ms in np.median(spent, 0)) + " |")  # fmt: skip


def large(flags):
  """The table of scaled decoding of large photos, on one thread."""
  import dataclasses

  from big_contrastive.data.transforms import operations

  print("| side | preprocessing | whole, ms | scaled, ms | times as fast |")
  print("|---|---|---|---|---|")
  for side in (1000, 2000, 4000):
    data = photo(side, side, 85)
    for ops in (
      ("resize", {"size": SIDE}),
      ("random_resized_crop", {"size": SIDE, "area": (0.5, 1.0)}),
      ("random_resized_crop", {"size": SIDE, "area": (0.08, 1.0)}),
    ):
      scaled = operations.parse([ops], "ops")
      whole = dataclasses.replace(scaled, scaled=False)
      times = {whole: [], scaled: []}
      for i in range(3 * flags.rounds):
        for pipeline, spent in times.items():
          began = time.thread_time()
          pipeline(data, np.random.default_rng(i))
          spent.append(time.thread_time() - began)
      ms = [statistics.median(t) * 1e3 for t in times.values()]
      area = ops[1].get("area", "")
      bits = f"{side} ({len(data) * 8 / side**2:.1f} bit/px)"
      print(f"| {bits} | {ops[0]} {area} "
            f"| {ms[0]:.1f} | {ms[1]:.1f} | {ms[0] / ms[1]:.2f} |")  # fmt: skip


def main():
  """Prints the table that the first argument names."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("table", choices=["speed", "stages", "large", "one"])
  parser.add_argument("--folder", default="/tmp/input")
  parser.add_argument("--count", type=int, default=4000)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--seconds", type=float, default=6)
  parser.add_argument("--rounds", type=int, default=5)
  others = "Python with tensorflow and open_clip_torch"
  parser.add_argument("--others", default=sys.executable, help=others)
  parser.add_argument("--name")
  flags = parser.parse_args()
  folder = pathlib.Path(flags.folder)
  if flags.table == "one":
    measure(flags.name, folder, flags.threads, flags.seconds)
  elif flags.table == "large":
    large(flags)
  else:
    prepare(folder, flags.count)
    {"speed": speed, "stages": stages}[flags.table](flags)


if __name__ == "__main__":
  main()
