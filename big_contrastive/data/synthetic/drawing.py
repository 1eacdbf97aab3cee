"""Pictures of scenes: anti-aliased shapes on a soft background."""

import numpy as np
import PIL.Image
import PIL.ImageDraw

from big_contrastive.data.synthetic import scenes
from big_contrastive.data.synthetic.scenes import Scene, Thing

PALETTE = {
  "red": (214, 38, 40),
  "orange": (247, 138, 16),
  "yellow": (243, 224, 42),
  "green": (38, 160, 58),
  "cyan": (40, 208, 218),
  "blue": (36, 72, 214),
  "purple": (128, 44, 168),
  "pink": (247, 132, 196),
  "gray": (124, 124, 126),
  "black": (16, 16, 18),
}

# Lengths are in sides of the image.
_RADIUS = {
  "small": (0.185, 0.195),
  "large": (0.245, 0.26),
}
_TWO_SCALE = 0.85  # So that two large things have room.
_GRID = (0.3, 0.5, 0.7)
_ENDS = (0.26, 0.74)
_TEXTURE_PERIOD = 0.1

_JITTER = 8  # Of colors, in 255ths.
_SAMPLES = 4  # Along each side of a pixel.


def draw(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
  """Returns a picture of a scene: uint8 [side, side, 3].

  Every pixel is the mean of 16 samples. Colors, angles, positions and the
  background vary within what the words allow.
  """
  things = scene.things
  colors = [_jittered(PALETTE[thing.color], rng) for thing in things]
  picture = _background(side, rng)
  for thing, color, center in zip(
    things, colors, _centres(scene, rng), strict=True
  ):
    low, high = _RADIUS[thing.size]
    radius = low + (high - low) * rng.random()
    radius *= _TWO_SCALE if len(things) == 2 else 1.0
    _put(picture, thing, color, center * side, radius * side, rng)
  return np.rint(picture).astype(np.uint8)


def _jittered(color: tuple, rng: np.random.Generator) -> np.ndarray:
  return np.clip(color + rng.uniform(-_JITTER, _JITTER, 3), 0, 255)


def _centres(scene: Scene, rng: np.random.Generator) -> np.ndarray:
  """Returns x and y of each thing, in sides: [things, 2]."""
  if len(scene.things) == 1:
    row, column = divmod(scenes.POSITIONS.index(scene.place), 3)
    at = [[_GRID[column], _GRID[row]]]
    return np.array(at) + rng.uniform(-0.03, 0.03, (1, 2))
  along = _ENDS + rng.uniform(-0.01, 0.01, 2)
  across = 0.5 + rng.uniform(-0.1, 0.1, 2)
  pair = (along, across) if scene.place == "horizontal" else (across, along)
  return np.stack(pair, axis=-1)


def _background(side: int, rng: np.random.Generator) -> np.ndarray:
  """Returns a gradient between two light tints, lighter than all colors."""
  tones = rng.uniform(205, 240, (2, 1)) + rng.uniform(-12, 12, (2, 3))
  angle = rng.uniform(0, 2 * np.pi)
  along = (np.arange(side) + 0.5) / side - 0.5
  ramp = np.cos(angle) * along + np.sin(angle) * along[:, None]
  weight = np.clip(ramp / 1.2 + 0.5, 0, 1)[..., None]
  return tones[0] + weight * (tones[1] - tones[0])


def _put(
  picture: np.ndarray,
  thing: Thing,
  color: np.ndarray,
  center: np.ndarray,
  radius: float,
  rng: np.random.Generator,
) -> None:
  """Draws a thing into the picture, of which it touches only a window."""
  side, reach = len(picture), 1.2 * radius
  low = np.maximum(np.floor(center - reach), 0).astype(int)
  high = np.minimum(np.ceil(center + reach), side).astype(int)
  tilt = rng.uniform(-0.12, 0.12)
  turn = radius * np.array(
    [[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]
  )
  window = picture[low[1] : high[1], low[0] : high[0]]
  mask = PIL.Image.new("L", tuple(int(n) for n in (high - low) * _SAMPLES))
  pen = PIL.ImageDraw.Draw(mask)
  for outline, fill in OUTLINES[thing.shape]:
    points = (outline @ turn + center - low) * _SAMPLES - 0.5
    pen.polygon(points.ravel().tolist(), fill=fill)
  cover = _coverage(mask)
  window *= 1 - cover
  window += cover * color
  if thing.texture != "solid":
    marks = _marks(thing.texture, mask.size, side * _SAMPLES, rng)
    mask = PIL.Image.fromarray(np.asarray(mask) * marks)
    window += _coverage(mask) * (_shade(color) - color)


def _coverage(mask: PIL.Image.Image) -> np.ndarray:
  """Returns how much of each pixel is inside, 0 to 1: [h, w, 1]."""
  return np.asarray(mask.reduce(_SAMPLES), np.float32)[..., None] / 255


def _shade(color: np.ndarray) -> np.ndarray:
  """Returns the second color of textures: darker, of black lighter."""
  return color + 70 if color.max() < 60 else 0.55 * color


def _marks(
  texture: str,
  size: tuple[int, int],
  side: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Returns which samples of a window have the second color: bool [h, w]."""
  period = _TEXTURE_PERIOD * side
  angle = rng.uniform(0, np.pi)
  x = np.arange(size[0]) / period
  y = np.arange(size[1])[:, None] / period
  u = _wave(np.cos(angle) * x, np.sin(angle) * y, rng)
  if texture == "striped":
    return u < 0.45
  v = _wave(-np.sin(angle) * x, np.cos(angle) * y, rng)
  if texture == "checkered":
    return (u < 0.5) == (v < 0.5)
  return (u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.3**2


def _wave(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns the fractional part of x + y + a random phase."""
  u = x.astype(np.float32) + y.astype(np.float32) + np.float32(rng.random())
  return u - np.floor(u)


def _polygon(corners: int, radii: tuple = (1.0,)) -> np.ndarray:
  angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
  r = np.resize(radii, corners)
  return np.stack([r * np.cos(angles), r * np.sin(angles)], axis=-1)


def _heart() -> np.ndarray:
  t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
  x = 16 * np.sin(t) ** 3
  y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
  return np.stack([x, -y - 2.5], axis=-1) / 15.5


def _of(*points: tuple[float, float]) -> np.ndarray:
  return np.array(points)


_FILL, _CLEAR = 255, 0
_ROUND = _polygon(64)
_BAR = _of((-1, -0.34), (1, -0.34), (1, 0.34), (-1, 0.34))

# Each is drawn as polygons filled or cleared, within about one unit from the
# center; y points down.
OUTLINES = {
  "circle": [(_ROUND, _FILL)],
  "square": [(0.88 * _of((-1, -1), (1, -1), (1, 1), (-1, 1)), _FILL)],
  "triangle": [(_of((0, -1), (1.05, 0.85), (-1.05, 0.85)), _FILL)],
  "diamond": [(_of((0, -1.12), (0.8, 0), (0, 1.12), (-0.8, 0)), _FILL)],
  "star": [(1.12 * _polygon(10, (1.0, 0.42)), _FILL)],
  "heart": [(_heart(), _FILL)],
  "cross": [(_BAR, _FILL), (_BAR[:, ::-1], _FILL)],
  "ring": [(_ROUND, _FILL), (0.52 * _ROUND, _CLEAR)],
  "crescent": [
    (_ROUND + (0.22, 0), _FILL),
    (0.85 * _ROUND + (0.68, 0), _CLEAR),
  ],
  "arrow": [
    (_of((-1.05, -0.26), (0.1, -0.26), (0.1, 0.26), (-1.05, 0.26)), _FILL),
    (_of((0.05, -0.85), (1.1, 0), (0.05, 0.85)), _FILL),
  ],
}  # fmt: skip
