"""Checks of the Vision Transformer's fields."""

from big_contrastive.config import errors


def parse_variant(
  variant: str, res: int, remainder: bool = False
) -> tuple[str, int]:
  """Returns "B" and 16 for "B/16"; checks the patch side against res."""
  where = "variant"
  name, _, patch = variant.partition("/")
  if not patch.isdigit() or not int(patch):
    allowed = "a size and a patch side in pixels"
    remedy = 'Write the patch side after the size: "B/16".'
    raise errors.UserError(where, variant, allowed, remedy)
  if res % int(patch) and not remainder:
    near = max(1, round(res / int(patch))) * int(patch)
    raise errors.UserError(
      "res",
      res,
      f"a multiple of the patch side {patch}",
      f"The nearest is {near}.",
    )
  return name, int(patch)


def check(
  *,
  cls_pos: bool,
  pool: str,
  pos: str,
  keep: float,
  queries: int,
  pool_heads: int,
  wide: int,
  max_patches: int | None,
) -> None:
  """Raises UserError for fields that don't go together, see vit.ImageTower.

  Args:
    wide: width of what the queries of pool="queries" yield.
  """
  if cls_pos and (pool not in ("tok", "queries") or pos != "learned"):
    allowed = 'False unless pool = "tok" or "queries", and pos = "learned"'
    remedy = "It is the position of the class token."
    raise errors.UserError("cls_pos", True, allowed, remedy)
  if not 0 < keep <= 1:
    allowed = "a number above 0, at most 1"
    remedy = "FLIP keeps 0.5 or 0.25; 1 is off."
    raise errors.UserError("keep", keep, allowed, remedy)
  if pool == "queries" and (queries < 1 or wide % pool_heads):
    value = f"{pool_heads}, queries = {queries}"
    allowed = f"a divisor of the width {wide}, and one query or more"
    remedy = "OpenCLIP's CoCa has 8 and 255."
    raise errors.UserError("pool_heads", value, allowed, remedy)
  if max_patches is not None:
    _check_naflex(max_patches, pool=pool, pos=pos, keep=keep)


def _check_naflex(max_patches: int, **fields: object) -> None:
  """Raises UserError for fields that padded patches don't support."""
  if max_patches < 1:
    allowed = "a whole number from 1 up, or None"
    remedy = "SigLIP 2 has 256 to 1024; None is for images of one size."
    raise errors.UserError("max_patches", max_patches, allowed, remedy)
  for name, value in {"pool": "map", "pos": "learned", "keep": 1.0}.items():
    if fields[name] != value:
      allowed = f"{value!r} with max_patches"
      remedy = "Set max_patches = None, for images of one size."
      raise errors.UserError(name, fields[name], allowed, remedy)
