"""What objectives share: example keys, micro-batches, a loss over the mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from big_contrastive.config import errors
from big_contrastive.models import model as models
from big_contrastive.models import norms
from big_contrastive.models.built import Built
from big_contrastive.objectives import Params, Setting
from big_contrastive.objectives._passes import OF_POOLED, pooled
from big_contrastive.parallel import blocks, sharding


def require(model: Built, *parts: str) -> None:
  """Raises UserError for a part that is required and the model lacks."""
  fields = {"img": "image", "txt": "text", "t": "scale", "b": "bias"}
  fields["dec"] = "decoder"
  for part in parts:
    if part not in model.parts:
      field = fields.get(part, f"heads.{part}")
      remedy = "Set it, or choose another objective."
      raise errors.UserError(
        f"config.model.{field}", None, "a part that the objective needs", remedy
      )


def example_keys(rng: jax.Array, size: int, mesh: Mesh) -> jax.Array:
  """Returns one key per example of the global batch, [size].

  A key depends on the position in the batch, so that an example draws the same
  numbers on any number of devices and in any micro-batch.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(size))
  return jax.lax.with_sharding_constraint(keys, sharding.batch(mesh))


def image_keys(
  setting: Setting, frozen: frozenset[str], rng: jax.Array, size: int
) -> jax.Array | None:
  """Returns a key per example; None for a frozen tower: it is evaluated."""
  if "img" in setting.model.frozen_parts(frozen):
    return None
  return example_keys(rng, size, setting.mesh)


def folded(keys: jax.Array, number: int) -> jax.Array:
  """Returns other keys [b], for another use of randomness."""
  return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def embedding(tower: Any, pooled: jax.Array) -> jax.Array:
  """Returns the unit embeddings of what a tower pooled, [b, w]."""
  return models.unit(tower.project(pooled) if tower.projects else pooled)


@dataclasses.dataclass
class Applied:
  """A model in a step: it embeds, and keeps its new running statistics.

  Args:
    setting: of the objective.
    params: of the model.
    statistics: its running statistics; those after the last `embed`.
  """

  setting: Setting
  params: Params
  statistics: dict[str, Any]

  def embed(
    self, function: Callable[..., jax.Array], *inputs: Any, count: int = 1
  ) -> jax.Array:
    """Returns function(model, *inputs), one micro-batch after the other.

    It keeps all embeddings, but the activations of one micro-batch only: the
    backward pass recomputes them. Embeddings, gradients and statistics are the
    same.

    Where passes are shared (Setting.passes), what was pooled of the same images
    by the same parameters is not computed again.

    Args:
      function: (model, *inputs) -> embeddings [b, d] of a micro-batch, such as
        Model.embed_image.
      inputs: arrays [B, ...], or None; B is a multiple of count times
        sharding.ring_size.
      count: number of micro-batches.
    """
    passes = self.setting.passes
    if passes is not None and function in OF_POOLED:
      x = passes.once(
        ("pooled", count),
        (self.params, inputs[0]),
        lambda: self._rows(pooled, *inputs, count=count),
      )
      return self._rows(OF_POOLED[function], x)
    return self._rows(function, *inputs, count=count)

  def _rows(self, function, *inputs, count=1):
    def rows(*arguments: Any) -> tuple[jax.Array, None]:
      return function(*arguments), None

    return self.rows_and_sums(rows, *inputs, count=count)[0]

  def rows_and_sums(
    self, function: Callable[..., tuple[Any, Any]], *inputs: Any,
    count: int = 1, splits: bool = False,
  ) -> tuple[Any, Any]:  # fmt: skip
    """Returns function(model, *inputs), with sums over micro-batches.

    Args:
      function: (model, *inputs) -> (rows [b, ...], sums) of a micro-batch, two
        trees; sums are such that those of the batch are their sums.
      inputs, count: see `embed`.
      splits: whether function runs `over_classes`. With fsdp or tensor its
        gradients then cross the data axis in each micro-batch, not once.
    """
    graph, mesh = self.setting.model.graph, self.setting.mesh

    def one(variables: tuple, inputs: tuple) -> tuple[Any, Any, dict[str, Any]]:
      model = models.merge(graph, *variables)
      rows, sums = function(model, *inputs)
      return rows, sums, models.split(model)[2]

    variables = self.params, self.statistics
    if count == 1:
      rows, sums, self.statistics = one(variables, inputs)
      return rows, sums

    def each(variables: tuple, batches: tuple) -> tuple[Any, Any, Any]:
      # Inside a loop XLA can't undo the recomputation (by CSE).
      of = jax.checkpoint(functools.partial(one, variables), prevent_cse=False)
      rows, sums, statistics = jax.lax.map(of, batches)
      # New statistics are linear in those of a batch: their mean is exact.
      means = jax.tree.map(lambda x: x.mean(axis=0), statistics)
      return rows, jax.tree.map(lambda x: x.sum(axis=0), sums), means

    batches = sharding.split_batch(inputs, count, mesh)
    if not splits or mesh.shape["fsdp"] == mesh.shape["tensor"] == 1:
      each = blocks.run(each, mesh)
    rows, sums, self.statistics = each(variables, batches)
    return jax.tree.map(lambda x: sharding.join_batch(x, mesh), rows), sums

  def extra(self, extra: dict[str, Any]) -> dict[str, Any]:
    """Returns `extra` with the statistics."""
    if "statistics" not in extra:
      return extra
    return extra | {"statistics": self.statistics}


def check_towers(
  setting: Setting, frozen: frozenset[str], counts: dict[str, int]
) -> None:
  """Raises UserError for towers that can't be frozen or split like that.

  Args:
    setting: of the objective.
    frozen: flat names of parameters that are not trained.
    counts: number of micro-batches, by tower.
  """
  parts = setting.model.frozen_parts(frozen)
  for tower, count in counts.items():
    if tower not in parts:
      check_norms(setting, tower, count)
  keep = getattr(setting.model.abstract.img, "keep", 1)
  if "img" in parts and keep < 1:
    raise errors.UserError(
      "config.model.image.keep",
      keep,
      "1 where the image tower is frozen, and so only evaluated",
      "Unfreeze the tower or set keep = 1.",
    )


def check_norms(
  setting: Setting, tower: str, count: int, views: int = 1
) -> None:
  """Raises UserError where micro-batches would change batch normalization.

  Args:
    setting: of the objective.
    tower: the part "img" or "txt".
    count: its number of micro-batches.
    views: examples of the tower for one of the batch.
  """
  groups = norms.groups(getattr(setting.model.abstract, tower))
  if count == 1 or not groups:
    return
  rows, n = setting.batch_size * views, sharding.ring_size(setting.mesh)
  size = rows // count // n
  for group in groups:
    if group is None or size % group:
      where = {"img": "image", "txt": "text"}[tower]
      parts = f"a divisor of {size}, a device's share of a micro-batch"
      raise errors.UserError(
        f"config.model.{where}.norm_group",
        errors.Null() if group is None else group,
        f"{parts}, where config.micro_batch is set",
        "Batch normalization over the batch needs all of it at once: set "
        "config.micro_batch = None, or normalize in groups.",
      )


def on_ring(
  loss: Callable[..., jax.Array],
  mesh: Mesh,
  specs: dict[int, PartitionSpec] | None = None,
) -> Callable[..., jax.Array]:
  """Returns (arrays) -> the loss of the global batch.

  Args:
    loss: (arrays of one device, axis) -> the same mean on all devices.
    mesh: its batch axes are the ring.
    specs: of the arrays, by position, that are not sharded by their first axis.
  """
  axis = sharding.BATCH

  def run(*arrays: jax.Array) -> jax.Array:
    rows = [PartitionSpec(axis)] * len(arrays)
    for i, spec in (specs or {}).items():
      rows[i] = spec
    local = functools.partial(loss, axis=axis)
    return jax.shard_map(
      local, mesh=mesh, in_specs=tuple(rows), out_specs=PartitionSpec()
    )(*arrays)

  return run


def over_classes(
  loss: Callable[..., jax.Array],
  mesh: Mesh,
  kernel: jax.Array,
  bias: jax.Array,
  *rows: Any,
  tile: int | None,
) -> jax.Array:
  """Returns loss(x, kernel, bias, ...) of the global batch.

  The classes are split over the mesh's tensor axis, if they can be.

  Args:
    loss: takes axis, split and tile; see losses/classes.
    mesh: of the batch.
    kernel, bias: of the classes, [w, V] and [V].
    rows: arrays [B, ...], x the first.
    tile: rows of logits in memory at a time on a device; None for the default.
  """
  axis, split = sharding.BATCH, split_of(mesh, len(bias))
  if alone := blocks.inside():  # Then a block is one device: see `splits`.
    axis = split = None

  def local(kernel, bias, x, *others):
    return loss(x, kernel, bias, *others, axis=axis, split=split, tile=tile)

  columns = PartitionSpec(None, split), PartitionSpec(split)
  specs = (*columns, *[PartitionSpec(axis)] * len(rows))
  of = local if alone else jax.shard_map(
    local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec()
  )  # fmt: skip
  return of(kernel.astype(rows[0].dtype), bias, *rows)


def split_of(mesh: Mesh, classes: int) -> str | None:
  """Returns the mesh's tensor axis if classes can be split over it."""
  size = mesh.shape["tensor"]
  return "tensor" if size > 1 and classes % size == 0 else None


def check_tile(tile: int | None) -> int | None:
  """Returns the rows of a tile, or raises UserError."""
  if tile is not None and tile < 1:
    allowed = "a whole number from 1 up"
    remedy = "Leave it out for the default."
    raise errors.UserError("tile", tile, allowed, remedy)
  return tile


def over_mesh(loss: Callable[..., jax.Array], mesh: Mesh) -> Callable:
  """Returns (zimg, ztxt, scale, bias, ids) -> the loss of the global batch."""
  axis = sharding.BATCH

  def local(zimg, ztxt, scale, bias, ids):
    value = loss(zimg, ztxt, scale=scale, bias=bias, ids=ids, axis=axis)
    if value is None or jnp.shape(value) != ():
      shape = "None" if value is None else f"of shape {jnp.shape(value)}"
      remedy = "Return the mean over the pairs of all devices."
      raise errors.UserError("the loss", shape, "a scalar", remedy)
    return value

  rows, replicated = PartitionSpec(axis), PartitionSpec()
  specs = (rows, rows, replicated, replicated, rows)
  return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=replicated)
