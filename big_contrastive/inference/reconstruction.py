"""What a decoder of patches tells of those that the image tower did not see."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from big_contrastive.config import finite
from big_contrastive.data.source import Source, as_source
from big_contrastive.evals import Reconstructed
from big_contrastive.models.heads import patch_decoder
from big_contrastive.models.model import merge
from big_contrastive.models.patches import draw_patches, joined
from big_contrastive.parallel import sharding

if TYPE_CHECKING:
  from big_contrastive.inference.embedder import Embedder

_GRAY = 0.5  # Of a patch that is not seen.


def bound(
  embedder: Embedder, params: dict[str, Any], check: Callable[[], None]
) -> Callable[..., Reconstructed] | None:
  """Returns the function that evaluators get, evals.Embed.reconstruct.

  Args:
    embedder: of the model; None is returned if that has no decoder of patches.
    params: of the model.
    check: called before each batch, on every process.
  """
  graph, size = embedder.graph, embedder.batch_size
  abstract: Any = jax.eval_shape(lambda p: merge(graph, p), params)
  decoder = getattr(abstract, "decoder", None)
  if not isinstance(decoder, patch_decoder.PatchDecoder):
    return None

  def reconstruct(
    source: Source, mask: float, seed: int, shown: Collection[int]
  ) -> Reconstructed:
    kept = patch_decoder.seen(mask, decoder.side**2)
    name = "reconstruction", kept
    if name not in embedder.compiled:

      def tell(params, batch, first, key):
        numbers = first + jnp.arange(size)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)
        return told(merge(graph, params), batch["image"], keys, kept)

      where = sharding.replicated(embedder.mesh)
      embedder.compiled[name] = jax.jit(tell, out_shardings=where)
    first, key = itertools.count(0, size), jax.random.key(seed)

    def each(params: Any, batch: Any) -> Any:
      return embedder.compiled[name](params, batch, np.int32(next(first)), key)

    losses, pictures, done = [np.zeros(0, np.float32)], {}, 0
    for loss, images in embedder.over(each, params, as_source(source), check):
      own = {*range(done, done + len(loss))} & {*shown}
      pictures |= {i: images[i - done] for i in own}
      losses.append(loss)
      done += len(loss)
    loss = np.concatenate(losses)
    finite.arrays({"loss": loss}, "reconstructions", finite.ANOTHER)
    return Reconstructed(loss, pictures)

  return reconstruct


def told(
  model: Any, image: jax.Array, keys: jax.Array, kept: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of each image, [b], and pictures uint8 [b, 3, h, w, 3].

  The pictures are the image, what the tower sees of it, and that with the
  decoder's pixels in the place of the other patches.

  Args:
    model: with a decoder of patches.
    image: uint8 [b, h, w, 3].
    keys: one per image, that draw what is seen.
    kept: how many patches are seen.
  """
  decoder = model.decoder
  every = decoder.side**2
  at = draw_patches(keys, every, kept / every)
  masked = patch_decoder.masked(at, every)
  said = decoder(model.img.features(image, None, at).tokens, at)
  patches = decoder.patches(image)
  error = jnp.square(said - decoder.targets(patches)).mean(axis=-1)
  loss = (error * masked).sum(axis=1) / (every - kept)
  hidden = masked[:, :, None] > 0
  whole = jnp.where(hidden, decoder.restored(said, patches), patches)
  gray = joined(jnp.broadcast_to(hidden, patches.shape), decoder.patch)
  original = decoder.image(patches)
  seen = jnp.where(gray, _GRAY, original)
  images = jnp.stack([original, seen, decoder.image(whole)], axis=1)
  return loss, jnp.round(images * 255).astype(jnp.uint8)
