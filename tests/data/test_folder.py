"""A folder of images: its classes or captions, and what is refused."""

import os
import pickle

import pytest

from big_contrastive.config import errors
from big_contrastive.data.sources import folder


@pytest.fixture
def make(tmp_path):
  """make(*names, **texts): files with their name inside; the root's path."""

  def tree(*names, **texts):
    content = {name: name for name in names} | {
      f"{stem}.txt": text for stem, text in texts.items()
    }
    for name, text in content.items():
      path = tmp_path / "root" / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text, encoding="utf-8")
    return str(tmp_path / "root")

  return tree


def records(source):
  return [source[i] for i in range(len(source))]


CLASSES = ("sea_lion/1.jpg", "sea_lion/deep/er/2.PNG", "ant/9.webp")


def test_folders_are_classes_in_the_order_of_their_names(make):
  source = folder.source(root=make(*CLASSES))
  assert source.classes == ["ant", "sea lion"] and source.skipped == {}
  assert source.name(1).endswith("root/sea_lion/1.jpg")
  assert records(source) == [
    {"image": b"ant/9.webp", "text": "ant", "id": 0, "label": 0},
    {"image": b"sea_lion/1.jpg", "text": "sea lion", "id": 1, "label": 1},
    {"image": CLASSES[1].encode(), "text": "sea lion", "id": 1, "label": 1},
  ]


def test_the_caption_is_a_template(make):
  source = folder.source(root=make(*CLASSES), caption="a {class}, the {class}")
  assert source[1]["text"] == "a sea lion, the sea lion"


def test_a_split_is_a_folder_in_root(make):
  root = make(*(f"train/{name}/1.jpg" for name in "ecadb"), "val/a/2.jpg")
  for path in (root, root + "/"):
    assert folder.source("train", root=path).classes == list("abcde")
    assert folder.source("val", root=path)[0]["image"] == b"val/a/2.jpg"


def test_what_is_no_image_or_hidden_is_not_seen(make):
  root = make(
    *CLASSES, "ant/notes.md", "readme.txt", "ant/._9.jpg", ".cache/ant/1.jpg"
  )
  source = folder.source(root=root)
  assert len(source) == 3 and source.classes == ["ant", "sea lion"]


def test_images_outside_of_class_folders_are_counted(make):
  source = folder.source(root=make(*CLASSES, "loose.jpg"))
  assert len(source) == 3 and source.skipped == {"no class folder": 1}


def test_linked_class_folders_are_followed(make, tmp_path):
  root = make("a/1.jpg")
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "elsewhere" / "2.jpg").write_text("2")
  os.symlink(tmp_path / "elsewhere", f"{root}/b")
  assert folder.source(root=root).classes == ["a", "b"]


def test_a_link_to_a_folder_above_is_not_followed(make):
  root = make(*CLASSES)
  os.symlink(os.pardir, os.path.join(root, "ant", "up"))
  os.symlink(root, os.path.join(root, "sea_lion", "deep", "top"))
  assert len(folder.source(root=root)) == 3


def test_a_txt_beside_an_image_is_its_caption(make):
  root = make("1.jpg", "in/2.png", **{"1": " one\n", "in/2": "zwei: ü"})
  source = folder.source(root=root)
  assert source.classes is None
  assert records(source) == [
    {"image": b"1.jpg", "text": "one", "id": 0},
    {"image": b"in/2.png", "text": "zwei: ü", "id": 1},
  ]


def test_images_without_a_caption_are_counted_and_ids_stay(make):
  texts = {"1": "one", "3": " \n", "4": "four"}
  source = folder.source(root=make(*(f"{i}.jpg" for i in range(1, 5)), **texts))
  assert [(r["text"], r["id"]) for r in records(source)] == [
    ("one", 0), ("four", 3)
  ]  # fmt: skip
  assert source.skipped == {"no .txt": 1, "empty caption": 1}


def test_a_copy_reads_on_after_pickling(make):
  source = folder.source(root=make(*CLASSES))
  assert records(pickle.loads(pickle.dumps(source))) == records(source)


def test_a_wrong_folder_is_named(make, tmp_path):
  root = make(*CLASSES)
  (tmp_path / "empty").mkdir()
  (tmp_path / "flat").mkdir()
  (tmp_path / "flat" / "1.jpg").touch()
  for kwargs, said in (
    ({"root": "nowhere"}, "root = 'nowhere'.*exists"),
    ({"root": f"{root}/ant/9.webp"}, "root = .*folder that exists"),
    ({"root": root, "split": "atn"}, "split = 'atn'.*Did you mean 'ant'"),
    ({"root": f"{tmp_path}/empty"}, r"root = .*empty.*\.jpg"),
    ({"root": f"{tmp_path}/flat"}, r"root = .*flat.*\.txt caption"),
    ({"root": root, "caption": "a {name}"}, "caption = 'a {name}'.*{class}"),
  ):
    with pytest.raises(errors.UserError, match=said):
      folder.source(**kwargs)


def test_captions_that_say_nothing_are_named(make, tmp_path):
  root = make("1.jpg", **{"1": " "})
  with pytest.raises(errors.UserError, match=r"root = .*empty"):
    folder.source(root=root)
  (tmp_path / "root" / "1.txt").write_bytes(b"caf\xe9")
  with pytest.raises(errors.UserError, match=r"root = .*not UTF-8': 1"):
    folder.source(root=root)
