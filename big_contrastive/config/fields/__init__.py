"""Every field of a config: type, default, unit, meaning, and why.

One dataclass a section. `python -m big_contrastive.train --fields` prints
them, and docs/config.md is made from them.
"""

from big_contrastive.config.fields import data, evals, model, run, training
from big_contrastive.config.fields.run import Config as Config

# By name in a config: config.model.image; the top level is "". After " with "
# comes the choice among sections in the same place.
SECTIONS: dict[str, type] = {
  "": run.Config,
  "source": data.Source,
  "source.filter": data.Filter,
  "source with a mixture": data.Mixture,
  "source.mixture[i]": data.MixturePart,
  "tokenizer": data.Tokenizer,
  "loading": data.Loading,
  "model": model.Model,
  "model.image": model.Image,
  "model.text": model.Text,
  "model.heads.NAME": model.Head,
  "init": training.Init,
  "objective": training.Objective,
  "objective with name = pairs": training.Pairs,
  "optimizer": training.Optimizer,
  "optimizer with name = adamw": training.AdamW,
  "optimizer with name = adafactor": training.Adafactor,
  "schedule": training.Schedule,
  "micro_batch": training.MicroBatch,
  "mesh": training.Mesh,
  "evals.NAME": evals.Eval,
  "evals.NAME with task = zero_shot": evals.ZeroShot,
  "evals.NAME with task = gallery": evals.Gallery,
  "evals.NAME with task = knn": evals.KNN,
  "evals.NAME with task = linear_probe": evals.LinearProbe,
  "evals.NAME with task = few_shot": evals.FewShot,
  "evals.NAME with task = collapse": evals.Collapse,
  "evals.NAME with task = neighbors": evals.Neighbors,
}
