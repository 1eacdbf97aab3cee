"""The figures of CLIP_benchmark on the same embeddings."""

import dataclasses
from unittest import mock

import numpy as np
import pytest

import peers
from big_contrastive.data import source as contract
from big_contrastive.evals import Embed, Embedded, retrieval, zero_shot

pytestmark = pytest.mark.peers

R = np.random.default_rng(0)


def unit(*shape):
  z = R.normal(size=shape)
  z /= np.linalg.norm(z, axis=-1, keepdims=True)
  return z.astype(np.float32)


@dataclasses.dataclass
class Source(contract.Source):
  """Records with labels and captions; embeddings are given by the test."""

  labels: list
  captions: list

  def __len__(self):
    return len(self.labels)

  def __getitem__(self, i):
    image = b"the same image"
    return {"image": image, "id": 0, "text": self.captions[i]}


class Theirs:
  """The same vectors, as a model of CLIP_benchmark's and its tokenizer."""

  def __init__(self, torch, zimg, table):
    self.torch, self.zimg, self.table = torch, torch.tensor(zimg), table

  def tokenizer(self, texts):
    return self.torch.tensor(np.stack([self.table[text] for text in texts]))

  def encode_image(self, number):
    return self.zimg[number]

  def encode_text(self, vectors):
    return vectors

  def batches(self, targets, size=7):
    """(images, targets), as a data loader gives them."""
    for i in range(0, len(self.zimg), size):
      rows = range(len(self.zimg))[i : i + size]
      some = [targets[k] for k in rows]
      if isinstance(some[0], int):
        some = self.torch.tensor(some)
      yield self.torch.tensor(list(rows)), some


def ours(prepared, zimg, labels, table):
  ids = np.zeros(len(zimg), np.int32)
  embed = Embed(
    lambda _: Embedded(zimg, np.array(labels), ids),
    None,
    lambda texts: np.stack([table[text] for text in texts]),
    mesh=None,
  )
  return dict(prepared(embed))


@pytest.mark.parametrize("classes", [3, 12])
def test_classification(classes, monkeypatch):
  torch = peers.torch()
  theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
  # It takes the float of an array of one number, which NumPy no longer does.
  of_one = lambda x: np.asarray(x).item()  # noqa: E731
  monkeypatch.setattr(theirs, "float", of_one, raising=False)
  names, prompts = [f"class {i}" for i in range(classes)], ["a {c}", "the {c}"]
  texts = [p.replace("{c}", n) for n in names for p in prompts]
  table = dict(zip(texts, unit(len(texts), 6), strict=True))
  zimg, labels = unit(50, 6), R.integers(0, classes, 50).tolist()
  labels[:classes] = range(classes)
  found = ours(
    zero_shot.prepare(Source(labels, labels), classes=names, templates=prompts),
    zimg, labels, table,
  )  # fmt: skip
  model = Theirs(torch, zimg, table)
  loader = mock.MagicMock()
  loader.__iter__.side_effect = lambda: model.batches(labels)
  loader.dataset.classes = names
  want = theirs.evaluate(
    model, loader, model.tokenizer, names, prompts, "cpu", amp=False
  )
  assert 0 < want["acc1"] < 1
  assert found["top1"] == pytest.approx(want["acc1"])
  same = want["mean_per_class_recall"]
  assert found["mean_per_class_recall"] == pytest.approx(same)
  if classes > 5:  # Below, theirs is not a number.
    assert found["top5"] == pytest.approx(want["acc5"])


def test_retrieval():
  """With equal captions of an image, and of two images, which are not tied."""
  torch = peers.torch()
  theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
  captions = [[f"{i} {k}" for k in range(3 + i % 3)] for i in range(40)]
  captions[3][1] = captions[3][0]
  texts = [text for several in captions for text in several]
  table = dict(zip(texts, unit(len(texts), 6), strict=True))
  zimg, labels = unit(40, 6), [-1] * 40
  prepared = retrieval.prepare(Source(labels, captions), merge=False)
  found = ours(prepared, zimg, labels, table)
  model = Theirs(torch, zimg, table)
  want = theirs.evaluate(
    model, list(model.batches(captions)), model.tokenizer, "cpu", amp=False,
    recall_k_list=[1, 5, 10],
  )  # fmt: skip
  assert 0 < want["text_retrieval_recall@1"] < 1
  for way, name in (("img2txt", "text"), ("txt2img", "image")):
    for k in (1, 5, 10):
      same = want[f"{name}_retrieval_recall@{k}"]
      assert found[f"{way}_r{k}"] == pytest.approx(same, abs=1e-6), (way, k)
  assert (found["images"], found["texts"]) == (40, len(texts))
