"""A learning rate that decays from the top of a tower to its input."""

from typing import Any

from big_contrastive.config import errors, rules
from big_contrastive.models.layers import Transformer
from big_contrastive.models.model import Model
from big_contrastive.models.text.blip import Blip

# Parameters that precede a tower's blocks.
_INPUTS = ("embed", "pos", "cls", "segment", "pre_norm")


def factors(
  decay: dict[str, Any], depths: dict[str, int], model: Model
) -> dict[str, float | rules.PerLayer]:
  """Returns each parameter's factor on the learning rate: BEiT's.

  That is decay**distance (arXiv:2106.08254). Of a tower with L blocks, what
  follows them has the distance 0, the last norm included; block i, from 0 on,
  L - i; embeddings and what else precedes the blocks L + 1. OpenCLIP differs in
  the last norm alone, which it counts as a part of the last block. What is
  neither of the image tower nor of the text tower has the distance 0.

  Args:
    decay: by parameter name; 1 for none.
    depths: layers of stacked parameters.
    model: the abstract model.

  Raises:
    UserError: for a number not above 0 and up to 1, or a tower without blocks.
  """
  towers = {name.split("/")[0]: depth for name, depth in depths.items()}
  found: dict[str, float | rules.PerLayer] = {}
  for name, value in decay.items():
    remedy = f"Change the rule that matches {name}."
    if type(value) not in (int, float) or not 0 < value <= 1:
      allowed = "numbers above 0, at most 1"
      raise errors.UserError("config.layer_decay", value, allowed, remedy)
    part, _, rest = name.partition("/")
    depth = towers.get(part)
    if value == 1 or part not in ("img", "txt"):
      found[name] = 1.0
    elif depth is None:
      allowed = "1.0 for a tower without stacked blocks"
      raise errors.UserError("config.layer_decay", value, allowed, remedy)
    elif rules.stacked(name):
      distances = range(depth, 0, -1)
      found[name] = rules.PerLayer(value**n for n in distances)
    else:
      first = _precedes(rest, getattr(model, part))
      found[name] = value ** (depth + 1) if first else 1.0
  return found


def _precedes(name: str, tower: Any) -> bool:
  """Whether a tower's parameter precedes its blocks."""
  if name.split("/")[0] in _INPUTS:
    return True
  if isinstance(tower, Blip):
    return name.startswith("norm/")
  encoder = tower.encoder
  post_norm = isinstance(encoder, Transformer) and encoder.post_norm
  return post_norm and name.startswith("encoder/norm/")


def times(a: Any, b: Any) -> Any:
  """Returns the product of two factors, either of which may be PerLayer."""
  if not isinstance(a, rules.PerLayer) and not isinstance(b, rules.PerLayer):
    return a * b
  depth = len(a) if isinstance(a, rules.PerLayer) else len(b)
  both = (x if isinstance(x, rules.PerLayer) else (x,) * depth for x in (a, b))
  return rules.PerLayer(x * y for x, y in zip(*both, strict=True))
