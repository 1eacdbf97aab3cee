"""Our own checkpoints, as a model format like any other."""

import pathlib

import numpy as np

from big_contrastive.checkpoints import checkpointer, find
from big_contrastive.config import rules, schema
from big_contrastive.data.tokenizers.tokenizer import restore_tokenizer
from big_contrastive.interop.bundle import ModelBundle
from big_contrastive.storage.paths import Path

MAY_LACK = ("text",)
SUFFIX = ""


def recognize(path: Path) -> bool:
  """Whether it is a workdir, its folder of checkpoints, or one of them."""
  if (path / find.FOLDER).is_dir() or (path / "params").is_dir():
    return True
  return any((d / "params").is_dir() for d in path.glob("[0-9]*"))


def read(path: Path, where: str = "path") -> ModelBundle:
  """Returns the newest intact model, with the weights that it exports."""
  directory = find.find(str(path), where)
  meta = checkpointer.read_meta(directory)
  params = checkpointer.read_exported(directory)
  config, spec = meta["config"], meta["tokenizer"]
  blob = checkpointer.read_blob(directory)
  # How attention is computed is a matter of the machine.
  model = {k: v for k, v in config["model"].items() if k != "attention"}
  bundle = ModelBundle(model, params, spec, blob, config["eval_image"])
  # The tokenizer's in training; other formats store them with the model.
  model = dict(bundle.model)
  for part, section in (("txt", "text"), ("dec", "decoder")):
    if part in bundle.rows:
      model[section] = {"vocab_size": bundle.rows[part]} | model[section]
  if bundle.has_text and spec:
    eos = restore_tokenizer(spec, blob).eos_id
    model["text"] = {"eos_id": eos} | model["text"]
  return ModelBundle(model, params, spec, blob, config["eval_image"])


def write(bundle: ModelBundle, path: pathlib.Path) -> None:
  """Writes a workdir with a checkpoint of step 0, without training state."""
  tokenizer = bundle.make_tokenizer() if bundle.tokenizer else None
  expected = rules.shapes(bundle.build(tokenizer).variables)
  rules.compare_shapes("the model", rules.shapes(bundle.params), expected)
  meta = {
    "config": {
      "model": schema.plain(bundle.model), "eval_image": bundle.image,
    },
    "tokenizer": tokenizer.spec if tokenizer else {},
    "position": {"examples": 0, "bad": 0},
  }  # fmt: skip
  flat = rules.flatten(bundle.params)
  params = rules.unflatten({k: np.asarray(v) for k, v in flat.items()})
  store = checkpointer.Checkpoints(path)
  training = {"step": np.zeros((), np.int32), "opt": {}}
  store.save(0, {"params": params, "training": training}, meta, bundle.blob)
  store.close()
