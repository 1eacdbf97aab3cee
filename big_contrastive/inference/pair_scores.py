"""How well a text fits an image: BLIP's match, or two towers' cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from big_contrastive.inference.no_tokenizer import NoTokenizer
from big_contrastive.models.model import Model

if TYPE_CHECKING:
  from big_contrastive.inference.embedder import Embedder

By = Literal["match", "cosine"]
_UNIT = 0.5  # Squared; what `unit` makes of zeros is shorter.


def ways(embedder: Embedder) -> tuple[By, ...]:
  """Returns how a model can tell if texts fit images, the best way first.

  "match" needs a text tower that sees images, as BLIP's; "cosine" two towers.
  """
  if isinstance(embedder.tokenizer, NoTokenizer):
    return ()
  return ("match", "cosine") if embedder.matches else ("cosine",)


def seen(model: Model, image: jax.Array, by: By) -> Any:
  """Returns what `fit` needs of images: a tree of arrays [b, ...].

  Args:
    model: that has this way.
    image: [b, ...], as its image tower takes them.
    by: see `ways`.
  """
  if by == "cosine":
    return model.embed_image(image)
  tokens, _, mask = model.img.features(image)
  return tokens, mask


def fit(model: Model, images: Any, text: jax.Array, by: By) -> jax.Array:
  """Returns how well each text fits its image, float32 [b].

  The probability of "yes" of image-text matching (arXiv:2201.12086), or the
  cosine; NaN where a vector is none of unit length.

  Args:
    model: that has this way.
    images: what `seen` returned.
    text: ids [b, l].
    by: see `ways`.
  """
  if by == "match":
    tokens, mask = images
    logits = model.txt.matched(model.txt.grounded(text, tokens, mask))
    return jax.nn.softmax(logits)[:, 1]
  ztxt = model.embed_text(text)
  norms = jnp.minimum((images**2).sum(-1), (ztxt**2).sum(-1))
  return jnp.where(norms > _UNIT, (images * ztxt).sum(-1), jnp.nan)
