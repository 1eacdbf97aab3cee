"""DFN (arXiv:2309.17425) on the embedded data set, half of it mismatched.

What launch/dfn.sh runs (docs/scale.md): it trains a filter on 4,000 clean
pairs, scores 16,000 of which half have the captions of others, keeps the best
half, and trains a model on these. The parts: filter, kept (needs kept=FILE),
and all (on the whole pool, to compare with). Beside them: steps, smoke. Unlike
the paper's: the demo's small towers, drawn pictures, no fine-tuning of the
filter; and the share to keep is known.
"""

from ml_collections import ConfigDict

from configs import common, demo

PARTS = ("filter", "kept", "all")


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = common.parse(argument, part="filter", kept="", steps=400, smoke=False)
  if arg.part not in PARTS:
    raise ValueError("part", arg.part, "one of " + ", ".join(PARTS), "")
  config = demo.get_config("smoke" if arg.smoke else None)
  clean, pool = sources(arg.smoke)
  config.source = clean if arg.part == "filter" else pool
  if (arg.part == "kept") != bool(arg.kept):
    expected = "a file of big_contrastive.keep with part=kept, else none"
    raise ValueError("kept", arg.kept, expected, "See launch/dfn.sh.")
  if arg.kept:
    config.source["filter"] = {"keep": arg.kept}
  if not arg.smoke:
    config.total = f"{arg.steps} steps"
    config.eval_every = config.save_every = f"{arg.steps} steps"
  return config


def sources(smoke: bool) -> tuple[dict, dict]:
  """Returns the clean pairs for the filter, and the pool."""
  clean = common.shapes("train[:20%]", smoke)
  pool = common.shapes("train[20%:]", smoke)
  return clean, pool | {"wrong": 0.5}
