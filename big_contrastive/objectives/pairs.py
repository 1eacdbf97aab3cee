"""Image-text pairs: two towers, one pair loss. SigLIP, CLIP, LiT and FLIP."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from big_contrastive.config import errors
from big_contrastive.models import two_tower
from big_contrastive.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Objective:
  """(params, extra, batch, rng) -> (loss, (metrics, extra)).

  Args:
    graph: the model's structure, from two_tower.split.
    loss: a pair loss, see losses/.
    mesh: over whose batch axes the loss runs.
    frozen: towers ("img", "txt") that are only evaluated: no dropout.
    micro_batches: of ("img", "txt"), see `in_parts`.
    mask_ids: whether pairs with equal batch["id"] are no negatives.
    t_max: largest log-temperature, kept by `project`; None for no limit.
  """

  graph: nnx.GraphDef
  loss: Callable[..., jax.Array]
  mesh: Mesh
  frozen: frozenset[str] = frozenset()
  micro_batches: tuple[int, int] = (1, 1)
  mask_ids: bool = True
  t_max: float | None = None

  def init_extra(self, params: dict[str, Any]) -> dict[str, Any]:
    """Returns what the method carries besides its parameters: nothing."""
    return {}

  def __call__(
    self,
    params: dict[str, Any],
    extra: dict[str, Any],
    batch: dict[str, jax.Array],
    rng: jax.Array,
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, Any]]]:
    """Returns the loss of a global batch, with metrics.

    Args:
      params: nested dict.
      extra: from `init_extra`.
      batch: "image" uint8 [B, h, w, 3], "text" int32 [B, l], "id" int32 [B].
      rng: this step's key.
    """
    model = two_tower.merge(self.graph, params)
    keys = {"img": None, "txt": None}
    for i, tower in enumerate(keys):
      if tower not in self.frozen:
        tower_rng = jax.random.fold_in(rng, i)
        keys[tower] = example_keys(tower_rng, batch["id"].shape[0], self.mesh)
    embed_image = in_parts(model.embed_image, self.micro_batches[0], self.mesh)
    embed_text = in_parts(model.embed_text, self.micro_batches[1], self.mesh)
    zimg = embed_image(batch["image"], keys["img"])
    ztxt = embed_text(batch["text"], keys["txt"])
    scale = jnp.exp(params["t"])
    bias = params.get("b")
    ids = batch["id"] if self.mask_ids else None
    loss = over_mesh(self.loss, self.mesh)(zimg, ztxt, scale, bias, ids)
    metrics = {"loss": loss, **logit_means(zimg, ztxt, scale, bias)}
    return loss, (metrics, extra)

  def project(self, params: dict[str, Any]) -> dict[str, Any]:
    """Returns params with t clipped, as CLIP does after each update."""
    if self.t_max is None:
      return params
    return params | {"t": jnp.minimum(params["t"], self.t_max)}


def example_keys(rng: jax.Array, size: int, mesh: Mesh) -> jax.Array:
  """Returns one key per example of the global batch, [size].

  By position in the batch, so that the same example draws the same numbers
  on any number of devices and in any micro-batch.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(size))
  return jax.lax.with_sharding_constraint(keys, sharding.batch(mesh))


def in_parts(
  embed: Callable[..., jax.Array], parts: int, mesh: Mesh
) -> Callable[..., jax.Array]:
  """Returns `embed` over one micro-batch after the other.

  All embeddings are kept, the activations of one micro-batch only: the
  backward pass computes them again. Same embeddings, same gradients. The
  inputs are [B, ...] and B is a multiple of parts times the mesh's ring.
  """
  if parts == 1:
    return embed

  def one(inputs: tuple[jax.Array, ...]) -> jax.Array:
    return embed(*inputs)

  def every(*inputs: jax.Array) -> jax.Array:
    cut = sharding.split_batch(inputs, parts, mesh)
    # Inside a loop XLA can't undo the recomputation by sharing.
    found = jax.lax.map(jax.checkpoint(one, prevent_cse=False), cut)
    return sharding.join_batch(found, mesh)

  return every


def over_mesh(loss: Callable[..., jax.Array], mesh: Mesh) -> Callable:
  """Returns (zimg, ztxt, scale, bias, ids) -> loss of the global batch."""
  axis = sharding.BATCH

  def local(zimg, ztxt, scale, bias, ids):
    value = loss(zimg, ztxt, scale=scale, bias=bias, ids=ids, axis=axis)
    if value is None or jnp.shape(value) != ():
      told = "None" if value is None else f"of shape {jnp.shape(value)}"
      remedy = "It is the mean over the pairs of all devices."
      raise errors.UserError("the loss", told, "a scalar", remedy)
    return value

  rows, whole = PartitionSpec(axis), PartitionSpec()
  specs = (rows, rows, whole, whole, rows)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole)


def logit_means(
  zimg: jax.Array, ztxt: jax.Array, scale: jax.Array, bias: jax.Array | None
) -> dict[str, jax.Array]:
  """Returns the mean logit of pairs and of all others.

  The mean over all B x B logits is the logit of the mean embeddings, so this
  costs O(B d).
  """
  size = zimg.shape[0]
  bias = 0.0 if bias is None else bias
  positive = scale * jnp.sum(zimg * ztxt, axis=-1).mean() + bias
  every = scale * jnp.vdot(zimg.mean(axis=0), ztxt.mean(axis=0)) + bias
  negative = (size * every - positive) / max(1, size - 1)
  return {"logit_positive": positive, "logit_negative": negative}


def build(
  graph: nnx.GraphDef,
  loss: Callable[..., jax.Array],
  mesh: Mesh,
  frozen: frozenset[str],
  micro_batches: tuple[int, int] = (1, 1),
  *,
  mask_ids: bool = True,
  scale_max: float | None = None,
  tile: int | None = None,
) -> Objective:
  """Returns the objective that config.objective asks for.

  Args:
    graph, loss, mesh, frozen, micro_batches: see `Objective`.
    mask_ids: whether pairs with the same id are not each other's negatives.
    scale_max: largest exp(t): 100 in CLIP.
    tile: rows of logits alive at a time on a device; None for _ring.side's.
  """
  if tile is not None and tile < 1:
    remedy = "Leave it out for the default."
    raise errors.UserError("config.objective.tile", tile, ">= 1", remedy)
  t_max = None if scale_max is None else math.log(scale_max)
  loss = functools.partial(loss, tile=tile)
  return Objective(graph, loss, mesh, frozen, micro_batches, mask_ids, t_max)
