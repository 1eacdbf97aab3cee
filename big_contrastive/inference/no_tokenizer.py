"""What stands in the place of a tokenizer that a model lacks."""

from collections.abc import Sequence

import numpy as np

from big_contrastive.config import errors


class NoTokenizer:
  """A placeholder for a missing tokenizer, which raises when it is used.

  Args:
    path: of the model, for the error.
    has_text: whether it has a text tower, and only the tokenizer is missing.
  """

  def __init__(self, path: str, has_text: bool):
    self._path, self._has_text = path, has_text

  def rows(self, texts: Sequence[str]) -> np.ndarray:
    """Raises UserError: there is no tokenizer, or not even a text tower."""
    if not self._has_text:
      thing, expected = "text tower", "a model with an image and a text tower"
      remedy = f"{self._path} has none: it embeds images only."
    else:
      thing = "tokenizer"
      expected = "what config.tokenizer takes, for a model without one"
      remedy = (
        f"{self._path} has none: give the one that it was trained with, "
        "load(path, tokenizer={...}) or --tokenizer."
      )
    raise errors.UserError(thing, None, expected, remedy)
