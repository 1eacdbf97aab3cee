"""CapFilt (arXiv:2201.12086, 3.3) on the embedded data set, 30 % mismatched.

What launch/capfilt.sh runs (docs/captions.md): it trains BLIP on 20,000 scenes,
of which three in ten have the captions of others; that model tells a caption of
each and scores all, and a new one is trained on what scores well. The parts:
first, and retrained (needs captions=FOLDER). Beside them: threshold, steps,
smoke. Unlike the paper's: blip.py's small towers, drawn pictures; captioner and
filter are the first model itself, which is not fine-tuned on clean pairs; of
an image's captions one is drawn each time.
"""

from ml_collections import ConfigDict

from configs import blip, common, parsing


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  arg = parsing.arguments(
    argument, part=("first", "retrained"), captions="", threshold=0.5,
    steps=900, smoke=False,
  )  # fmt: skip
  if (arg.part == "retrained") != bool(arg.captions):
    expected = "a folder of caption with part=retrained, else none"
    remedy = "See launch/capfilt.sh."
    raise ValueError("captions", arg.captions, expected, remedy)
  config = blip.get_config("smoke" if arg.smoke else "quick")
  config.source = common.shapes("train", arg.smoke) | {"wrong": 0.3}
  if arg.captions:
    config.source["filter"] = {
      "captions": arg.captions, "threshold": arg.threshold
    }  # fmt: skip
  if not arg.smoke:
    config.total = config.eval_every = f"{arg.steps} steps"
  return config
