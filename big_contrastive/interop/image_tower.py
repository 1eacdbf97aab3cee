"""A locked image tower, put back where its vectors stood (LiT)."""

import dataclasses

from big_contrastive.config import errors
from big_contrastive.interop.bundle import ModelBundle


def with_tower(
  model: ModelBundle, other: ModelBundle, where: str
) -> ModelBundle:
  """Returns a model of pictures, of one that was trained on their vectors.

  Args:
    model: with the image tower `vectors`, without a linear layer.
    other: whose image tower made these vectors; gives the preprocessing, too.
    where: what `other` is called in errors.

  Raises:
    UserError: for another image tower, or one of another width.
  """
  section = model.model["image"]
  if section.get("tower") != "vectors":
    tower, allowed = section.get("tower", "vit"), "an image tower of vectors"
    remedy = "Its own reads pictures already: leave this out."
    raise errors.UserError("config.model.image.tower", tower, allowed, remedy)
  if section.get("linear"):
    # Its bias is added to unit vectors, which no tower's own layer has.
    allowed = "False: a tower can't have the layer behind its unit vectors"
    remedy = "Train without it, and let the text tower have the width."
    raise errors.UserError("config.model.image.linear", True, allowed, remedy)
  fused = dataclasses.replace(
    model,
    model=model.model | {"image": other.model["image"]},
    params=model.params | {"img": other.params["img"]},
    image=other.image,
  )
  try:
    width = fused.build().abstract.img.out_dim
  except errors.UserError as e:
    raise errors.UserError(
      where, "an image tower that does not fit", "the one of the vectors",
      str(e),
    ) from e  # fmt: skip
  if width != section["width"]:
    allowed = f"one with {section['width']}, as the vectors"
    remedy = "Give the model that embed had."
    raise errors.UserError(f"width of {where}", width, allowed, remedy)
  return fused
