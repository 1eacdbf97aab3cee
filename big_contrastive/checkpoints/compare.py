"""Whether a checkpoint fits what a run would restore from it."""

from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from big_contrastive.config import errors, rules
from big_contrastive.models import lora
from big_contrastive.storage.paths import Path


def params(
  directory: Path,
  abstract: dict[str, Any],
  exported: dict[str, str] | None = None,
) -> None:
  """Raises UserError if a checkpoint's weights don't fit the model.

  Args:
    directory: the checkpoint; its weights are what its method exports.
    abstract: shapes of the model's variables.
    exported: the entry of that name in its metadata, see read_exported.
  """
  metadata = ocp.checkpointables_metadata(directory).metadata
  stored = _shapes(metadata["params"])
  if exported:
    shapes = _shapes({k: v for k, v in metadata.items() if k != "tokenizer"})
    stored = {name: shapes[source] for name, source in exported.items()}
  stored = {
    k: v for k, v in stored.items() if not k.startswith(f"{lora.PART}/")
  }
  rules.compare_shapes(str(directory), stored, _shapes(abstract))


def items(directory: Path, abstract: dict[str, Any]) -> None:
  """Raises UserError if the run stores other things than the checkpoint.

  Parameters are compared first, as in `params`.
  Orbax would say so too, but only while it reads, and in its own words.
  """
  metadata = ocp.checkpointables_metadata(directory).metadata
  before, now = _shapes(metadata["params"]), _shapes(abstract["params"])
  rules.compare_shapes(str(directory), before, now)
  stored = set(metadata) - {"tokenizer"}
  if stored != abstract.keys():
    raise errors.UserError(
      "config.objective and config.ema",
      f"a method that carries {sorted(abstract)}",
      f"the one that {directory} was trained with, {sorted(stored)}",
      "Change them back, or begin in another workdir with config.init.",
    )
  fields = {
    "training": "config.optimizer, config.freeze and config.start",
    "extra": "config.objective and config.ema",
  }
  for item in fields.keys() & stored:
    before, now = _shapes(metadata[item]), _shapes(abstract[item])
    differ = sorted(k for k in before | now if before.get(k) != now.get(k))
    if differ:
      name = differ[0]
      raise errors.UserError(
        fields[item],
        "another state than the checkpoint's",
        f"those that {directory} was trained with",
        "Change them back, or begin in another workdir with config.init (as "
        "also from an Adafactor of 32 layers or more that did not yet treat "
        f"each alone). The first of {len(differ)} differences: {item}/{name} "
        f"{before.get(name, 'missing')} for {now.get(name, 'nothing')}.",
      )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each leaf by its path."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
