"""A weighted sum of objectives on the same batch, each on in steps of its own.

SLIP (arXiv:2112.12750) is CLIP and SimCLR; SigLIP 2 (2502.14786) adds a
teacher to SigLIP in the last fifth of its steps.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_contrastive.config import errors
from big_contrastive.objectives import Objective, Setting
from big_contrastive.objectives._parts import Part, parse
from big_contrastive.objectives._passes import Passes, may_be_shared


@dataclasses.dataclass(frozen=True)
class Mixture(Objective):
  """The sum of weight * loss over the parts that are on.

  All train one model, whose running statistics go from one part to the next in
  the order of their names. A part's other state is extra[name]. The random
  numbers of a part are a function of its name and the step. A part that is off
  is no part of the program: it costs nothing, and its state stays as it is; at
  its `start` it is initialized anew, a teacher as a copy of the model. Of parts
  that begin later, extra["begun"] says by name whether they have: a step that
  is skipped leaves them to the next one.

  Args:
    parts: by name, in the order of names.
    exports: the part that chooses the weights to evaluate, load and convert;
      None for the trained ones.
    now: a step of which this is the program, see `at`.
    shares: whether parts that read the same images share the image tower's
      pass, see _passes.may_be_shared.
  """

  parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)
  exports: str | None = None
  now: int = 0
  shares: bool = False

  @property
  def on(self) -> dict[str, Part]:
    """The parts that are on."""
    return {k: part for k, part in self.parts.items() if part.on(self.now)}

  @property
  def fields(self):
    return _read(self.parts.values())

  @property
  def reads(self):
    return _read(self.on.values())

  @property
  def resized(self):
    return tuple(
      name for part in self.parts.values() for name in part.method.resized
    )

  @property
  def switches(self):
    parts = [part for part in self.parts.values() if part.weight]
    edges = {edge for part in parts for edge in (part.start, part.stop)}
    return tuple(sorted(e for e in edges if 0 < e < self.setting.total))

  def at(self, step):
    return dataclasses.replace(self, now=step)

  @property
  def extra_rules(self):
    own = [
      (f"{name}/(?:{pattern})", placement)
      for name, part in self.parts.items()
      for pattern, placement in part.method.extra_rules
    ]
    return (*own, *super().extra_rules)

  def init(self, key):
    params = first = super().init(key)
    for part in self.parts.values():
      if type(part.method).init is not Objective.init:
        own = part.method.init(key)
        # What it begins with otherwise than the model does.
        params = jax.tree.map(
          lambda p, a, b: jnp.where(a == b, p, b), params, first, own
        )
    return params

  def init_extra(self, params, key):
    extra = super().init_extra(params, key)
    for name, part in self.parts.items():
      own = part.method.init_extra(params, _folded(key, name))
      extra = _with(extra, name, own)
    later = {k: part for k, part in self.parts.items() if part.start}
    begun = {k: jnp.zeros((), bool) for k in later if k in extra}
    return extra | {"begun": begun} if begun else extra

  def __call__(self, params, extra, batch, rng, step):
    total, metrics, begun = jnp.zeros(()), {}, extra.get("begun", {})
    passes = Passes() if self.shares else None
    for name, part in self.on.items():
      key, since = _folded(rng, name), step - part.start
      own = _of(extra, name)
      if name in begun:
        own = self._begun(part, params, own, key, begun[name])
        begun = begun | {name: jnp.ones((), bool)}
      loss, (told, own) = part.sharing(passes)(
        params, own, part.given(batch, passes), key, since
      )
      total += part.weight * loss
      metrics |= {f"{name}/{k}": value for k, value in told.items()}
      extra = _with(extra, name, own)
    extra = extra | {"begun": begun} if begun else extra
    return total, ({"loss": total} | metrics, extra)

  def _begun(self, part, params, own, key, begun):
    """The state of a part that begins later: in its first step a new one."""
    state = {k: v for k, v in own.items() if k != "statistics"}
    params = jax.lax.stop_gradient(params)

    def first():
      # A key that no example has.
      new = part.method.init_extra(params, jax.random.fold_in(key, 2**32 - 1))
      return {k: new[k] for k in state}

    return own | jax.lax.cond(begun, lambda: state, first)

  def after_update(self, params, extra, step):
    for name, part in self.on.items():
      params, own = part.method.after_update(
        params, _of(extra, name), step - part.start
      )
      extra = _with(extra, name, own)
    return params, extra

  def exported(self, params, extra):
    if self.exports is None:
      return super().exported(params, extra)
    method = self.parts[self.exports].method
    return method.exported(params, _of(extra, self.exports))

  def freeze(self, frozen):
    parts = {
      name: dataclasses.replace(part, method=part.method.freeze(frozen))
      for name, part in self.parts.items()
    }
    setting = super().freeze(frozen).setting
    return dataclasses.replace(
      self, setting=setting, frozen=frozen, parts=parts
    )

  def flops(self):
    on, model = self.on.values(), self.setting.model
    total = sum(part.method.flops() for part in on)
    if not self.shares:
      return total
    passes = [name for part in on for name in part.passes]
    again = len(passes) - len(set(passes))
    frozen = model.frozen_parts(self.frozen)
    return total - again * model.abstract.flops(frozen, ("img",))

  @property
  def micro_batches(self):
    counts = (part.method.micro_batches for part in self.parts.values())
    return tuple(n for of_part in counts for n in of_part)

  @property
  def chances(self):
    parts = {k: part for k, part in self.parts.items() if part.weight}
    found = {
      f"{name}/{metric}": value
      for name, part in parts.items()
      for metric, value in part.method.chances.items()
    }
    losses = [found.get(f"{name}/loss") for name in parts]
    if self.switches or None in losses:
      return found
    weighted = zip(losses, parts.values(), strict=True)
    return found | {"loss": sum(x * part.weight for x, part in weighted)}

  @property
  def chance(self):
    return self.chances.get("loss")

  def signs(self, values, batch):
    signs = {}
    for name, part in self.parts.items():
      prefix = f"{name}/"
      own = {
        k.removeprefix(prefix): v
        for k, v in values.items()
        if k.startswith(prefix)
      }
      if own:  # It was on.
        found = part.method.signs(own, part.given(batch))
        signs |= {
          f"{kind} of {name}": line and f"{name}: {line}"
          for kind, line in found.items()
        }
    return signs


def _read(parts: Iterable[Part]) -> tuple[str, ...]:
  """Returns the fields of a batch that any of the parts reads, each once."""
  return tuple(dict.fromkeys(k for part in parts for k in part.reads.values()))


def _folded(key: jax.Array, name: str) -> jax.Array:
  """Returns a key of the part's own, whatever other parts there are."""
  digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
  return jax.random.fold_in(key, int.from_bytes(digest, "little"))


def _of(extra: dict[str, Any], name: str) -> dict[str, Any]:
  """Returns `extra` as the part sees it: its own, and the statistics."""
  shared = {k: extra[k] for k in ("statistics",) if k in extra}
  return shared | extra.get(name, {})


def _with(
  extra: dict[str, Any], name: str, own: dict[str, Any]
) -> dict[str, Any]:
  """Returns `extra` with a part's new one: undoes `_of`."""
  new = {k: v for k, v in own.items() if k != "statistics"}
  changed = {name: new} if new else {}
  if "statistics" in extra:
    changed["statistics"] = own["statistics"]
  return extra | changed


def build(
  setting: Setting, *, parts: dict, exports: str | None = None
) -> Mixture:
  """Returns the objective that config.objective describes.

  The model has the parts that its objectives need; two that need the same head
  share it.

  Args:
    setting: see objectives.Setting.
    parts: by name, a section with the fields of an objective and those of
      `_parts.when`.
    exports: the part that chooses the weights to evaluate, such as its
      teacher's; None for the trained ones.
  """
  made = {k: parse(setting, k, parts[k]) for k in sorted(parts)}
  if exports is not None:
    errors.choice("exports", exports, made)
    part = made[exports]
    if not part.weight or part.start or part.stop < setting.total:
      allowed = "a part that is on in all steps"
      raise errors.UserError("exports", exports, allowed, "Leave it out.")
  shares = may_be_shared(setting.model)
  mixture = Mixture(setting, parts=made, exports=exports, shares=shares)
  for step in (0, *mixture.switches):
    if not mixture.at(step).on:
      allowed = "a part in every step"
      remedy = "Change start, stop or weight of one."
      value = f"none in step {step}"
      raise errors.UserError("parts", value, allowed, remedy)
  towers = {t for part in made.values() for t in part.method.towers}
  if "txt" in setting.model.parts and "txt" not in towers:
    allowed = "no text tower: no part of the mixture reads it"
    raise errors.UserError("config.model.text", "set", allowed, "Leave it out.")
  return mixture
