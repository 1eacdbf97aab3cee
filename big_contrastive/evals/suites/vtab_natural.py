"""The natural sets of VTAB (arXiv:1910.04867): seven test splits.

Of SUN397 CLIP_benchmark's code takes all 108,754 images, and TFDS's test split
is VTAB's 21,750: two figures, told apart by the number of examples.
"""

from big_contrastive.evals.suites import Set, Suite


def _scene(name: str) -> str:
  """Returns "abbey" of SUN397's "/a/abbey"."""
  return name[3:].replace("_", " ").replace("/", " ")


SUITE = Suite(
  {
    "caltech101": Set(
      wds="wds_vtab-caltech101",
      tfds="caltech101",
      names="caltech101_vtab",
      templates="caltech101",
    ),
    "cifar100": Set(
      wds="wds_vtab-cifar100", tfds="cifar100", templates="cifar100"
    ),
    "dtd": Set(wds="wds_vtab-dtd", tfds="dtd", templates="dtd"),
    "flowers102": Set(
      wds="wds_vtab-flowers", tfds="oxford_flowers102", templates="flowers"
    ),
    "pets": Set(
      wds="wds_vtab-pets",
      tfds="oxford_iiit_pet",
      names="pets",
      templates="pets",
    ),
    "svhn": Set(
      wds="wds_vtab-svhn", tfds="svhn_cropped", names="svhn", templates="svhn"
    ),
    "sun397": Set(
      wds="wds_sun397", tfds="sun397/tfds", templates="sun397", rename=_scene
    ),
  },
  mean=True,
)
