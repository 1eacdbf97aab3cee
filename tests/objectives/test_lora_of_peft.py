"""Adapters beside peft's, on the same ViT: features, gradients, sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_dino_weights import as_transformers, directory, timm_state

import peers
from big_contrastive.config import rules
from big_contrastive.interop import model_files
from big_contrastive.models import lora
from big_contrastive.models.model import merge

pytestmark = [
  pytest.mark.peers,
  pytest.mark.filterwarnings("ignore"),  # Of transformers.
]

RANK, ALPHA = 3, 7.5
STACK = "img/encoder/blocks"
# Ours, and transformers' modules.
ADAPTED = {
  f"{STACK}/attention/query/kernel": "q_proj",
  f"{STACK}/attention/out/kernel": "o_proj",
  f"{STACK}/mlp/fc1/kernel": "fc1",
}


def adapted(folder):
  """peft's model with adapters far from their initial values."""
  torch = peers.torch()
  transformers = pytest.importorskip("transformers")
  peft = pytest.importorskip("peft")
  base = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False)
  config = peft.LoraConfig(
    r=RANK, lora_alpha=ALPHA, target_modules=list(ADAPTED.values())
  )
  theirs = peft.get_peft_model(base, config).eval()
  g = torch.Generator().manual_seed(0)
  drawn = {}
  with torch.no_grad():
    for name, p in theirs.named_parameters():
      if "lora_" in name:
        drawn[name] = p.detach().clone().numpy()
        p.copy_(0.3 * torch.randn(p.shape, generator=g))
  return theirs, drawn


def stacked(tensors, end, kind):
  """What peft calls lora_A or lora_B of all layers, as ours: transposed."""
  found = [
    tensors[name].T
    for name in sorted(tensors)
    if name.endswith(f"{end}.lora_{kind.upper()}.default.weight")
  ]
  return np.stack(found)


def as_ours(tensors):
  return {
    f"{name}/{kind}": stacked(tensors, end, kind)
    for name, end in ADAPTED.items()
    for kind in "ab"
  }


def test_features_gradients_and_sums_are_those_of_peft(tmp_path):
  torch = peers.torch()
  folder = directory(tmp_path / "a", as_transformers(timm_state()))
  bundle = model_files.read(folder)
  theirs, drawn = adapted(folder)
  values = {
    name: p.detach().numpy()
    for name, p in theirs.named_parameters()
    if "lora_" in name
  }
  r = np.random.default_rng(2)
  images = np.float32(r.normal(size=(2, 32, 32, 3)))
  weights = np.float32(r.normal(size=(2, 17, 32)))

  x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  features = theirs(x).last_hidden_state
  (features * torch.from_numpy(weights)).sum().backward()
  wanted = as_ours({
    name: p.grad.numpy()
    for name, p in theirs.named_parameters()
    if p.grad is not None
  })  # fmt: skip

  graph = bundle.build(remat="none").graph
  base = jax.tree.map(jnp.asarray, bundle.params)
  scales = dict.fromkeys(ADAPTED, ALPHA / RANK)

  def loss(adapters):
    part = {lora.PART: rules.unflatten(adapters)}
    model = merge(graph, lora.fold(base | part, scales))
    tokens = model.features(jnp.asarray(images)).tokens
    return jnp.sum(tokens * weights), tokens

  with jax.default_matmul_precision("highest"):
    own = jax.value_and_grad(loss, has_aux=True)
    (_, tokens), grads = jax.jit(own)(as_ours(values))
  found = features.detach().numpy()
  np.testing.assert_allclose(tokens, found, rtol=1e-4, atol=1e-4)
  assert grads.keys() == wanted.keys() and len(wanted) == 6
  for name, g in grads.items():
    size = abs(wanted[name]).max()
    assert size > 0
    np.testing.assert_allclose(
      g, wanted[name], rtol=1e-3, atol=1e-4 * size, err_msg=name
    )

  # As they are merged for export.
  part = {lora.PART: rules.unflatten(as_ours(values))}
  sums = rules.flatten(lora.fold(bundle.params | part, scales))
  merged = theirs.merge_and_unload().state_dict()
  for name, end in ADAPTED.items():
    kernels = [
      merged[key].numpy().T
      for key in sorted(merged)
      if key.endswith(f"{end}.weight")
    ]
    np.testing.assert_allclose(
      sums[name], np.stack(kernels).reshape(sums[name].shape), rtol=1e-5,
      atol=1e-6, err_msg=name,
    )  # fmt: skip

  # Both begin within the same bounds, and with b = 0.
  new = lora.new(bundle.params, dict.fromkeys(ADAPTED, RANK), jax.random.key(0))
  for name, x in rules.flatten(new).items():
    theirs_at_first = as_ours(drawn)[name]
    assert theirs_at_first.shape == x.shape
    limit = x.shape[1] ** -0.5 if name.endswith("/a") else 0.0
    for start in (theirs_at_first, np.asarray(x)):
      assert 0.8 * limit <= abs(start).max() <= limit * (1 + 1e-6)
