"""Crossmodal-3600 (arXiv:2205.12522): retrieval in 36 languages.

All captions of an image, as big_vision, whose TFDS data set `xm3600` has a
split for each language; CLIP_benchmark takes the first. Nobody publishes tars:
"wds_crossmodal3600-de" is the folder of those that you write.
"""

from big_contrastive.evals.suites import Set, Suite

_LANGUAGES = (
  "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr",
  "he", "hi", "hr", "hu", "id", "it", "ja", "ko", "mi", "nl", "no", "pl",
  "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip

SUITE = Suite(
  {
    language: Set(
      "retrieval",
      wds=f"wds_crossmodal3600-{language}",
      tfds="xm3600",
      split=language,
      text="captions",
    )
    for language in _LANGUAGES
  },
  mean=True,
  same_images=True,
)
