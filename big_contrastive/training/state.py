"""The training state, and its items in a checkpoint."""

from typing import Any, NamedTuple

import jax

from big_contrastive.config import errors, rules
from big_contrastive.models.model import variables
from big_contrastive.objectives import Objective


class State(NamedTuple):
  """Everything on the devices that training changes.

  The randomness of a step is fold_in(seed, step), so no key is kept.
  """

  step: jax.Array
  params: dict[str, Any]
  opt: Any
  extra: dict[str, Any]

  @property
  def variables(self) -> dict[str, Any]:
    """The model's parameters and running statistics, a nested dict."""
    return variables(self.params, self.extra.get("statistics"))

  def items(self) -> dict[str, Any]:
    """Returns the items of a checkpoint; an empty `extra` is left out."""
    items = {
      "params": self.params,
      "training": {"step": self.step, "opt": self.opt},
    }
    return items | ({"extra": self.extra} if self.extra else {})


def from_items(items: dict[str, Any]) -> State:
  """Returns the state with these items: the inverse of State.items."""
  extra = items.get("extra", {})
  return State(params=items["params"], extra=extra, **items["training"])


def exported(objective: Objective, state: State) -> dict[str, str] | None:
  """Returns the name of the checkpoint's leaf for each exported parameter.

  Args:
    objective: whose `exported` selects leaves.
    state: arrays or shapes; only the names count.

  Returns:
    {"img/pos": "extra/ema/img/pos", ...}, or None if all are in params.
  """

  def named(item: str, tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: f"{item}/{_name(path)}", tree
    )

  params, extra = named("params", state.params), named("extra", state.extra)
  leaves = set(jax.tree.leaves((params, extra)))
  sources = rules.flatten(objective.exported(params, extra))
  if computed := sorted(k for k, v in sources.items() if v not in leaves):
    expected = "leaves of params and extra, selected and not computed"
    remedy = "Keep what is to be exported in extra."
    thing = "what the objective's `exported` returns"
    raise errors.UserError(thing, computed[:4], expected, remedy)
  if all(source == f"params/{name}" for name, source in sources.items()):
    return None
  return sources


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")
