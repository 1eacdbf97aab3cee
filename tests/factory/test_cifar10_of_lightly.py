"""The models of configs/cifar10.py have as many parameters as lightly's."""

import jax
import pytest

import peers
import tiny
from big_contrastive.config import rules
from big_contrastive.factory import experiment, reading

pytestmark = pytest.mark.peers


def theirs(method):
  """The heads of lightly's benchmark, by part."""
  torch = peers.torch()
  heads = pytest.importorskip("lightly.models.modules.heads")
  normed = [
    (512, 2048, torch.nn.BatchNorm1d(2048), torch.nn.ReLU()),
    (2048, 2048, torch.nn.BatchNorm1d(2048), None),
  ]
  return {
    "byol": lambda: {
      "projector": heads.BYOLProjectionHead(512, 1024, 256),
      "predictor": heads.BYOLPredictionHead(256, 1024, 256),
    },
    "moco": lambda: {"projector": heads.MoCoProjectionHead(512, 512, 128)},
    "simclr": lambda: {"projector": heads.SimCLRProjectionHead(512, 512, 128)},
    "simsiam": lambda: {
      "projector": heads.ProjectionHead(normed),
      "predictor": heads.SimSiamPredictionHead(2048, 512, 2048),
    },
  }[method]()


@pytest.mark.parametrize("method", ["byol", "moco", "simclr", "simsiam"])
def test_the_parts_have_lightlys_parameters(method):
  config = reading.without_epochs(tiny.load("cifar10", f"method={method}"))
  shapes = reading.Shapes(config)
  made = experiment.build(config, jax.devices()[:1], shapes)
  found = {}
  for name, x in rules.flatten(made.placed.abstract.params).items():
    part = name.split("/")[0]
    found[part] = found.get(part, 0) + x.size
  modules = theirs(method)
  resnet = pytest.importorskip("lightly.models").ResNetGenerator("resnet-18")
  resnet.linear = peers.torch().nn.Identity()
  assert found == {
    part: sum(p.numel() for p in module.parameters())
    for part, module in (modules | {"img": resnet}).items()
  }
