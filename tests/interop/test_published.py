"""Published sizes: tensors as transformers has them, nothing allocated.

Values are those of the models' config.json on their hub pages.
"""

import pytest

import peers
from big_contrastive.interop import mapping
from big_contrastive.interop.hugging_face import (
  config as hugging_face_config,
)
from big_contrastive.interop.hugging_face import (
  weights as hugging_face_weights,
)

pytestmark = pytest.mark.peers


def size(width, depth, mlp, heads, **more):
  return dict(
    hidden_size=width, num_hidden_layers=depth, intermediate_size=mlp,
    num_attention_heads=heads, **more,
  )  # fmt: skip


KINDS = {"siglip": "Siglip", "siglip2": "Siglip2", "clip": "CLIP"}
SIZES = {
  "B": size(768, 12, 3072, 12), "L": size(1024, 24, 4096, 16),
  "So400m": size(1152, 27, 4304, 16), "g-opt": size(1536, 40, 6144, 16),
  "H": size(1280, 32, 5120, 16), "g": size(1408, 40, 6144, 16),
  "G": size(1664, 48, 8192, 16),
}  # fmt: skip


def siglip(name, patch, res, vocab_size=32000, length=64, text=None):
  words = SIZES[text or name] | {
    "vocab_size": vocab_size, "max_position_embeddings": length,
  }  # fmt: skip
  if text:
    words["projection_size"] = SIZES[name]["hidden_size"]
  vision = SIZES[name] | {"image_size": res, "patch_size": patch}
  return "siglip", name, vision, words, {}


def naflex(name, patch):
  words = SIZES[name] | {"vocab_size": _GEMMA, "max_position_embeddings": 64}
  vision = SIZES[name] | {"num_patches": 256, "patch_size": patch}
  return "siglip2", name, vision, words, {}


def clip(name, patch, res, text, width, act):
  vision = SIZES[name] | {"image_size": res, "patch_size": patch}
  words = text | {"hidden_act": act, "eos_token_id": 2}
  more = {"projection_dim": width}
  return "clip", name, vision | {"hidden_act": act}, words, more


_MULTI, _GEMMA = 250_000, 256_000
_B, _L = size(512, 12, 2048, 8), size(768, 12, 3072, 12)
MODELS = {
  "siglip-base-patch16-224": siglip("B", 16, 224),
  "siglip-base-patch16-256": siglip("B", 16, 256),
  "siglip-base-patch16-256-multilingual": siglip("B", 16, 256, _MULTI),
  "siglip-base-patch16-384": siglip("B", 16, 384),
  "siglip-base-patch16-512": siglip("B", 16, 512),
  "siglip-large-patch16-256": siglip("L", 16, 256),
  "siglip-large-patch16-384": siglip("L", 16, 384),
  "siglip-so400m-patch14-224": siglip("So400m", 14, 224, length=16),
  "siglip-so400m-patch14-384": siglip("So400m", 14, 384),
  "siglip-so400m-patch16-256-i18n": siglip("So400m", 16, 256, _MULTI),
  "siglip2-base-patch32-256": siglip("B", 32, 256, _GEMMA),
  "siglip2-base-patch16-224": siglip("B", 16, 224, _GEMMA),
  "siglip2-base-patch16-256": siglip("B", 16, 256, _GEMMA),
  "siglip2-base-patch16-384": siglip("B", 16, 384, _GEMMA),
  "siglip2-base-patch16-512": siglip("B", 16, 512, _GEMMA),
  "siglip2-large-patch16-256": siglip("L", 16, 256, _GEMMA),
  "siglip2-large-patch16-384": siglip("L", 16, 384, _GEMMA),
  "siglip2-large-patch16-512": siglip("L", 16, 512, _GEMMA),
  "siglip2-so400m-patch14-224": siglip("So400m", 14, 224, _GEMMA),
  "siglip2-so400m-patch14-384": siglip("So400m", 14, 384, _GEMMA),
  "siglip2-so400m-patch16-256": siglip("So400m", 16, 256, _GEMMA),
  "siglip2-so400m-patch16-384": siglip("So400m", 16, 384, _GEMMA),
  "siglip2-so400m-patch16-512": siglip("So400m", 16, 512, _GEMMA),
  "siglip2-giant-opt-patch16-256": siglip(
    "g-opt", 16, 256, _GEMMA, text="So400m"
  ),
  "siglip2-giant-opt-patch16-384": siglip(
    "g-opt", 16, 384, _GEMMA, text="So400m"
  ),
  "siglip2-base-patch16-naflex": naflex("B", 16),
  "siglip2-so400m-patch16-naflex": naflex("So400m", 16),
  "clip-vit-base-patch32": clip("B", 32, 224, _B, 512, "quick_gelu"),
  "clip-vit-base-patch16": clip("B", 16, 224, _B, 512, "quick_gelu"),
  "clip-vit-large-patch14": clip("L", 14, 224, _L, 768, "quick_gelu"),
  "clip-vit-large-patch14-336": clip("L", 14, 336, _L, 768, "quick_gelu"),
  "CLIP-ViT-H-14": clip("H", 14, 224, SIZES["L"], 1024, "gelu"),
  "CLIP-ViT-g-14": clip("g", 14, 224, SIZES["L"], 1024, "gelu"),
  "CLIP-ViT-bigG-14": clip(
    "G", 14, 224, size(1280, 32, 5120, 20), 1280, "gelu"
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_of_transformers(name):
  torch = peers.torch()
  import transformers

  family, variant, vision, words, more = MODELS[name]
  kind = KINDS[family]
  config = getattr(transformers, f"{kind}Config")(
    vision_config=vision, text_config=words, **more
  )
  with torch.device("meta"):
    model = getattr(transformers, f"{kind}Model")(config)
  wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  found, own, shapes = hugging_face_config.describe(config.to_dict(), name)
  assert found == family
  assert own["image"]["variant"] == f"{variant}/{vision['patch_size']}"
  assert not {"width", "depth", "mlp", "heads"} & own["image"].keys()
  assert mapping.names(hugging_face_weights.TABLES[family], shapes) == wanted


def test_what_a_config_leaves_out_is_as_transformers_has_it():
  peers.torch()
  import transformers

  for family, kind in KINDS.items():
    whole = getattr(transformers, f"{kind}Config")().to_dict()
    bare = {"model_type": family, "text_config": None}
    assert hugging_face_config.describe(
      bare, "a"
    ) == hugging_face_config.describe(whole, "b")
