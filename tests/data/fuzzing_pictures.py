"""Pictures in every form that Python has: the right embeddings, or the item."""

import io
import math
import pathlib
from typing import Any

import numpy as np
import PIL.Image

from big_contrastive.config import errors


class Tensor:
  """As torch's: an array, if it is asked for it."""

  def __init__(self, array: np.ndarray):
    self.array = array

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return self.array


def fault(rng, folder: pathlib.Path, model: Any) -> str:
  """Embeds a few pictures; returns what is wrong with it, "" if nothing."""
  count = rng.randint(1, 4)
  shapes = [(rng.randint(1, 40), rng.randint(1, 40)) for _ in range(count)]
  form = rng.choice(["one", "batch", *_SEVERAL])
  if form == "batch":
    shapes = shapes[:1] * count
  pictures = [_picture(rng, *shape) for shape in shapes]
  if form == "batch":
    pictures = [p.convert(pictures[0].mode) for p in pictures]
  if form == "one":
    pictures = pictures[:1]
  given, bad, note = _given(rng, folder, form, pictures)
  note = f"{form} of {note}"
  try:
    found = model.encode_image(given)
  except errors.UserError as e:
    thing = str(e).split()[0]
    # One array may be told as one picture, or as the first of a batch.
    right = bad is not None and "\n" not in str(e) and thing in bad
    return "" if right else f"{note}: {bad} wrong, told: {e}"
  except Exception as e:
    return f"{note}: {type(e).__name__}: {e}"
  if bad is not None:
    return f"{note}: {bad} is wrong, but embedded: {found.shape}"
  want = model.encode_image([_png(_plain(p)) for p in pictures])
  if found.shape != want.shape or np.abs(found - want).max() > 1e-6:
    off = found.shape == want.shape and np.abs(found - want).max()
    return f"{note}: {found.shape}, off by {off}, not {want.shape}"
  return ""


def _picture(rng, height: int, width: int) -> PIL.Image.Image:
  r = np.random.default_rng(rng.randrange(2**32))
  mode = rng.choice(
    ["RGB", "RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr"]
  )
  pixels = r.integers(0, 256, (height, width, 3), np.uint8)
  picture = PIL.Image.fromarray(pixels)
  if mode in ("RGBA", "LA"):
    alpha = PIL.Image.fromarray(pixels[..., 0])
    picture.putalpha(alpha)
  return picture.convert(mode)


def _plain(picture: PIL.Image.Image) -> PIL.Image.Image:
  """The same in a mode that a PNG has."""
  there = picture.mode in ("RGB", "L", "RGBA", "LA", "P", "1")
  return picture if there else picture.convert("RGB")


def _png(picture: PIL.Image.Image, form: str = "PNG", **how) -> bytes:
  file = io.BytesIO()
  picture.save(file, form, **how)
  return file.getvalue()


def _given(rng, folder, form, pictures) -> tuple[Any, Any, str]:
  """What is passed, what errors may call the wrong one, and what it is."""
  if form == "batch":
    mode = rng.choice(["RGB", "L", "RGBA"])
    for i, picture in enumerate(pictures):
      pictures[i] = picture.convert(mode)
    arrays = [np.asarray(p) for p in pictures]
    batch = np.stack(arrays)
    batch = batch[..., None] if mode == "L" else batch
    return (
      rng.choice([np.asarray, np.asfortranarray, Tensor])(batch),
      None,
      mode,
    )
  made = [_one(rng, folder, i, p) for i, p in enumerate(pictures)]
  items = [item for item, _ in made]
  note = ", ".join(said for _, said in made)
  bad = None
  if rng.random() < 0.4:
    i = rng.randrange(len(items))
    data = _png(_plain(pictures[i]))
    value = _bad(rng, data, folder, form == "one")
    items[i], bad = value, (f"images[{i}]",)
    note += f", number {i} is {type(value).__name__} {value!r:.60}"
    if form == "one":
      bad = ("images", "images[0]")
  if form == "one":
    return items[0], bad, note
  return _SEVERAL[form](items), bad, note


def _objects(items: list) -> np.ndarray:
  found = np.empty(len(items), object)
  for i, item in enumerate(items):
    found[i] = item
  return found


_SEVERAL = {
  "a list": list,
  "a tuple": tuple,
  "a generator": lambda items: (item for item in items),
  "an iterator": iter,
  "values": lambda items: dict(enumerate(items)).values(),
  "objects": _objects,
}


def _one(rng, folder, number: int, picture) -> tuple[Any, str]:
  """A picture in one of its forms."""
  plain = _plain(picture)
  data = _png(plain)
  kinds = ["PNG"]
  if plain.mode == "RGB":
    kinds += ["BMP", "TIFF", "PPM", "WEBP"]
  kind = rng.choice(kinds)
  data = _png(plain, kind, **({"lossless": True} if kind == "WEBP" else {}))
  path = folder / f"{number} é.{kind.lower()}"
  path.write_bytes(data)
  forms = {
    "path": path, "name": str(path), "text": np.str_(path), "bytes": data,
    "bytearray": bytearray(data), "view": memoryview(data),
    "file": io.BytesIO(data), "PIL": picture,
    "opened": PIL.Image.open(io.BytesIO(data)),
  }  # fmt: skip
  if plain.mode in ("RGB", "L", "RGBA"):
    array = np.asarray(plain)
    turned = np.ascontiguousarray(array[::-1])[::-1]
    wide = np.repeat(array, 2, 1)[:, ::2]
    forms |= {
      "array": array, "fortran": np.asfortranarray(array), "turned": turned,
      "every second": wide, "tensor": Tensor(array),
    }  # fmt: skip
    if plain.mode == "L":
      forms["gray of one channel"] = array[..., None]
  name = rng.choice(list(forms))
  return forms[name], f"{name} ({kind}, {picture.mode} {picture.size})"


def _bad(rng, data: bytes, folder: pathlib.Path, alone: bool) -> Any:
  """What is no picture; in a list, several are none, either."""
  pixels = np.full((5, 6, 3), 7, np.uint8)
  arrays = [
    pixels / 255, pixels.astype(np.float32), pixels.astype(np.int64),
    pixels.astype(np.uint16), pixels > 3, pixels[..., :2], pixels[:0],
    pixels[None, None], pixels.astype(np.int8), np.array(5), pixels[0, 0],
    np.full((5, 6, 3), math.nan), pixels.astype(complex),
    np.zeros((5, 6, 5), np.uint8), np.zeros((3, 50, 60), np.uint8),
  ]  # fmt: skip
  others = [
    None, 5, 2.5, math.nan, True, {}, {"a": 1}, object(), 1j, type, len,
    slice(1), frozenset({1}), b"", b"no picture", data[: len(data) // 2],
    "nowhere.png", "", "a\0b", pathlib.Path("no"), "x" * 5000, folder,
    io.StringIO("x"), io.BytesIO(b""), PIL.Image.new("F", (3, 3)),
    PIL.Image.new("I", (3, 3)),
  ]  # fmt: skip
  within = [[], [pixels], (pixels,), range(3), np.zeros((2, 5, 6, 3), np.uint8)]
  return rng.choice([*arrays, *others, *within * (not alone)])


def fault_of_texts(rng, model: Any) -> str:
  """Embeds a few texts; returns what is wrong with it, "" if nothing."""
  texts = rng.choices(_TEXTS, k=rng.randint(1, 4))
  given = [_one_text(rng, said) for said in texts]
  bad = None
  if rng.random() < 0.4:
    i = rng.randrange(len(given))
    none = [None, 5, math.nan, True, {}, [], ["a"], b"caf\xe9", np.ones(2)]
    given[i], bad = rng.choice(none), f"texts[{i}]"
  form = rng.choice(list(_SEVERAL))
  note = f"{form} of {given!r}"
  try:
    found = model.encode_text(_SEVERAL[form](given))
  except errors.UserError as e:
    right = "\n" not in str(e) and str(e).split()[0] == bad
    return "" if right else f"{note}: {bad} wrong, told: {e}"
  except Exception as e:
    return f"{note}: {type(e).__name__}: {e}"
  if bad is not None:
    return f"{note}: {bad} is wrong, but embedded: {found.shape}"
  want = model.encode_text([said.replace("\ud800", "?") for said in texts])
  same = found.shape == want.shape and np.abs(found - want).max() <= 1e-6
  return "" if same else f"{note}: not as lists of str"


_TEXTS = [
  "a cat", "", "猫 é", "dogs, 'two'\n", "x" * 300, "half \ud800", "🦄 nan",
]  # fmt: skip


def _one_text(rng, said: str) -> Any:
  forms = [said, said, np.str_(said)]
  if "\ud800" not in said:  # No file, and no bytes, have half a pair.
    data = said.encode()
    forms += [data, bytearray(data), memoryview(data)]
  return rng.choice(forms)
