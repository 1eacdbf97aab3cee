"""DFN (arXiv:2309.17425) on the embedded data set, half of it mismatched.

What launch/dfn.sh runs (docs/scale.md): it trains a filter on 3,000 clean
pairs, fine-tunes it on 1,000 others, averages the two, scores 16,000 of which
half have the captions of others, keeps the best half, and trains a model on
these. The parts: filter, finetuned (needs init=DIR, the filter), kept (needs
kept=FILE), and all (on the whole pool, to compare with). Beside them: steps,
smoke. Unlike the paper's: the demo's small towers, drawn pictures; what it is
fine-tuned on is not cleaner; and the share to keep is known.
"""

from ml_collections import ConfigDict

from configs import common, demo, parsing

# Each with the argument that it needs.
PARTS = {"filter": "", "finetuned": "init", "kept": "kept", "all": ""}


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, part=tuple(PARTS), init="", kept="", steps=400, smoke=False
  )
  for name, what in (("init", "a run"), ("kept", "a file of keep")):
    if (PARTS[arg.part] == name) != bool(getattr(arg, name)):
      parts = [k for k, needed in PARTS.items() if needed == name]
      expected = f"{what} with part={parts[0]}, else none"
      value = getattr(arg, name)
      raise ValueError(name, value, expected, "See launch/dfn.sh.")
  config = demo.get_config("smoke" if arg.smoke else None)
  clean, cleaner, pool = sources(arg.smoke)
  config.source = {"filter": clean, "finetuned": cleaner}.get(arg.part, pool)
  if arg.kept:
    config.source["filter"] = {"keep": arg.kept}
  steps = arg.steps
  if arg.init:
    config.init, config.tokenizer = arg.init, {"kind": "init"}
    config.optimizer.lr = 3e-4
    steps = max(1, steps // 4)
  if not arg.smoke:
    config.total = config.eval_every = config.save_every = f"{steps} steps"
  return config


def sources(smoke: bool) -> tuple[dict, dict, dict]:
  """Returns pairs for the filter, for its fine-tuning, and the pool."""
  clean = common.shapes("train[:15%]", smoke)
  cleaner = common.shapes("train[15%:20%]", smoke)
  pool = common.shapes("train[20%:]", smoke)
  return clean, cleaner, pool | {"wrong": 0.5}
