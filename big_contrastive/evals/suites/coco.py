"""COCO retrieval: Karpathy's test split, 5,000 images with all captions."""

from big_contrastive.evals.suites import Set, Suite

SUITE = Suite(
  {
    "test": Set(
      "retrieval",
      wds="wds_mscoco_captions",
      tfds="coco_captions",
      text="captions/text",
    ),
  }
)
