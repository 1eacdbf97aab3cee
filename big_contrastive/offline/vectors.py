"""Which model made the vectors that another was trained on."""

import logging
from typing import Any

from big_contrastive.config import errors
from big_contrastive.data import spec
from big_contrastive.data.files import embedded
from big_contrastive.inference.model import load
from big_contrastive.storage import paths


def check_made_by(source: dict[str, Any] | str, model: str, where: str) -> None:
  """Checks that a model made the vectors that another was trained on.

  Args:
    source: config.source of what was trained; its parts are `embed`'s.
    model: the path of the one that `embed` had.
    where: what it is called in errors.

  Raises:
    UserError: if it did not; a warning, if the vectors are not there.
  """
  try:
    if isinstance(source, str):
      source = spec.parse(source, "config.source")
    about = embedded.about(paths.at(source["parts"], "parts"), "parts")
    made = about["made"]["model"]["weights"]
  except (KeyError, errors.UserError) as e:
    logging.warning("not checked that %s made the vectors: %s", where, e)
    return
  if load(model, where=where).digests()["weights"] != made:
    allowed = f"the model that made the vectors of {source['parts']}"
    remedy = "Give the one that embed had as --checkpoint."
    raise errors.UserError(where, model, allowed, remedy)
