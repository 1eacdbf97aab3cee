"""SigLIP, and a teacher in its last fifth: the plan of SigLIP 2.

  python -m big_contrastive.train --workdir runs/siglip2 \\
    --config configs/siglip2.py:data=my_tfds_pairs,vocab=c4_en.model

arXiv:2502.14786. Arguments: those of siglip.py. As in the paper, pairs keep the
image as it is, the teacher's loss is over augmented views beside it, the
teacher begins at 80 % of the run as a copy of the model, and so do the heads
and their optimizer's state. Unlike it, the loss is MoCo v3's, where the paper
has those of SILC and TIPS, and there is no decoder of captions (LocCa).
"""

from ml_collections import ConfigDict

from configs import augmentations, siglip

START = "80%"


def get_config(argument: str | None = None) -> ConfigDict:
  """Returns the config; see the file's docstring for the argument."""
  config = siglip.get_config(argument)
  size = config.model.image.res
  views = augmentations.moco_v3(size)
  config.views = {
    name: {"ops": ops}
    for name, ops in zip(("first", "second"), views, strict=True)
  }
  hidden, out_dim = (4096, 256) if size > 32 else (32, 16)
  head = {
    "name": "mlp", "hidden": hidden, "out_dim": out_dim, "norm": True,
    "hidden_bias": False, "bias": False, "last_norm": "plain",
  }  # fmt: skip
  config.model.heads = {
    "projector": head | {"depth": 3},
    "predictor": head | {"on": "projector"},
  }
  config.objective = {
    "name": "mixture",
    "parts": {
      "siglip": config.objective,
      "teacher": {
        "name": "moco_v3", "momentum": 0.996, "start": START,
        "weight": 0.25,  # The paper's of SILC's loss, for B.
      },
    },
  }  # fmt: skip
  # Else the weight decay would shrink the heads until then.
  config.start = [("(projector|predictor)/.*", START), (".*", 0)]
  return config
