"""Suites on stand-ins of each layout: what is found, computed and refused."""

import csv
import io
import json
import os
import shutil

import fsspec
import numpy as np
import pytest
import stand_ins
import tensorflow_datasets as tfds

from big_contrastive.config import errors, registry
from big_contrastive.evals import suites as contract
from big_contrastive.factory import results, suites
from big_contrastive.inference.remembered import remembered

F = tfds.features
CAPTIONS = [["a 0", "b 0", "b 0"], ["a 2", "c 1"], ["x 2"]]
THOUSAND = [f"name {i}" for i in range(1000)]


def jpeg(i):
  return b"image of class %d" % i


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """TFDS data sets, with CLIP_benchmark's files beside them."""
  folder = tmp_path_factory.mktemp("tfds")
  wnids = F.ClassLabel(names=[f"n{i:04}" for i in range(1000)])
  image = F.Image(encoding_format="jpeg")
  stand_ins.prepare(
    folder, "imagenet_a", {"image": image, "label": wnids},
    {"test": [{"image": jpeg(6), "label": 6}, {"image": jpeg(7), "label": 11}]},
  )  # fmt: skip
  real = [(1, [1]), (3, [2, 3]), (4, []), (5, [7, 6])]
  stand_ins.prepare(
    folder, "imagenet2012_real",
    {"image": image, "real_label": F.Sequence(wnids)},
    {"validation": [{"image": jpeg(i), "real_label": k} for i, k in real]},
  )  # fmt: skip
  stand_ins.prepare(
    folder, "coco_captions",
    {"image": image, "captions": F.Sequence({"text": F.Text()})},
    {"test": [
      {"image": jpeg(i), "captions": [{"text": t} for t in several]}
      for i, several in enumerate(CAPTIONS)
    ]},
  )  # fmt: skip
  languages = {
    name: [{"image": jpeg(i), "captions": caption(i)} for i in order]
    for name, order, caption in (
      ("de", (0, 1, 2), lambda i: [f"de {i}", "de 0"]),  # The second is wrong.
      ("fil", (2, 0, 1), lambda i: [f"fil {i}"]),
    )
  }
  stand_ins.prepare(
    folder, "xm3600",
    {"image": image, "captions": F.Sequence(F.Text())}, languages,
  )  # fmt: skip
  stand_ins.json_files(
    folder, {"imagenet1k": THOUSAND}, {"imagenet1k": ["a {c}", "the {c}"]}
  )
  return folder


def figures(found, model):
  return dict(found.run(model.embed()))


def only(names, folder):
  (found,) = suites.find(names, str(folder))
  return found


def test_a_set_of_tars_has_the_figures_worked_out_by_hand(tmp_path):
  folder = tmp_path / "wds_imagenet1k"
  names = ["c 0", "c 1", "c 2", "c 3"]
  labels, shown = [0, 0, 0, 1, 2, 3], [0, 0, 1, 1, 2, 0]
  stand_ins.labeled(folder, labels, names, shown, ["a {c}", "no {c}"], 2)
  found, model = only("imagenet/val", tmp_path), stand_ins.Knowing(4)
  assert (found.data, found.records) == ("wds_imagenet1k", 6)
  table = results.rows("m", found, figures(found, model))
  assert (model.images, model.texts) == (6, 8)
  assert {row["metric"]: (row["value"], row["chance"]) for row in table} == {
    "top1": (4 / 6, 1 / 4),
    "top5": (1.0, 1.0),
    "mean_per_class_recall": (pytest.approx((2 / 3 + 1 + 1 + 0) / 4), 1 / 4),
  }
  assert {row["examples"] for row in table} == {6}


def test_imagenet_a_is_evaluated_among_its_200_classes(prepared):
  """Of TFDS, whose labels are those of the 1,000; 7 is not among the 200."""
  found, model = only("imagenet/a", prepared), stand_ins.Knowing(1000)
  told = figures(found, model)
  assert model.texts == 400 and told["chance"] == 1 / 200
  # Image 1 shows class 7: all of the 200 are as far from it.
  assert told["top1"] == told["mean_per_class_recall"] == 1 / 2


def test_real_takes_any_of_an_images_labels(prepared):
  found = only("imagenet_real", prepared)
  told = figures(found, stand_ins.Knowing(1000))
  # Right are 1 and 3; 4 has no label and is left out; 5 is not 6 or 7.
  assert told["top1"] == pytest.approx(2 / 3) and told["unlabeled"] == 1
  (row,) = results.rows("m", found, told)
  assert row["examples"] == 3
  assert row["chance"] == pytest.approx((1 + 2 + 2) / 3 / 1000)


def test_captions_in_tars_and_in_tfds_have_the_same_figures(prepared, tmp_path):
  stand_ins.captioned(tmp_path / "wds_mscoco_captions", CAPTIONS)
  wds, of_tfds = (only("coco", where) for where in (tmp_path, prepared))
  told, again = (figures(f, stand_ins.Knowing(3)) for f in (wds, of_tfds))
  assert told == again
  # The text of image 2 is as near to it as one of image 1: a miss.
  assert told["img2txt_r1"] == pytest.approx(2 / 3)
  assert told["txt2img_r1"] == pytest.approx(5 / 6)
  counts = {
    row["metric"]: row["examples"] for row in results.rows("m", wds, told)
  }
  assert counts["img2txt_r1"] == 3 and counts["txt2img_r5"] == 6


def test_each_image_of_all_languages_is_embedded_once(prepared):
  found = suites.find("xm3600/de,xm3600/fil", str(prepared))
  model = stand_ins.Knowing(3)
  embed = remembered(model.embed(), images=found[0].same_images)
  told = [dict(one.run(embed)) for one in found]
  assert model.images == 3
  assert told == [figures(one, stand_ins.Knowing(3)) for one in found]
  assert told[0] != told[1]
  assert not found[0].mean, "two of 36 languages have no mean"


def test_published_facts():
  """Suites are data: what is in them is what their authors say."""
  every = {
    name: registry.module("evals.suites", name, "").SUITE
    for name in registry.names("evals.suites")
  }
  for suite in every.values():
    for one in suite.sets.values():
      assert one.task in contract.METRICS and (one.wds or one.tfds)
      assert one.task == "retrieval" or one.templates
  sets = every["imagenet"].sets
  for letter, first in (("a", 6), ("r", 1)):
    kept = sets[letter].only
    assert len({*kept}) == 200 and [*kept] == sorted(kept)
    assert kept[0] == first and kept[-1] == 988
  assert len(every["xm3600"].sets) == 36 and every["xm3600"].mean
  assert len(every["vtab_natural"].sets) == 7 and every["vtab_natural"].mean
  scenes = every["vtab_natural"].sets["sun397"].rename
  assert scenes("/a/apartment_building/outdoor") == "apartment building outdoor"


def test_a_suite_may_be_a_file_anywhere(tmp_path):
  stand_ins.labeled(tmp_path / "mine", [0, 1], ["c 0", "c 1"])
  (tmp_path / "my_suite_of_two.py").write_text(
    "from big_contrastive.evals.suites import Set, Suite\n"
    'SUITE = Suite({"test": Set(wds="mine")}, mean=True)\n'
  )
  found = only(str(tmp_path / "my_suite_of_two.py"), tmp_path)
  assert (found.suite, found.name, found.mean) == (
    "my_suite_of_two", "test", True,
  )  # fmt: skip
  assert figures(found, stand_ins.Knowing(2))["top1"] == 1


def test_a_digest_is_of_the_content_and_not_of_the_place(tmp_path):
  data = tmp_path / "data"
  folder = stand_ins.labeled(data / "wds_imagenet1k", [0, 1], ["c 0", "c 1"])
  first = only("imagenet/val", data).digest
  shutil.copytree(data, tmp_path / "copy")  # With its files' times.
  assert only("imagenet/val", tmp_path / "copy").digest == first
  seen = {first}
  for name, text in (
    ("classnames.txt", "c 1\nc 0\n"),
    ("zeroshot_classification_templates.txt", "the {c}\n"),
  ):
    (folder / name).write_text(text)
    seen.add(only("imagenet/val", data).digest)
  os.utime(folder / "test" / "0.tar", (1, 1))  # Written anew.
  seen.add(only("imagenet/val", data).digest)
  assert len(seen) == 4


def test_sets_behind_a_url_are_read_there(tmp_path):
  """As of hf://: labels are then read with the images, some beforehand."""
  labels, names = [0, 1, 2, 2], ["c 0", "c 1", "c 2"]
  stand_ins.labeled(tmp_path / "wds_imagenet1k", labels, names, shards=2)
  files = fsspec.filesystem("memory")
  files.put(str(tmp_path), "/sets", recursive=True)
  found = only("imagenet/val", "memory://sets")
  told = figures(found, stand_ins.Knowing(3))
  assert told == figures(only("imagenet/val", tmp_path), stand_ins.Knowing(3))
  files.pipe("/sets/wds_imagenet1k/classnames.txt", b"c 0\nc 1\n")
  with pytest.raises(errors.UserError, match="'2 names'.* 0 to 2"):
    suites.find("imagenet/val", "memory://sets")
  # One too many shows after all labels are read, in place of a figure.
  files.pipe("/sets/wds_imagenet1k/classnames.txt", b"c 0\nc 1\nc 2\nc 3")
  with pytest.raises(errors.UserError, match="classes = '4 names.*3"):
    figures(only("imagenet/val", "memory://sets"), stand_ins.Knowing(4))


def shorten(path, text):
  def change(folder):
    (folder / path).write_text(text)

  return change


def without(path):
  return lambda folder: (folder / path).unlink()


WRONG = [
  (lambda f: shutil.rmtree(f), "data of imagenet/val = .*a folder with wds_im"),
  (without("test/nshards.txt"), "nshards.txt'; expected a file"),
  (without("test/1.tar"), "tars = 2; expected the 3 .*1.tar is missing"),
  (shorten("test/3.tar", ""), "tars = 4; expected the 3 .*3.tar is one more"),
  (shorten("test/nshards.txt", "many"), "nshards.txt = 'many'; expected a nu"),
  (shorten("test/nshards.txt", "0"), "nshards.txt = '0'"),
  (shorten("test/1.tar", ""), "1.tar'; expected uncompressed tars"),
  (shorten("dataset_type.txt", "retrieval"), "'retrieval'; expected classif"),
  (shorten("classnames.txt", "c 0\nc 1\n"), r"'2 names'.* 0 to 2\. Is a line"),
  (shorten("classnames.txt", "a\nb\nc\nd"), r"'4 names'.* 0 to 2\. Is a line"),
  (shorten("classnames.txt", ""), "val.classes.*one text or more"),
  (without("classnames.txt"), "imagenet/val.classes = .*a file that exists"),
  (
    without("zeroshot_classification_templates.txt"),
    "imagenet/val.templates = .*a file that exists",
  ),
  (
    shorten("zeroshot_classification_templates.txt", "a photo"),
    r"imagenet/val.templates = 'a photo'; expected texts with \{c\}",
  ),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_wrong_data_are_one_line_before_a_model_is_loaded(
  change, said, tmp_path
):
  folder = tmp_path / "wds_imagenet1k"
  names = ["c 0", "c 1", "c 2"]
  stand_ins.labeled(folder, [0, 1, 2], names, shards=3)
  change(folder)
  with pytest.raises(errors.UserError, match=said) as error:
    suites.find("imagenet/val", str(tmp_path))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("names", "said"),
  [
    ("imagnet", "--suite = 'imagnet'; .*Did you mean 'imagenet'"),
    ("imagenet/vall", "imagenet = 'vall'; expected one of .*mean 'val'"),
    ("coco,coco", "each set once. coco/test is there twice"),
    ("imagenet/val,imagenet", "imagenet/val is there twice"),
    (",", "--suite = ','; expected one of coco"),
    ("nowhere.py", "'nowhere.py'; expected a Python file that exists"),
    (__file__, "expected a file with SUITE"),
  ],
)
def test_what_is_no_suite_is_one_line(names, said, tmp_path):
  with pytest.raises(errors.UserError, match=said):
    suites.find(names, str(tmp_path))


def test_the_address_of_a_web_page_is_no_folder():
  with pytest.raises(errors.UserError, match="hf://datasets/clip-benchmark"):
    suites.find("coco", "https://huggingface.co/datasets/clip-benchmark")


@pytest.mark.parametrize(
  ("name", "content", "said"),
  [
    ("en_classnames.json", None, "imagenet/a.classes = .*--prompts names"),
    ("en_classnames.json", {"imagenet1k": THOUSAND[1:]}, "'999 names'.*1000,"),
    ("en_classnames.json", {"pets": ["a"]}, "imagenet1k'; expected one of pet"),
    ("en_zeroshot_classification_templates.json", {}, "'imagenet1k'"),
  ],
)
def test_lists_that_do_not_fit_tfds_are_one_line(
  name, content, said, prepared, tmp_path
):
  good = {"imagenet1k": THOUSAND}, {"imagenet1k": ["a {c}"]}
  stand_ins.json_files(tmp_path, *good)
  (tmp_path / name).unlink()
  if content is not None:
    (tmp_path / name).write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match=said):
    suites.find("imagenet/a", str(prepared), str(tmp_path))


def test_a_label_beyond_the_200_classes_is_one_line(prepared, tmp_path):
  label = F.ClassLabel(names=[f"n{i:04}" for i in range(1000)])
  features = {"image": F.Image(encoding_format="jpeg"), "label": label}
  record = {"image": jpeg(0), "label": 0}
  stand_ins.prepare(tmp_path, "imagenet_a", features, {"test": [record]})
  with pytest.raises(errors.UserError, match="label = 0; expected the 200 cla"):
    suites.find("imagenet/a", str(tmp_path), str(prepared))


def test_an_empty_set_is_one_line(tmp_path):
  stand_ins.labeled(tmp_path / "wds_imagenet1k", [], ["c 0"])
  with pytest.raises(
    errors.UserError, match="imagenet/val.member = 'cls'; exp"
  ):
    suites.find("imagenet/val", str(tmp_path))


def test_a_truncated_tar_is_one_line_and_not_another_figure(tmp_path):
  folder = stand_ins.captioned(tmp_path / "wds_flickr30k", CAPTIONS)
  tar = folder / "test" / "0.tar"
  tar.write_bytes(tar.read_bytes()[:4096])
  with pytest.raises(
    errors.UserError, match="k/test.source = .*damaged.*compl"
  ):
    suites.find("flickr30k", str(tmp_path))


def test_a_missing_label_is_one_line(tmp_path):
  samples = [(jpeg(0), "cls", b"0"), (jpeg(1), "json", b"{}")]
  lists = {"classnames": ["c 0"], "zeroshot_classification_templates": ["{c}"]}
  stand_ins.wds(tmp_path / "wds_imagenet1k", samples, **lists)
  with pytest.raises(errors.UserError, match=r"'1 .cls'; expected one for eac"):
    suites.find("imagenet/val", str(tmp_path))


ROWS = [
  {
    "model": model, "suite": "s", "set": name, "metric": "top1",
    "value": value, "chance": 0.1, "examples": 1000, "data": "d",
  }
  for model, name, value in (
    ("a|b", "x", 0.25), ("a|b", "y", 0.75), ("c,d", "x", 1 / 3),
    ("c,d", "y", 1.0),
  )
]  # fmt: skip


def test_the_three_tables_say_the_same(tmp_path):
  kept = results.Results(str(tmp_path / "out"))
  kept.write(ROWS)
  texts = {p.suffix: p.read_text() for p in (tmp_path / "out").iterdir()}
  assert json.loads(texts[".json"]) == ROWS
  of_csv = [*csv.DictReader(io.StringIO(texts[".csv"]))]
  assert [float(row["value"]) for row in of_csv] == [r["value"] for r in ROWS]
  assert [row["model"] for row in of_csv] == [row["model"] for row in ROWS]
  assert texts[".md"].splitlines()[2:] == [
    "| s/x | top1 | 0.1000 | 1,000 | 0.2500 | 0.3333 |",
    "| s/y | top1 | 0.1000 | 1,000 | 0.7500 | 1.0000 |",
  ]
  assert texts[".md"].startswith("| set | metric | chance | examples | a\\|b |")


def test_a_mean_is_of_the_sets_of_one_model():
  (mean,) = results.means(ROWS[:2])
  assert mean == ROWS[0] | {
    "set": "mean", "value": 0.5, "examples": 2000, "data": "2 sets",
  }  # fmt: skip


def test_figures_are_kept_exactly_and_damage_is_one_line(tmp_path):
  out = str(tmp_path / "out")
  value = {"top1": float(np.float64(1) / 3)}
  results.Results(out).put("key", value, {"model": "m"})
  assert results.Results(out).get("key") == value
  assert results.Results(out).get("other") is None
  for text in ("{", "[]", "{}", '{"figures": {"top1": "x"}}'):
    (tmp_path / "out" / "key.json").write_text(text)
    with pytest.raises(
      errors.UserError, match="key.json = 'unreadable'; .*Rem"
    ):
      results.Results(out).get("key")
