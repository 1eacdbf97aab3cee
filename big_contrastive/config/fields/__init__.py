"""Every field of a config: type, default, unit, meaning, and why.

One dataclass a section. `python -m big_contrastive.train --fields` prints
them, and docs/config.md is made from them.
"""

from big_contrastive.config.fields import (
  clip_resnet,
  convnet,
  data,
  evals,
  heads,
  labels,
  model,
  optimizer,
  resnet,
  run,
  self_supervised,
  training,
  vectors,
)
from big_contrastive.config.fields.run import Config as Config

# By name in a config: config.model.image; the top level is "". After " with "
# comes the choice among sections in the same place.
SECTIONS: dict[str, type] = {
  "": run.Config,
  "source": data.Source,
  "source.filter": data.Filter,
  "source with a mixture": data.Mixture,
  "source.mixture[i]": data.MixturePart,
  "views.NAME": data.View,
  "tokenizer": data.Tokenizer,
  "loading": data.Loading,
  "model": model.Model,
  "model.image": model.Image,
  "model.image with tower = resnet": resnet.ResNet,
  "model.image with tower = clip_resnet": clip_resnet.ClipResNet,
  "model.image with tower = convnet": convnet.ConvNet,
  "model.image with tower = vectors": vectors.Vectors,
  "model.text": model.Text,
  "model.heads.NAME": heads.Head,
  "model.heads.NAME with name = mlp": heads.Mlp,
  "model.heads.NAME with name = classifier": heads.Classifier,
  "init": training.Init,
  "objective": training.Objective,
  "objective with name = pairs": training.Pairs,
  "objective with name = simclr": self_supervised.SimCLR,
  "objective with name = moco": self_supervised.MoCo,
  "objective with name = moco_v3": self_supervised.MoCoV3,
  "objective with name = byol": self_supervised.BYOL,
  "objective with name = simsiam": self_supervised.SimSiam,
  "objective with name = catlip": labels.CatLIP,
  "objective with name = superclass": labels.SuperClass,
  "optimizer": optimizer.Optimizer,
  "optimizer with name = adamw": optimizer.AdamW,
  "optimizer with name = adafactor": optimizer.Adafactor,
  "optimizer with name = sgd": optimizer.SGD,
  "optimizer with name = lars": optimizer.LARS,
  "schedule": optimizer.Schedule,
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
  "evals.NAME with task = labels": evals.Labels,
  "evals.NAME with task = zero_shot_labels": evals.ZeroShotLabels,
}
