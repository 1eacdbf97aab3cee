"""Flickr30k retrieval: Karpathy's test split, 1,000 images of five captions."""

from big_contrastive.evals.suites import Set, Suite

SUITE = Suite({"test": Set("retrieval", wds="wds_flickr30k")})
