"""The parts of a mixture of objectives, from their sections of a config."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from big_contrastive.config import errors, registry, schema
from big_contrastive.objectives import Batch, Objective, Setting, _teacher
from big_contrastive.objectives._passes import Passes, view

_WHERE = "config.objective.parts"
# Names in `extra` that are not parts.
_RESERVED = ("statistics", "ema", "begun")
# The name of batch["image"] among the views of a part.
_IMAGE_VIEW = "image as a view"


@dataclasses.dataclass(frozen=True)
class Part:
  """An objective of a mixture.

  Args:
    method: the objective; its step 0 is the step `start` of the run.
    weight: of its loss.
    start, stop: it is on in the steps start <= step < stop.
    reads: by its field the field of the batch.
  """

  method: Objective
  weight: float
  start: int
  stop: int
  reads: Mapping[str, str]

  def on(self, step: int) -> bool:
    """Returns whether it counts in a step."""
    return self.weight > 0 and self.start <= step < self.stop

  @property
  def passes(self) -> set[tuple[str, int]]:
    """Those of its objective, by the fields of the batch."""
    return {(self.reads[field], i) for field, i in self.method.passes}

  def given(self, batch: Batch, passes: Passes | None = None) -> Batch:
    """Returns the fields that it reads; a view may be its image."""
    fields = {}
    for field, source in self.reads.items():
      x = batch[source]
      if source != field == "image":
        x = view(x, 0, passes)
      elif field == _IMAGE_VIEW:
        x = x[:, None]
        if passes is not None:  # Its first image is the one that it was.
          passes.once(("view", 0), (x,), lambda: batch["image"])
      fields[field] = x
    return fields

  def sharing(self, passes: Passes | None) -> Objective:
    """Returns its objective, which shares these passes."""
    setting = dataclasses.replace(self.method.setting, passes=passes)
    return dataclasses.replace(self.method, setting=setting)


def parse(setting: Setting, name: str, section: Any) -> Part:
  """Returns a part of a mixture, from its section of the config."""
  if not name.isidentifier() or name in _RESERVED:
    allowed = "an identifier other than " + ", ".join(_RESERVED)
    raise errors.UserError(f"a name in {_WHERE}", name, allowed, "Change it.")
  where = f"{_WHERE}.{name}"
  fields = schema.section(section, where)
  common = schema.hints(when_on).keys() - {"setting", "return"}
  common = {k: fields.pop(k) for k in common & fields.keys()}
  when = schema.call(when_on, common, where, {"setting": setting})
  file = fields.pop("name", None)
  if file == "mixture":
    allowed = "an objective that is no mixture itself"
    remedy = "List its parts beside the others."
    raise errors.UserError(f"{where}.name", file, allowed, remedy)
  module = registry.module("objectives", file, f"{where}.name")
  own = _setting(setting, when)
  method = schema.call(module.build, fields, where, {"setting": own})
  if isinstance(method, _teacher.Teaching) and method.other and when["start"]:
    allowed = '"copy" where the part begins later'
    remedy = "Random targets would undo what was learned before."
    raise errors.UserError(f"{where}.teacher", "random", allowed, remedy)
  views = when.pop("views")
  return Part(method, **when, reads=_reads(method, own, views, where))


def when_on(
  *,
  weight: float = 1.0,
  start: int | str = 0,
  stop: int | str | None = None,
  views: list | tuple | None = None,
  setting: Setting,
) -> dict[str, Any]:
  """Returns the fields that every part has, durations as steps.

  Args:
    weight: of its loss; at 0 it is off.
    start, stop: durations from the first step: it is on from `start` on, until
      `stop` or the end.
    views: that it reads, of config.views; "image" is config.train_image's. One
      for its image, or those of an objective over views; None for "image", or
      all of config.views.
    setting: of the mixture.
  """
  if not 0 <= weight < math.inf:
    allowed, remedy = "a finite number from 0 up", "0 is off."
    raise errors.UserError("weight", weight, allowed, remedy)
  first = setting.steps(start, "start")
  last = setting.total
  if first >= last:
    allowed = f"less than the {last} steps of the run"
    raise errors.UserError("start", start, allowed, 'SigLIP 2 has "80%".')
  if stop is not None:
    last = min(last, setting.steps(stop, "stop"))
    if last <= first:
      allowed = f"more than start = {start!r}"
      raise errors.UserError("stop", stop, allowed, "None is the end.")
  known = ["image", *setting.views]
  for i, name in enumerate(views or []):
    errors.choice(f"views[{i}]", name, known)
  if views is not None and (not views or len(set(views)) < len(views)):
    allowed, remedy = "views, each once", "None is for the usual ones."
    raise errors.UserError("views", list(views), allowed, remedy)
  return {"weight": weight, "start": first, "stop": last, "views": views}


def _setting(setting: Setting, when: Mapping[str, Any]) -> Setting:
  """Returns that of a part: its steps alone, and its views in their order."""
  views = setting.views
  if when["views"] is not None:
    views = {
      _IMAGE_VIEW if k == "image" else k: views.get(k, 1) for k in when["views"]
    }
  total = when["stop"] - when["start"]
  return dataclasses.replace(setting, views=views, total=total, mixed=True)


def _reads(
  method: Objective, setting: Setting, views: Sequence[str] | None, where: str
) -> dict[str, str]:
  """Returns the field of the batch for each field of a part's objective."""
  reads = {name: name for name in method.fields}
  if _IMAGE_VIEW in reads:
    reads[_IMAGE_VIEW] = "image"
  if views is None or setting.views.keys() <= reads.keys():
    return reads
  if "image" not in reads or list(setting.views.values()) != [1]:
    allowed = "one view of an image, as the objective reads no others"
    remedy = "None is for config.train_image's."
    raise errors.UserError(f"{where}.views", list(views), allowed, remedy)
  return reads | {"image": views[0]}
