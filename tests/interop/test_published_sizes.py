"""docs/published_weights.md: each model's parameters, from its config alone.

Nothing is downloaded or allocated: the configs are those of the models' pages,
and our tensors are counted. What their projects say of them is what OpenCLIP's
docs/model_profile.csv and torchvision's `num_params` hold.
"""

import math
import pathlib
import re

import numpy as np
import pytest
import test_published

from big_contrastive.interop import sections
from big_contrastive.interop.formats import open_clip, timm
from big_contrastive.interop.hugging_face import blip, config, vit

PAGE = pathlib.Path(__file__).parents[2] / "docs/published_weights.md"
# Millions of parameters; torchvision's count the classifier.
PUBLISHED = {
  "google/siglip-base-patch16-{224,256,384,512}": 203.16,
  "google/siglip-base-patch16-256-multilingual": 370.63,
  "google/siglip-large-patch16-{256,384}": 652.15,
  "google/siglip-so400m-patch14-{224,384}": 877.36,
  "openai/clip-vit-base-patch32": 151.28,
  "openai/clip-vit-base-patch16": 149.62,
  "openai/clip-vit-large-patch14{,-336}": 427.62,
  "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": 986.11,
  "laion/CLIP-ViT-g-14-laion2B-s34B-b88K": 1366.68,
  "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": 2539.57,
  # ViT-H-14, with the rows of XLM-V in the place of CLIP's vocabulary.
  "facebook/metaclip-2-worldwide-huge-quickgelu": (
    986.11 + (901_629 - 49_408) * 1024 / 1e6
  ),
  "RN{50,101,50x4,50x16,50x64}": 102.01,
  "laion/CoCa-ViT-B-32-laion2B-s13B-b90k": 253.56,
  "laion/CoCa-ViT-L-14-laion2B-s13B-b90k": 638.45,
  "resnet{18,34,50,101,152}": 11.689512,
  # timm's models have this many, by numel.
  "facebook/dino-vits{16,8}": 21.665664,
  "facebook/dino-vitb{16,8}": 85.798656,
  "timm/vit_small_patch{16,8}_224.dino": 21.665664,
  "timm/vit_base_patch{16,8}_224.dino": 85.798656,
}  # fmt: skip


def count(shapes):
  """Millions of parameters; statistics of norms are not among them."""
  kept = (v for k, v in shapes.items() if not re.search(r"/(mean|var)$", k))
  return sum(math.prod(shape) for shape in kept) / 1e6


def pair(name):
  """A Hugging Face model of two towers, as test_published has its sizes."""
  family, _, vision, words, more = test_published.MODELS[name]
  given = {"vision_config": vision, "text_config": words, **more}
  return config.describe(given | {"model_type": family}, name)[2]


def metaclip_2():
  huge, words = test_published.SIZES["H"], test_published.SIZES["L"]
  given = {
    "model_type": "metaclip_2", "projection_dim": 1024,
    "vision_config": huge | {"image_size": 224, "patch_size": 14},
    "text_config": words | {"vocab_size": 901_629, "eos_token_id": 2},
  }  # fmt: skip
  return config.describe(given, "metaclip_2")[2]


def clip_resnet(layers, width, res, text, out_dim):
  words = {"width": text, "heads": text // 64, "layers": 12}
  model_cfg = {
    "embed_dim": out_dim, "text_cfg": words,
    "vision_cfg": {"layers": layers, "width": width, "image_size": res},
  }  # fmt: skip
  return open_clip._plan(model_cfg, False, False)[2]


def coca(width, layers, patch, text):
  words = {
    "context_length": 76, "vocab_size": 49408, "width": text,
    "heads": text // 64, "layers": 12,
  }  # fmt: skip
  model_cfg = {
    "embed_dim": text, "custom_text": True,
    "vision_cfg": {
      "image_size": 224, "layers": layers, "width": width, "patch_size": patch,
      "attentional_pool": True, "attn_pooler_heads": 8, "output_tokens": True,
    },
    "text_cfg": words | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": words | {"attn_pooler_heads": text // 64},
  }  # fmt: skip
  return open_clip._plan(model_cfg, True, False)[2]


def blip_of(part, size):
  """A half of BLIP; its texts are BERT-base's in all published sizes."""
  vision = test_published.SIZES[size] | {"patch_size": 16, "image_size": 384}
  words = {"vocab_size": 30_524, "encoder_hidden_size": vision["hidden_size"]}
  given = {
    "architectures": [blip.CLASSES[part]], "vision_config": vision,
    "text_config": words, "image_text_hidden_size": 256,
  }  # fmt: skip
  return blip.describe(given, "blip")[2]


def dino(width):
  """ViTModel's config.json, as DINO's on the Hub."""
  size = {"hidden_size": width, "intermediate_size": 4 * width}
  size |= {"num_attention_heads": width // 64, "model_type": "vit"}
  return vit.describe(size, "dino")[2]


def dino_file(width):
  """timm's and DINO's own tensors, of which these tell the size."""
  tensors = {
    "patch_embed.proj.weight": (width, 3, 16, 16), "pos_embed": (1, 197, width),
    **{f"blocks.{i}.mlp.fc1.weight": (4 * width, width) for i in range(12)},
  }  # fmt: skip
  stored = {k: np.broadcast_to(np.float32(0), s) for k, s in tensors.items()}
  image = timm._described(stored, pathlib.Path("dino"))
  assert image["variant"] == {384: "S/16", 768: "B/16"}[width]
  assert "heads" not in image
  shapes = sections.shapes({"image": image}, 1, 1, bias=False)
  return {k: v for k, v in shapes.items() if k.startswith("img/")}


def resnet(depth):
  image = {"tower": "resnet", "depth": depth, "stem": "imagenet", "res": 224}
  return {
    k: v
    for k, v in sections.shapes({"image": image}, 1, 1, bias=False).items()
    if k.startswith("img/")
  }


# The first of several that differ in resolution or depth alone.
MODELS = {
  **{
    name: (pair, name.partition("/")[2].partition("{")[0] + first)
    for name, first in {
      "google/siglip-base-patch16-{224,256,384,512}": "224",
      "google/siglip-base-patch16-256-multilingual": "",
      "google/siglip-large-patch16-{256,384}": "256",
      "google/siglip-so400m-patch14-{224,384}": "224",
      "google/siglip-so400m-patch16-256-i18n": "",
      "google/siglip2-base-patch32-256": "",
      "google/siglip2-base-patch16-{224,256,384,512}": "224",
      "google/siglip2-large-patch16-{256,384,512}": "256",
      "google/siglip2-so400m-patch14-{224,384}": "224",
      "google/siglip2-so400m-patch16-{256,384,512}": "256",
      "google/siglip2-giant-opt-patch16-{256,384}": "256",
      "google/siglip2-base-patch16-naflex": "",
      "google/siglip2-so400m-patch16-naflex": "",
      "openai/clip-vit-base-patch32": "",
      "openai/clip-vit-base-patch16": "",
      "openai/clip-vit-large-patch14{,-336}": "",
    }.items()
  },
  "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": (pair, "CLIP-ViT-H-14"),
  "laion/CLIP-ViT-g-14-laion2B-s34B-b88K": (pair, "CLIP-ViT-g-14"),
  "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": (pair, "CLIP-ViT-bigG-14"),
  "facebook/metaclip-2-worldwide-huge-quickgelu": (metaclip_2,),
  "RN{50,101,50x4,50x16,50x64}": (
    clip_resnet, [3, 4, 6, 3], 64, 224, 512, 1024
  ),
  "laion/CoCa-ViT-B-32-laion2B-s13B-b90k": (coca, 768, 12, 32, 512),
  "laion/CoCa-ViT-L-14-laion2B-s13B-b90k": (coca, 1024, 24, 14, 768),
  "Salesforce/blip-itm-base-coco": (blip_of, "encoder", "B"),
  "Salesforce/blip-itm-large-coco": (blip_of, "encoder", "L"),
  "Salesforce/blip-image-captioning-base": (blip_of, "decoder", "B"),
  "Salesforce/blip-image-captioning-large": (blip_of, "decoder", "L"),
  "facebook/dino-vits{16,8}": (dino, 384),
  "facebook/dino-vitb{16,8}": (dino, 768),
  "timm/vit_small_patch{16,8}_224.dino": (dino_file, 384),
  "timm/vit_base_patch{16,8}_224.dino": (dino_file, 768),
  "resnet{18,34,50,101,152}": (resnet, 18),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_has_the_parameters_that_the_page_says(name):
  make, *given = MODELS[name]
  total = count(make(*given))
  if make is resnet:  # Its classifier is left out.
    total += (512 + 1) * 1000 / 1e6
  assert rows()[name] == f"{total:,.2f}"
  if name in PUBLISHED:
    assert total == pytest.approx(PUBLISHED[name], abs=0.006)


def test_the_page_has_no_other_model():
  assert rows().keys() == MODELS.keys()


def rows():
  """Millions of parameters, as the page has them."""
  return dict(
    re.findall(r"^\| `([^`]+)` \| ([\d.,]+) ", PAGE.read_text(), re.M)
  )
