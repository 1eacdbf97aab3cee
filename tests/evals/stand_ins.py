"""Tiny data sets in the layouts of suites, and models that know the answers."""

import io
import json
import re
import tarfile

import numpy as np
import tensorflow_datasets as tfds

from big_contrastive.evals import Embed, Embedded


def wds(folder, samples, shards=1, **texts):
  """CLIP_benchmark's layout: samples (image, member, content) over tars."""
  test = folder / "test"
  test.mkdir(parents=True)
  (test / "nshards.txt").write_text(f"{shards}\n")
  for k in range(shards):
    with tarfile.open(test / f"{k}.tar", "w") as tar:
      for i, (image, member, content) in enumerate(samples):
        if i * shards // len(samples) != k:
          continue
        for kind, data in (("webp", image), (member, content)):
          info = tarfile.TarInfo(f"s{i:07}.{kind}")
          info.size = len(data)
          tar.addfile(info, io.BytesIO(data))
  for name, lines in texts.items():
    (folder / f"{name}.txt").write_text("".join(f"{x}\n" for x in lines))
  return folder


def labeled(folder, labels, names, shown=None, templates=("a {c}",), shards=1):
  """A set for classification; image i looks like class shown[i]."""
  shown = labels if shown is None else shown
  samples = [
    (b"image %d of class %d" % (i, c), "cls", b"%d" % label)
    for i, (label, c) in enumerate(zip(labels, shown, strict=True))
  ]
  lists = {"classnames": names, "zeroshot_classification_templates": templates}
  return wds(folder, samples, shards, **lists)


def captioned(folder, captions):
  """A set for retrieval; image i looks like class i."""
  samples = [
    (b"image of class %d" % i, "txt", "\n".join(several).encode())
    for i, several in enumerate(captions)
  ]
  return wds(folder, samples, dataset_type=["retrieval"])


def json_files(folder, names, templates):
  """CLIP_benchmark's files of class names and of prompts."""
  (folder / "en_classnames.json").write_text(json.dumps(names))
  file = folder / "en_zeroshot_classification_templates.json"
  file.write_text(json.dumps(templates))


class OfTFDS(tfds.core.GeneratorBasedBuilder):
  """A data set in TFDS: its features and the records of its splits."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None
  features: dict = {}
  splits: dict = {}

  def _info(self):
    features = tfds.features.FeaturesDict(self.features)
    return tfds.core.DatasetInfo(
      builder=self, features=features, disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {k: enumerate(rows) for k, rows in self.splits.items()}

  def _generate_examples(self):
    raise NotImplementedError


def prepare(folder, name, features, splits):
  """Writes a TFDS data set, without TensorFlow."""
  made = {"name": name, "features": features, "splits": splits}
  kind = type(name, (OfTFDS,), made, skip_registration=True)
  kind(data_dir=folder, file_format="array_record").download_and_prepare()


class Knowing:
  """A model for which the number in an image or a text is the class of it.

  Counts what it embeds.
  """

  def __init__(self, classes):
    self.one_hot = np.eye(classes, dtype=np.float32)
    self.images, self.texts = 0, 0

  def vector(self, text):
    return self.one_hot[int(re.findall(r"\d+", text)[-1])]

  def of_images(self, source):
    records = [source[i] for i in range(len(source))]
    self.images += len(records)
    z = [self.vector(record["image"].decode()) for record in records]
    label = np.array([r.get("label", -1) for r in records])
    return Embedded(np.stack(z), label, np.array([r["id"] for r in records]))

  def of_texts(self, texts):
    self.texts += len(texts)
    return np.stack([self.vector(text) for text in texts])

  def embed(self):
    return Embed(self.of_images, None, self.of_texts, mesh=None)
