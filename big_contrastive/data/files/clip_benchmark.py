"""The layout of CLIP_benchmark's data sets, and its files of names and prompts.

classnames.txt, zeroshot_classification_templates.txt: one a line
dataset_type.txt: "retrieval" or "multilabel"; missing for classification
test/nshards.txt: how many tars there are: test/0.tar, test/1.tar, ...
"""

import os

from big_contrastive.config import errors
from big_contrastive.data.files import paths
from big_contrastive.storage import urls

CLASSES = "classnames.txt"
PROMPTS = "zeroshot_classification_templates.txt"

# Those of all data sets, by key.
ALL_CLASSES = "en_classnames.json"
ALL_PROMPTS = "en_zeroshot_classification_templates.json"


def there(path: str, thing: str) -> bool:
  """Whether a file or folder exists.

  Args:
    path: on this machine, or a URL.
    thing: the argument that holds it, for errors.
  """
  if not urls.remote(path):
    return os.path.exists(os.path.expanduser(path))
  with urls.reached(thing, path):
    return bool(urls.system(path, thing, listed=True).exists(path))


def kind(folder: str, thing: str) -> str:
  """Returns "classification", or what dataset_type.txt says."""
  path = f"{folder}/dataset_type.txt"
  if not there(path, thing):
    return "classification"
  return " ".join(paths.lines(path, thing)).strip().lower()


def shards(folder: str, thing: str) -> list[str]:
  """Returns the paths of the tars of the test split.

  Raises:
    UserError: if there are fewer or more of them than nshards.txt says.
  """
  path = f"{folder}/test/nshards.txt"
  if not there(path, thing):
    allowed, remedy = "a file", "Is the download complete?"
    raise errors.UserError(thing, path, allowed, remedy)
  text = " ".join(paths.lines(path, thing)).strip()
  if not text.isdecimal() or not 0 < int(text) < 10**6:
    allowed, remedy = "a number from 1 up", f"Fix {path}."
    raise errors.UserError(f"{thing}: nshards.txt", text, allowed, remedy)
  count = int(text)
  tars = [f"{folder}/test/{i}.tar" for i in range(count + 1)]
  found = [there(tar, thing) for tar in tars]
  if wrong := [i for i in range(count + 1) if found[i] != (i < count)]:
    allowed = f"the {count} tars that nshards.txt says"
    said = "missing" if wrong[0] < count else "one more"
    remedy = f"{tars[wrong[0]]} is {said}."
    raise errors.UserError(f"{thing}: tars", sum(found), allowed, remedy)
  return tars[:-1]
