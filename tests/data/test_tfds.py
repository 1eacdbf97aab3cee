"""TFDS data sets: what is stored comes back, and errors say what to do."""

import io
import json
import pickle
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from big_contrastive.config import errors, schema
from big_contrastive.data import bad_records
from big_contrastive.data.sources import tfds as tfds_source

COUNT = 10
CLASSES = ["a cat", "a dog"]


def png(i: int) -> bytes:
  file = io.BytesIO()
  PIL.Image.new("RGB", (4, 4), (i, 0, 0)).save(file, "PNG")
  return file.getvalue()


class Tiny(tfds.core.GeneratorBasedBuilder):
  """Two configs, nested captions, class labels, several kinds of id."""

  VERSION = tfds.core.Version("1.10.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="one"),
    tfds.core.BuilderConfig(name="two"),
  ]
  code_path = None

  def _info(self):
    f = tfds.features
    features = {
      "image": f.Image(shape=(4, 4, 3)),
      "mask": f.Image(shape=(4, 4, 1)),
      "text": f.Text(),
      "captions": f.Sequence({"text": f.Text(), "score": np.int32}),
      "views": {
        "side": f.Image(),
        "pixels": f.Tensor(shape=(2, 2, 3), dtype=np.uint8),
      },
      "label": f.ClassLabel(names=CLASSES),
      "coarse": f.ClassLabel(num_classes=2),
      "number": f.Scalar(np.int64),
      "key": f.Text(),
    }  # fmt: skip
    return tfds.core.DatasetInfo(
      builder=self, features=f.FeaturesDict(features), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {k: self._generate_examples() for k in ("train", "test")}

  def _generate_examples(self):
    for i in range(COUNT):
      captions = [{"text": f"{i} {k}", "score": k} for k in range(i % 3)]
      yield (
        i,
        {
          "image": png(i),
          "mask": b"not an image: it must not be decoded",
          "text": f"naïve {i}",
          "captions": captions,
          "views": {
            "side": png(100 + i),
            "pixels": np.full((2, 2, 3), i, "u1"),
          },
          "label": i % 2 if i < 9 else -1,
          "coarse": 0,
          "number": i if i < 5 else 2**40 + i % 2,
          "key": f"key {i // 2}",
        },
      )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
  folder = tmp_path_factory.mktemp("tfds")
  for config in ("one", "two"):
    builder = Tiny(data_dir=folder, config=config, file_format="array_record")
    builder.download_and_prepare()
  older = folder / "tiny" / "one" / "1.9.0"
  shutil.copytree(folder / "tiny" / "one" / "1.10.0", older)
  unfinished = folder / "tiny" / "one" / "incomplete.ABCDEF_2.0.0"
  shutil.copytree(older, unfinished)
  return str(folder)


def read(data_dir, split="train", dataset="tiny/one", **kwargs):
  kwargs = dict(split=split, dataset=dataset, data_dir=data_dir, **kwargs)
  return schema.call(tfds_source.source, kwargs, "config.source")


def test_records_are_what_was_stored_and_images_stay_encoded(data_dir):
  records = read(data_dir)
  assert len(records) == COUNT
  assert records[3] == {
    "image": png(3), "text": "naïve 3", "label": 1, "id": 3,
  }  # fmt: skip
  assert records.classes == CLASSES


@pytest.mark.parametrize(
  "kwargs",
  [
    {},
    {"image": "views/side", "text": "key", "id": "number", "label": "coarse"},
    {"text": "label", "id": "key"},
  ],
)
def test_single_values_are_what_the_parser_of_tfds_finds(
  data_dir, kwargs, monkeypatch
):
  records = read(data_dir, **kwargs)
  quick = [records[i] for i in range(9)]
  assert records._opened[1].func is tfds_source._values
  monkeypatch.setattr(tfds_source, "_single", lambda *_: False)
  assert quick == [read(data_dir, **kwargs)[i] for i in range(9)]


@pytest.mark.parametrize("image", ["views/pixels", "image"])
def test_a_broken_record_is_bad_whoever_parses_it(data_dir, image):
  records = read(data_dir, image=image)
  data, parse = records._opened
  for broken in (data[3][:-7], b"", b"\xff" * 50):
    records.__dict__["_opened"] = [broken] * COUNT, parse
    with pytest.raises(bad_records.BadRecord):
      records[3]


def test_slices_of_splits_are_splits(data_dir):
  records = read(data_dir, "train[80%:]")
  assert [r["text"] for r in records] == ["naïve 8", "naïve 9"]
  assert len(read(data_dir, "train+test")) == 2 * COUNT


@pytest.mark.parametrize(
  "split", ["train", "train[3:7]", "train[80%:]+test[:1]", "test[:50%]+train"]
)
def test_records_are_those_of_array_records_own_data_source(data_dir, split):
  own, _ = read(data_dir, split)._opened
  builder = tfds.builder("tiny/one", data_dir=data_dir)
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  theirs = builder.as_data_source(split, deserialize_method=raw)
  assert len(own) == len(theirs) > 0
  assert [own[i] for i in range(len(own))] == list(theirs)


def test_nested_captions_are_several_texts(data_dir):
  records = read(data_dir, text="captions/text")
  assert records[2]["text"] == ["2 0", "2 1"]


def test_a_record_without_caption_or_label_is_bad_not_wrong(data_dir):
  with pytest.raises(ValueError, match="without a caption"):
    read(data_dir, text="captions/text")[0]
  with pytest.raises(ValueError, match="without a label"):
    read(data_dir, text="label")[9]


def test_class_names_can_be_the_texts(data_dir):
  assert read(data_dir, text="label")[1]["text"] == "a dog"


def test_without_texts_class_names_are_the_texts(data_dir, tmp_path):
  """Only where the text feature wasn't named: a misspelt name is an error."""
  shutil.copytree(f"{data_dir}/tiny/one/1.10.0", tmp_path / "textless")
  file = tmp_path / "textless" / "features.json"
  content = json.loads(file.read_text())
  features = content["featuresDict"]["features"]
  features["sentence"] = features.pop("text")
  file.write_text(json.dumps(content))
  records = read(None, dataset=str(tmp_path / "textless"))
  assert records[1]["text"] == "a dog"
  with pytest.raises(errors.UserError, match="text = 'txt'.*sentence"):
    read(None, dataset=str(tmp_path / "textless"), text="txt")


def test_images_may_be_nested_or_plain_arrays(data_dir):
  assert read(data_dir, image="views/side")[1]["image"] == png(101)
  pixels = read(data_dir, image="views/pixels")[5]["image"]
  assert pixels.dtype == np.uint8 and (pixels == 5).all()


@pytest.mark.parametrize("feature", ["number", "key"])
def test_ids_fit_int32_and_are_equal_where_the_feature_is(data_dir, feature):
  ids = [r["id"] for r in read(data_dir, id=feature)]
  assert all(np.int32(i) == i and type(i) is int for i in ids)
  values = {
    "number": [0, 1, 2, 3, 4, "odd", "even", "odd", "even", "odd"],
    "key": [i // 2 for i in range(COUNT)],
  }[feature]
  assert len(set(zip(ids, values, strict=True))) == len(set(values))
  assert len(set(ids)) == len(set(values))


def test_labels_without_names_are_no_classes(data_dir):
  records = read(data_dir, label="coarse")
  assert records[0]["label"] == 0
  assert records.classes is None


def test_the_newest_finished_version_is_read_unless_one_is_named(data_dir):
  assert read(data_dir).folder.endswith("1.10.0")
  assert read(data_dir, dataset="tiny/one:1.9.0").folder.endswith("1.9.0")
  assert read(data_dir, dataset="tiny/one:1.9.*").folder.endswith("1.9.0")
  whole = f"{data_dir}/tiny/one/1.9.0"
  assert read(None, dataset=whole)[0] == read(data_dir)[0]


def test_the_default_folder_is_that_of_tfds(data_dir, monkeypatch):
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", data_dir)
  assert len(read(None)) == COUNT


def test_a_source_travels_to_other_processes(data_dir):
  records = read(data_dir, "train[70%:]", text="captions/text")
  assert records[0]["text"] == ["7 0"]
  copy = pickle.loads(pickle.dumps(records))
  assert "_opened" not in vars(copy)
  assert copy[1] == records[1] and copy.classes == CLASSES


@pytest.mark.parametrize(
  "wrong, message",
  [
    ({"split": "trian"}, "split = 'trian'.*train, test.*'train'"),
    ({"split": "train[:9"}, r"split = 'train\[:9'.*train, test"),
    ({"split": "train[:0]"}, "no examples"),
    ({"dataset": "tiny"}, "tiny/one, tiny/two"),
    ({"dataset": "tiny/one:3.0.0"}, "tiny/one"),
    ({"dataset": "coco"}, "dataset = 'coco'.*{dir}.*tiny/one.*data_dir"),
    ({"image": "img"}, "image = 'img'.*'image'"),
    ({"text": "captions"}, "text = 'captions'.*captions/text"),
    ({"text": "number"}, "text = 'number'"),
    ({"label": "lable"}, "label = 'lable'.*'label'"),
    ({"id": "idd"}, "id = 'idd'.*number"),
  ],
)
def test_a_wrong_argument_is_named_with_what_there_is(data_dir, wrong, message):
  with pytest.raises(errors.UserError, match=message.format(dir=data_dir)):
    read(data_dir, **wrong)


def test_nothing_prepared_yet_says_where_it_was_looked_for(tmp_path):
  with pytest.raises(errors.UserError, match=f"{tmp_path}: nothing"):
    read(str(tmp_path))


def test_another_file_format_says_how_to_convert_it(data_dir, tmp_path):
  folder = tmp_path / "tiny" / "one" / "1.10.0"
  shutil.copytree(f"{data_dir}/tiny/one/1.10.0", folder)
  info = folder / "dataset_info.json"
  text = info.read_text().replace('"array_record"', '"tfrecord"')
  info.write_text(text)
  command = f"--dataset_version_dir={folder} --out_file_format=array_record"
  with pytest.raises(errors.UserError, match="tfrecord format") as e:
    read(str(tmp_path))
  assert command in str(e.value)
  converted = json.loads(text) | {"alternativeFileFormats": ["array_record"]}
  info.write_text(json.dumps(converted))
  assert read(str(tmp_path))[0]["text"] == "naïve 0"
