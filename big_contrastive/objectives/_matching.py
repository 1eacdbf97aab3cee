"""Image-text matching: which of a pair and two hard negatives is one."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from big_contrastive.losses.matching import hard_negatives
from big_contrastive.models.text.blip import Blip
from big_contrastive.objectives import _base
from big_contrastive.parallel import sharding

# Of three pairs, one fits: the loss of the best constant answer.
CHANCE = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3
Vectors = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def negatives(
  mesh: Mesh,
  z: Vectors,
  tokens: jax.Array,
  text: jax.Array,
  ids: jax.Array | None,
  scale: jax.Array,
  key: jax.Array,
  *,
  eps: float,
  tile: int | None,
) -> dict[str, jax.Array]:
  """Returns a hard negative of each text and each image of a global batch.

  See hard_negatives.draw: an image's by its vector and the texts' of a teacher,
  a text's by its vector and the images' of a teacher, as in BLIP.

  Args:
    mesh: of the batch.
    z: unit vectors [B, d]: images, texts, and a teacher's of both.
    tokens: of the images, [B, m, w].
    text: ids [B, l].
    ids: int32 [B]; pairs with equal ones are no negatives. None for others.
    scale: 1 / temperature.
    key: of the draw.
    eps, tile: see hard_negatives.draw.

  Returns:
    "tokens" [B, m, w], an image's for each text, with gradients to where they
    are from; "text" [B, l], for each image; "has_image" and "has_text", bool
    [B], False where there was none to draw.
  """
  rows, one = PartitionSpec(sharding.BATCH), PartitionSpec()

  def draw(z, tokens, text, ids, scale, key):
    zimg, ztxt, timg, ttxt = z
    axis, keys = sharding.BATCH, jax.random.split(key)
    how = dict(scale=scale, eps=eps, ids=ids, axis=axis, tile=tile)
    texts = hard_negatives.draw(zimg, ttxt, keys[0], **how).text
    images = hard_negatives.draw(timg, ztxt, keys[1], **how).image
    return {
      "tokens": hard_negatives.rows_at(tokens, images, axis),
      "text": hard_negatives.rows_at(text, texts, axis),
      "has_image": images >= 0,
      "has_text": texts >= 0,
    }

  return jax.shard_map(
    draw, mesh=mesh, in_specs=(rows, rows, rows, rows, one, one),
    out_specs=rows,
  )(z, tokens, text, ids, scale, key)  # fmt: skip


def match(
  txt: Blip,
  tokens: jax.Array,
  text: jax.Array,
  other: dict[str, jax.Array],
  keys: Any,
) -> dict[str, jax.Array]:
  """Returns sums over a pair and its two negatives, for each row.

  Args:
    txt: tells whether a text and an image match.
    tokens, text: pairs, [b, m, w] and [b, l].
    other: what `negatives` returned.
    keys: one per example, for dropout; None evaluates.

  Returns:
    "itm", cross entropies; "right", right answers; "count", how many there are.
  """
  cases = (
    (tokens, text, 1, jnp.ones(len(text), bool)),
    (other["tokens"], text, 0, other["has_image"]),
    (tokens, other["text"], 0, other["has_text"]),
  )
  sums = dict.fromkeys(("itm", "right", "count"), jnp.zeros(()))
  for i, (image, words, answer, counts) in enumerate(cases):
    own = None if keys is None else _base.folded(keys, 2 + i)
    logits = txt.matched(txt.grounded(words, image, keys=own))
    loss = -jax.nn.log_softmax(logits)[:, answer]
    # A tie is no answer.
    right = logits[:, answer] > logits[:, 1 - answer]
    sums["itm"] += jnp.where(counts, loss, 0).sum()
    sums["right"] += (counts & right).sum().astype(jnp.float32)
    sums["count"] += counts.sum().astype(jnp.float32)
  return sums
