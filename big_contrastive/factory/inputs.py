"""Checks that batches have what the objective and the towers take."""

from collections.abc import Collection, Iterable, Mapping

from big_contrastive.config import errors
from big_contrastive.config.fields import Config
from big_contrastive.data.transforms.pipeline import Pipeline
from big_contrastive.data.transforms.views import View
from big_contrastive.models.model import Model

_OWN = ("image", "text", "id", "record")  # Fields of a batch that are no views.


def check(
  config: Config,
  views: Mapping[str, View],
  own: Iterable[str],
  reads: Collection[str],
  has_text: bool,
) -> None:
  """Checks config.train_image, config.views and config.tokenizer.

  Args:
    config: see config/fields.
    views: of config.views, by name.
    own: fields of the config that give sources a train_image of their own.
    reads: fields of a batch that the objective reads: Objective.fields.
    has_text: whether there are a tokenizer and a text tower.

  Raises:
    UserError: for a field that the objective reads and the config does not
      make, and the other way round.
  """
  name = "config.train_image"
  if config.train_image is None:
    if not views:
      allowed = "operations, or config.views with some"
      raise errors.UserError(name, None, allowed, "Set one of them.")
    for place in own:
      allowed = "none, as config.train_image is None"
      remedy = "Views are the same for all sources: drop it."
      raise errors.UserError(place, "operations", allowed, remedy)
    if "image" in reads:
      allowed = "operations: config.objective reads images"
      raise errors.UserError(name, None, allowed, "Set it.")
  elif "image" not in reads:
    allowed = f"None: config.objective reads {_listed(reads)} alone"
    remedy = "Set it to None."
    raise errors.UserError(name, "operations", allowed, remedy)
  if "text" in reads and not has_text:
    lacks = "model.text" if config.tokenizer else "tokenizer"
    allowed = "a section: config.objective reads text"
    raise errors.UserError(f"config.{lacks}", None, allowed, "Set it.")
  _check_views(views, reads)


def check_size(ops: Pipeline, where: str, model: Model) -> None:
  """Raises UserError unless operations end in what the image tower takes."""
  tower = model.img
  if tuple(ops.size) != tower.takes:
    first, *sides = tower.takes
    allowed = f"images of {first} x {sides[0]}, as config.model.image asks"
    remedy = "Change the last resize or crop."
    if len(sides) > 1:
      how = {"patch": sides[0], "most": first}
      allowed = f'("naflex", {how}) at the end'
      remedy = "config.model.image has max_patches."
    raise errors.UserError(where, ops.size, allowed, remedy)


def _check_views(views: Mapping[str, View], reads: Collection[str]) -> None:
  wanted = [field for field in reads if field not in _OWN]
  for field in wanted:
    if field not in views:
      allowed = f"{_listed(wanted)}: what config.objective reads"
      remedy = f'Add config.views.{field} = {{"ops": [...]}}.'
      raise errors.UserError("config.views", list(views), allowed, remedy)
  for view in views:
    if view not in wanted:
      allowed = f"{_listed(reads)}: what config.objective reads"
      remedy = "Drop the view, or name it so."
      raise errors.UserError("a view of config.views", view, allowed, remedy)


def _listed(fields: Iterable[str]) -> str:
  return ", ".join(fields) or "nothing"
