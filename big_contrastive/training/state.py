"""What training changes."""

from typing import Any, NamedTuple

import jax


class State(NamedTuple):
  """Everything on the devices that training changes.

  The randomness of a step is fold_in(seed, step), so no key is kept.
  """

  step: jax.Array
  params: dict[str, Any]
  opt: Any
  extra: dict[str, Any]
