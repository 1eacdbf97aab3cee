"""Embeds with other projects' libraries, where installed, as a reference.

None of them is needed to convert a model; they verify the result.
"""

import importlib
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from big_contrastive.config import errors


def embed(
  format: str | None,
  path: pathlib.Path,
  images: dict[str, np.ndarray],
  tokens: np.ndarray | None,
) -> dict[str, np.ndarray] | None:
  """Returns the embeddings that a project's own library computes.

  Args:
    format: of the files; None is returned for formats without a library.
    path: their directory; OpenCLIP also loads a file of OpenAI's.
    images: arguments for images, by transformers' names; "pixel_values" is
      float32 [b, 3, h, w], normalized.
    tokens: int [b, l]; None for an image tower alone.

  Returns:
    Unit embeddings by "image" and "text", "logits" over exp(t), and of a model
    with a decoder "captions", see `relative`; what the model has. None if the
    library is not installed, which is logged.

  Raises:
    UserError: if the library can't load the files.
  """
  if format not in _LOADERS:
    return None
  library, load = _LOADERS[format]
  try:
    torch = importlib.import_module("torch")
    module = importlib.import_module(library)
  except Exception as e:  # A broken installation may raise anything.
    logging.warning("not compared with %s: %s", library, _first(e))
    return None
  try:
    with torch.no_grad():
      zimg, ztxt, scale, bias, captions = load(
        module,
        str(path),
        {k: torch.from_numpy(v.copy()) for k, v in images.items()},
        None if tokens is None else torch.from_numpy(tokens.astype(np.int64)),
      )
  except ImportError as e:  # Also of a dependency that is imported late.
    logging.warning("not compared with %s: %s", library, _first(e))
    return None
  except Exception as e:  # Each library raises its own.
    message = f"{type(e).__name__}: {_first(e)}"
    allowed, remedy = f"files that {library} loads", "See what it says."
    raise errors.UserError(str(path), message, allowed, remedy) from e
  found = {"image": _unit(zimg.float().numpy())}
  if ztxt is not None:
    found["text"] = _unit(ztxt.float().numpy())
    over = np.exp(-scale) * bias
    found["logits"] = found["image"] @ found["text"].T + over
  if captions is not None:
    found["captions"] = relative(captions.float().numpy())
  return found


def relative(logits: np.ndarray) -> np.ndarray:
  """Returns log-likelihoods of tokens over ln V, which one guess has."""
  x = logits - logits.max(-1, keepdims=True)
  x = x - np.log(np.exp(x).sum(-1, keepdims=True))
  return x / np.float32(np.log(x.shape[-1]))


def _first(e: Exception) -> str:
  return str(e).strip().split("\n")[0][:300]


def _unit(z: np.ndarray) -> np.ndarray:
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def _transformers(library: Any, path: str, images: dict, ids: Any) -> tuple:
  config = library.AutoConfig.from_pretrained(path, local_files_only=True)
  is_blip, is_vit = (config.model_type == name for name in ("blip", "vit"))
  kind = config.architectures[0] if is_blip else "AutoModel"
  model, info = getattr(library, kind).from_pretrained(
    path, output_loading_info=True, local_files_only=True,
    **{"add_pooling_layer": False} if is_vit else {},
  )  # fmt: skip
  idle = ("pooler.", "classifier.") if is_vit else ()
  found = {k: [n for n in v if not n.startswith(idle)] for k, v in info.items()}
  wrong = {k: v for k, v in found.items() if v}
  if wrong:
    raise ValueError(f"tensors don't fit: {wrong}")
  model = model.float().eval()
  if is_blip:
    return _blip(model, config.text_config, images, ids)
  if is_vit:
    vectors = model(**images).last_hidden_state[:, 0]
    return vectors, None, 0.0, 0.0, None
  output = model(**images, input_ids=ids)
  return output.image_embeds, output.text_embeds, *_scale(model), None


def _blip(model: Any, config: Any, images: dict, ids: Any) -> tuple:
  pooled = model.vision_model(**images).last_hidden_state[:, 0]
  if not hasattr(model, "text_encoder"):
    ids = ids[:, :-1].clone()
    ids[:, 0] = config.bos_token_id
    return pooled, None, 0.0, 0.0, model(**images, input_ids=ids).logits
  mask = (ids != config.pad_token_id).long()
  state = model.text_encoder(input_ids=ids, attention_mask=mask)
  ztxt = model.text_proj(state.last_hidden_state[:, 0])
  return model.vision_proj(pooled), ztxt, 0.0, 0.0, None


def _open_clip(library: Any, path: str, images: dict, ids: Any) -> tuple:
  if pathlib.Path(path).is_file():  # OpenAI's.
    model = library.load_openai_model(path, precision="fp32", device="cpu")
  else:
    model = library.create_model(f"local-dir:{path}")
  model = model.float().eval()
  zimg = model.encode_image(images["pixel_values"])
  ztxt = model.encode_text(ids)
  captions = None
  if hasattr(model, "text_decoder"):  # CoCa.
    captions = model(images["pixel_values"], ids)["logits"]
  return zimg, ztxt, *_scale(model), captions


def _scale(model: Any) -> tuple[float, float]:
  bias = getattr(model, "logit_bias", None)
  return model.logit_scale.item(), 0.0 if bias is None else bias.item()


_LOADERS: dict[str, tuple[str, Callable]] = {
  "hugging_face": ("transformers", _transformers),
  "open_clip": ("open_clip", _open_clip),
}
