"""ImageNet's validation images with ReaL's labels (arXiv:2006.07159).

Several of an image, or none. TFDS alone has them.
"""

from big_contrastive.evals.suites import Set, Suite

SUITE = Suite(
  {
    "val": Set(
      "zero_shot_multi_label",
      tfds="imagenet2012_real",
      split="validation",
      label="real_label",
      names="imagenet1k",
      templates="imagenet1k",
    ),
  }
)
