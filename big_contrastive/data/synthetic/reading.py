"""Reads a caption of a scene: the grammar of captions.py, backwards."""

from big_contrastive.data.synthetic import captions, scenes
from big_contrastive.data.synthetic.scenes import Scene, Thing

_ARTICLES = ("a", "an")
_NOUNS = {
  words: shape
  for shape in (*scenes.SHAPES, None)
  for words in captions.NOUNS.get(shape, (shape,))
}
_WORDS = {
  word: (field, value)
  for field in ("size", "texture", "color")
  for value in scenes.ANSWERS[field]
  for word in captions.ADJECTIVES.get(value, (value,))
}
_WITH = {phrase: texture for texture, phrase in captions.WITH.items()}
_PLACES = {
  phrase: place
  for place, phrases in captions.PLACES.items()
  for phrase in phrases
}
# Phrase between two things -> axis, and whether the first one comes second.
_LINKS = {
  phrase: (axis, backward)
  for backward, links in enumerate((captions.FORWARD, captions.BACKWARD))
  for axis, phrases in links.items()
  for phrase in phrases
}


def read(caption: str) -> Scene | None:
  """Returns what a caption mentions; None if it is no caption of a scene."""
  text = " ".join(caption.lower().split())
  for frame, _ in captions.FRAMES:
    begin = frame.removesuffix("{}")
    if begin and text.startswith(begin):
      text = text[len(begin) :]
      break
  # The longest first: "to the left of" has "left of" in it.
  for phrase in sorted(_LINKS, key=len, reverse=True):
    first, link, second = text.partition(f" {phrase} ")
    if link:
      axis, backward = _LINKS[phrase]
      both = (_thing(second), _thing(first)) if backward else (
        _thing(first), _thing(second)
      )  # fmt: skip
      return None if None in both else Scene(both, axis)
  place = None
  for phrase in sorted(_PLACES, key=len, reverse=True):
    if text.endswith(f" {phrase}"):
      text, place = text.removesuffix(f" {phrase}"), _PLACES[phrase]
      break
  thing = _thing(text)
  return None if thing is None else Scene((thing,), place)


def true(scene: Scene, caption: str) -> bool:
  """Whether a caption is one of a scene, and all that it mentions is so."""
  told = read(caption)
  if told is None or len(told.things) != len(scene.things):
    return False
  if told.place not in (None, scene.place):
    return False
  return all(
    getattr(a, field) in (None, getattr(b, field))
    for a, b in zip(told.things, scene.things, strict=True)
    for field in ("shape", "color", "size", "texture")
  )


def _thing(text: str) -> Thing | None:
  found: dict[str, str | None] = {}
  for phrase, texture in _WITH.items():
    if text.endswith(f" {phrase}"):
      text = text.removesuffix(f" {phrase}")
      found["texture"] = texture
  noun = next((n for n in _NOUNS if f" {text}".endswith(f" {n}")), None)
  if noun is None:
    return None
  found["shape"] = _NOUNS[noun]
  words = text.removesuffix(noun).split()
  for word in words[1:] if words[:1] and words[0] in _ARTICLES else words:
    field, value = _WORDS.get(word, (None, None))
    if field is None or field in found:
      return None
    found[field] = value
  return Thing(**found)
