"""English captions for scenes, in several wordings.

A description is a scene in which None stands for what is not mentioned. All
captions of an image are wordings of one description, and `meaning` numbers
descriptions: an image's captions fit every image with the same number.
"""

import itertools

import numpy as np

from big_contrastive.data.synthetic import scenes
from big_contrastive.data.synthetic.scenes import Scene, Thing

# The first word is the one in class names; each is as frequent as the others.
NOUNS = {
  "circle": ("circle", "disc"),
  "square": ("square", "box"),
  "diamond": ("diamond", "rhombus"),
  "cross": ("cross", "plus sign"),
  "ring": ("ring", "hoop"),
  "crescent": ("crescent", "moon"),
  None: ("shape", "object", "thing"),
}
ADJECTIVES = {
  "cyan": ("cyan", "turquoise"),
  "purple": ("purple", "violet"),
  "small": ("small", "little", "tiny"),
  "large": ("large", "big", "huge"),
  "solid": ("solid", "plain"),
  "dotted": ("dotted", "spotted"),
  "checkered": ("checkered", "checked"),
}
# After the noun, in place of the adjective.
WITH = {
  "striped": "with stripes",
  "dotted": "with dots",
  "checkered": "with checks",
}
PLACES = {
  "top left": ("in the top left", "in the upper left corner"),
  "top": ("at the top", "at the upper edge"),
  "top right": ("in the top right", "in the upper right corner"),
  "left": ("on the left", "at the left edge"),
  "center": ("in the center", "in the middle"),
  "right": ("on the right", "at the right edge"),
  "bottom left": ("in the bottom left", "in the lower left corner"),
  "bottom": ("at the bottom", "at the lower edge"),
  "bottom right": ("in the bottom right", "in the lower right corner"),
}
# Both directions say the same, with the things in the other order.
FORWARD = {
  "horizontal": ("to the left of", "left of"),
  "vertical": ("above", "over"),
}
BACKWARD = {
  "horizontal": ("to the right of", "right of"),
  "vertical": ("below", "under"),
}
# A frame, and whether the things in it have articles.
FRAMES = (
  ("{}", True),
  ("{}", True),
  ("{}", False),
  ("a picture of {}", True),
  ("an image of {}", True),
  ("there is {}", True),
)

# How often an attribute is mentioned of a single thing, and of each of two.
_SAID = {"shape": 0.95, "color": 0.9, "size": 0.3, "texture": 0.3}
_SAID_OF_TWO = {"shape": 1.0, "color": 1.0, "size": 0.15, "texture": 0.15}
_SAID_PLACE = 0.3
_WORDINGS = 3


def describe(split: str, scene: Scene, rng: np.random.Generator) -> Scene:
  """Returns the scene without the attributes that captions don't mention.

  The axis of two things is always mentioned, and so are the attributes that
  the split's labels consist of, such as color and shape.
  """
  if len(scene.things) == 2:
    things = tuple(_keep(t, _SAID_OF_TWO, rng) for t in scene.things)
    return Scene(things, scene.place)
  always = dict.fromkeys(scenes.ASKED[split], 1.0)
  thing = _keep(scene.things[0], _SAID | always, rng)
  place = scene.place if rng.random() < _SAID_PLACE else None
  if place is None and thing == Thing():
    thing = Thing(shape=scene.things[0].shape)
  return Scene((thing,), place)


def captions(description: Scene, rng: np.random.Generator) -> list[str]:
  """Returns one to three different wordings of a description."""
  worded = (_caption(description, rng) for _ in range(_WORDINGS))
  return list(dict.fromkeys(worded))


def meaning(description: Scene) -> int:
  """Returns a number in [0, 2**31), the same only for equal descriptions."""
  places = (None, *scenes.POSITIONS, *scenes.AXES)
  number = places.index(description.place)
  for thing in (*description.things, Thing())[:2]:
    for field, value in vars(thing).items():
      values = (None, *scenes.ANSWERS[field])
      number = number * len(values) + values.index(value)
  return number


def classes(split: str) -> list[str] | None:
  """Returns the class names of a split by label, None if it has no labels.

  They fit prompts such as "a picture of a {c}".
  """
  if not (asked := scenes.ASKED[split]):
    return None
  names = []
  for values in itertools.product(*(scenes.ANSWERS[a] for a in asked)):
    attributes = dict(zip(asked, values, strict=True))
    place = attributes.pop("place", None)
    noun = " ".join(_phrase(Thing(**attributes), None))
    names.append(f"{noun} {PLACES[place][0]}" if place else noun)
  return names


def label(split: str, scene: Scene) -> int:
  """Returns the class of a scene in a split, -1 if it has no labels."""
  number = 0
  for question in scenes.ASKED[split]:
    values = scenes.ANSWERS[question]
    number = number * len(values) + values.index(scenes.answer(scene, question))
  return number if scenes.ASKED[split] else -1


def _keep(
  thing: Thing, often: dict[str, float], rng: np.random.Generator
) -> Thing:
  names = (k for k in vars(thing) if rng.random() < often[k])
  return Thing(**{k: getattr(thing, k) for k in names})


def _caption(description: Scene, rng: np.random.Generator) -> str:
  frame, articles = _any(rng, FRAMES)
  worded = [_phrase(thing, rng) for thing in description.things]
  if articles:
    worded = [[_article(words[0]), *words] for words in worded]
  place = description.place
  if len(worded) == 2:
    backward = rng.random() < 0.5
    link = _any(rng, (BACKWARD if backward else FORWARD)[place])
    first, second = reversed(worded) if backward else worded
    return frame.format(" ".join([*first, link, *second]))
  where = [_any(rng, PLACES[place])] if place else []
  return frame.format(" ".join([*worded[0], *where]))


def _phrase(thing: Thing, rng: np.random.Generator | None) -> list[str]:
  """Returns the words for a thing without article; plain ones without rng."""
  before = [thing.size, thing.texture, thing.color]
  after = []
  if rng is not None and thing.texture in WITH and rng.random() < 0.3:
    before, after = [thing.size, thing.color], [WITH[thing.texture]]
  words = [_any(rng, ADJECTIVES.get(w, (w,))) for w in before if w]
  noun = _any(rng, NOUNS.get(thing.shape, (thing.shape,)))
  return [*words, noun, *after]


def _article(word: str) -> str:
  return "an" if word[0] in "aeiou" else "a"


def _any(rng: np.random.Generator | None, options: tuple) -> object:
  return options[0 if rng is None else int(rng.random() * len(options))]
