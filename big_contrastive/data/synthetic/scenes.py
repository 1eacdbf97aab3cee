"""Samples scenes, and defines which of them training never sees.

A scene is one or two shapes. One in five compositions of color and shape,
and more than one in five arrangements of two shapes, are held out of
training, so that naming them takes an understanding of their parts.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

SHAPES = (
  "circle", "square", "triangle", "diamond", "star",
  "heart", "cross", "ring", "crescent", "arrow",
)  # fmt: skip
COLORS = (
  "red", "orange", "yellow", "green", "cyan",
  "blue", "purple", "pink", "gray", "black",
)  # fmt: skip
SIZES = ("small", "large")
TEXTURES = ("solid", "striped", "dotted", "checkered")
POSITIONS = (
  "top left", "top", "top right",
  "left", "center", "right",
  "bottom left", "bottom", "bottom right",
)  # fmt: skip
AXES = ("horizontal", "vertical")

# The attributes that each split's labels consist of. Labeled scenes have one
# thing.
ASKED = {
  "train": (),
  "val": (),
  "heldout": ("color", "shape"),
  "heldout_relations": (),
  "by_composition": ("color", "shape"),
  "by_shape": ("shape",),
  "by_colour": ("color",),
  "by_size": ("size",),
  "by_texture": ("texture",),
  "by_position": ("place",),
}
ANSWERS = {
  "shape": SHAPES,
  "color": COLORS,
  "size": SIZES,
  "texture": TEXTURES,
  "place": POSITIONS,
}

# The share of scenes with two things in train and val.
_PAIRS = 0.2


@dataclasses.dataclass(frozen=True)
class Thing:
  """One shape; in a description, None is an attribute that is not mentioned."""

  shape: str | None = None
  color: str | None = None
  size: str | None = None
  texture: str | None = None


@dataclasses.dataclass(frozen=True)
class Scene:
  """One thing and its position, or two and the axis along which they lie.

  Of two, the first is left of or above the second.
  """

  things: tuple[Thing, ...]
  place: str | None = None


def answer(scene: Scene, question: str) -> str | None:
  """Returns the value of a key of ANSWERS in a scene, for its first thing."""
  return (
    scene.place if question == "place" else getattr(scene.things[0], question)
  )


def held_out(thing: Thing) -> bool:
  """Whether training never sees this color of this shape.

  Two colors of every shape are held out, and two shapes of every color.
  """
  shape, color = SHAPES.index(thing.shape), COLORS.index(thing.color)
  return (shape + 3 * color) % 5 == 0


def held_out_relation(scene: Scene) -> bool:
  """Whether training never sees these two shapes in this order on this axis.

  It sees them the other way round, and in this order on the other axis, so
  the shapes alone don't give the answer away.
  """
  first, second = (SHAPES.index(thing.shape) for thing in scene.things)
  away = (3, 8) if scene.place == "horizontal" else (2, 7)
  return (second - first) % len(SHAPES) in away


def sample(split: str, index: int, rng: np.random.Generator) -> Scene:
  """Returns scene `index` of a split.

  If the labels consist of one attribute, its values come in turn, so all are
  equally frequent.

  Args:
    split: a key of ASKED.
    index: at least 0.
    rng: draws whatever the split leaves open.
  """
  if split == "heldout":
    return _until(lambda: _one(rng), lambda s: held_out(s.things[0]))
  if split == "heldout_relations":
    return _until(lambda: _two(rng), held_out_relation)
  asked = ASKED[split]
  if not asked and rng.random() < _PAIRS:
    return _until(lambda: _two(rng), lambda s: not held_out_relation(s))

  def fits(scene: Scene) -> bool:
    if held_out(scene.things[0]):
      return False
    values = ANSWERS[asked[0]] if len(asked) == 1 else ()
    return not values or answer(scene, asked[0]) == values[index % len(values)]

  return _until(lambda: _one(rng), fits)


def _until(make: Callable[[], Scene], good: Callable[[Scene], bool]) -> Scene:
  while not good(scene := make()):
    pass
  return scene


def _one(rng: np.random.Generator) -> Scene:
  return Scene((_thing(rng),), _any(rng, POSITIONS))


def _two(rng: np.random.Generator) -> Scene:
  """Two things of different shapes and colors, both seen in training."""
  axis = _any(rng, AXES)
  while True:
    a, b = _thing(rng), _thing(rng)
    distinct = a.shape != b.shape and a.color != b.color
    if distinct and not held_out(a) and not held_out(b):
      return Scene((a, b), axis)


def _thing(rng: np.random.Generator) -> Thing:
  return Thing(*(_any(rng, v) for v in (SHAPES, COLORS, SIZES, TEXTURES)))


def _any(rng: np.random.Generator, values: tuple[str, ...]) -> str:
  return values[int(rng.random() * len(values))]
