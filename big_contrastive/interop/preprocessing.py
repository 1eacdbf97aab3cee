"""Evaluation preprocessing of other projects: their JSON <-> our operations.

transformers keeps it in preprocessor_config.json, OpenCLIP in the section
preprocess_cfg of open_clip_config.json.
"""

from typing import Any

from big_contrastive.config import errors
from big_contrastive.data.transforms import operations

Ops = list[list[Any]]  # [[name, arguments], ...], in JSON's types.
Stats = list[float]  # Per channel, of values scaled to [0, 1].

_METHODS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_HALF = [0.5, 0.5, 0.5]
_PLAIN = ([0.0] * 3, [1.0] * 3)
# The defaults of transformers for fields that a file lacks.
_DEFAULTS: dict[str, dict[str, Any]] = {
  "CLIP": {
    "size": {"shortest_edge": 224}, "do_center_crop": True,
    "crop_size": 224, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD,
  },
  "Siglip": {
    "size": 224, "do_center_crop": False,
    "image_mean": _HALF, "image_std": _HALF,
  },
  "Blip": {
    "size": 384, "do_center_crop": False,
    "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD,
  },
  "ViT": {
    "size": 224, "do_center_crop": False, "resample": 2,
    "image_mean": _HALF, "image_std": _HALF,
  },
  "Siglip2": {  # NaFlex.
    "patch_size": 16, "max_num_patches": 256, "resample": 2,
    "image_mean": _HALF, "image_std": _HALF,
  },
}  # fmt: skip
_FAMILIES = {
  "clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2", "blip": "Blip",
  "vit": "ViT",
}  # fmt: skip


def from_hugging_face(config: dict[str, Any]) -> tuple[Ops, Stats, Stats]:
  """Returns operations, mean and std of a preprocessor_config.json.

  Args:
    config: of an image processor of CLIP, BLIP, SigLIP, including NaFlex, or
      ViT, or of a feature extractor, from any version of transformers.

  Raises:
    UserError: for what none of our operations does.
  """
  family = _family(config)
  config = _DEFAULTS[family] | config
  ops = []
  if family == "Siglip2":
    if not config.get("do_resize", True):
      raise _error("do_resize", False, "True: images come in any size")
    patches = {"patch": config["patch_size"], "most": config["max_num_patches"]}
    ops.append(["naflex", patches | _method(config)])
  elif config.get("do_resize", True):
    # A bare number is the shorter side in CLIP, but a square in the others.
    bare = "shortest_edge" if family == "CLIP" else "square"
    size = _size("size", config["size"], bare)
    method = _method(config)
    if isinstance(size, int):
      how = {"size": size, **method, "rounding": "down"}
      ops.append(["resize_shortest", how])
    else:
      ops.append(["resize", {"size": size, **method}])
  if config.get("do_center_crop", False):
    size = _size("crop_size", config["crop_size"], "square")
    ops.append(["center_crop", {"size": size}])
  operations.parse(ops, "preprocessor_config.json", train=False)
  if not config.get("do_rescale", True):
    raise _error("do_rescale", False, "True: models here take values / 255")
  if not abs(config.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-4:
    raise _error("rescale_factor", config["rescale_factor"], "1 / 255")
  if not config.get("do_normalize", True):
    return ops, *_PLAIN
  return ops, _stats("image_mean", config), _stats("image_std", config)


def _method(config: dict[str, Any]) -> dict[str, Any]:
  """The argument that says how to resize."""
  resample = config.get("resample", 3)
  if resample not in _METHODS:
    allowed = "0 nearest, 1 lanczos, 2 bilinear or 3 bicubic"
    raise _error("resample", resample, allowed)
  return {"method": _METHODS[resample]}


def to_hugging_face(
  ops: Any, family: str, mean: Any = _HALF, std: Any = _HALF
) -> dict[str, Any]:
  """Returns the preprocessor_config.json that does what the operations do.

  transformers' processor then yields the same pixels. Only for a center crop
  whose corner is rounded to nearest, as in OpenCLIP, it may be a pixel off.

  Args:
    ops: evaluation preprocessing, as config.eval_image.
    family: "siglip", "siglip2", "clip", "blip" or "vit"; for a ViT with a crop
      the processor is CLIP's, as ViT's has none.
    mean, std: config.model.image's.

  Raises:
    UserError: for operations that transformers' processors don't have.
  """
  prefix = _FAMILIES[errors.choice("family", family, _FAMILIES)]
  if family == "vit" and [op[0] for op in ops] != ["resize"]:
    prefix = _FAMILIES["clip"]
  numbers = {v: k for k, v in _METHODS.items()}
  config: dict[str, Any] = {
    "image_processor_type": f"{prefix}ImageProcessor",
    "do_convert_rgb": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [float(x) for x in mean],
    "image_std": [float(x) for x in std],
  }
  if family == "siglip2":
    patches = _naflex(ops)
    return config | {
      "do_resize": True,
      "patch_size": patches["patch"],
      "max_num_patches": patches["most"],
      "resample": numbers[patches.get("method", "bilinear")],
    }
  resize, crop = _resize_and_crop(ops)
  config["do_resize"] = resize is not None
  if family == "blip":
    if crop or (resize and resize[0] != "resize"):
      raise _cannot(ops, "a resize, all that BlipImageProcessor does")
  else:
    config["do_center_crop"] = crop is not None
  if resize:
    name, kwargs = resize
    edges = _edges(kwargs["size"])
    short = {"shortest_edge": kwargs["size"]}
    config["size"] = edges if name == "resize" else short
    config["resample"] = numbers[kwargs.get("method", "bicubic")]
  if crop:
    config["crop_size"] = _edges(crop[1]["size"])
  return config


def from_open_clip(config: dict[str, Any]) -> tuple[Ops, Stats, Stats]:
  """Returns operations, mean and std of a preprocess_cfg.

  Raises:
    UserError: for what none of our operations does.
  """
  mode = config.get("resize_mode", "shortest")
  interpolation = config.get("interpolation", "bicubic")
  if mode not in ("shortest", "squash"):
    raise _error("resize_mode", mode, '"shortest" or "squash"')
  if interpolation not in ("bicubic", "bilinear"):
    raise _error("interpolation", interpolation, '"bicubic" or "bilinear"')
  if config.get("mode", "RGB") != "RGB":
    raise _error("mode", config["mode"], '"RGB"')
  size = _size("size", config.get("size", 224), "square")
  stats = {"mean": _CLIP_MEAN, "std": _CLIP_STD} | config
  mean, std = _stats("mean", stats), _stats("std", stats)
  method = {"method": interpolation}
  if mode == "squash":
    return [["resize", {"size": size, **method}]], mean, std
  if size[0] != size[1]:
    raise _error("size", size, "a square with resize_mode = shortest")
  how = {"size": size[0], **method, "rounding": "down"}
  crop = {"size": size, "rounding": "nearest"}
  return [["resize_shortest", how], ["center_crop", crop]], mean, std


def to_open_clip(
  ops: Any, mean: Any = _HALF, std: Any = _HALF
) -> dict[str, Any]:
  """Returns the preprocess_cfg that does what the operations do.

  Raises:
    UserError: for operations that OpenCLIP's transform doesn't have.
  """
  resize, crop = _resize_and_crop(ops)
  if resize is None:
    raise _cannot(ops)
  name, kwargs = resize
  size = list(operations.parse(ops, "config.eval_image", train=False).size)
  short = kwargs["size"]
  cropped = crop is not None and size == [short, short]
  method = kwargs.get("method", "bicubic")
  if method not in ("bicubic", "bilinear") or (name != "resize") != cropped:
    raise _cannot(ops)
  return {
    "size": size[0] if size[0] == size[1] else size,
    "mode": "RGB",
    "mean": [float(x) for x in mean],
    "std": [float(x) for x in std],
    "interpolation": method,
    "resize_mode": "squash" if name == "resize" else "shortest",
    "fill_color": 0,
  }


def _family(config: dict[str, Any]) -> str:
  keys = ("image_processor_type", "feature_extractor_type")
  name = next((config[k] for k in keys if k in config), "")
  for family in _DEFAULTS:
    if name.startswith(f"{family}Image") or name == f"{family}FeatureExtractor":
      return family
  if name:
    allowed = "an ImageProcessor of CLIP, Blip, Siglip, Siglip2 or ViT"
    raise _error("image_processor_type", name, allowed)
  return "CLIP" if "crop_size" in config else "Siglip"


def _size(key: str, value: Any, bare: str) -> Any:
  """A shorter side, or [height, width]."""
  if isinstance(value, int):
    return value if bare == "shortest_edge" else [value, value]
  if isinstance(value, dict) and value.keys() == {"shortest_edge"}:
    return value["shortest_edge"]
  if isinstance(value, dict) and value.keys() >= {"height", "width"}:
    return [value["height"], value["width"]]
  if isinstance(value, list | tuple) and len(value) == 2:
    return list(value)
  raise _error(key, value, '{"height", "width"} or {"shortest_edge"}')


def _stats(key: str, config: dict[str, Any]) -> Stats:
  value = config[key]
  numbers = isinstance(value, list | tuple) and len(value) == 3
  if not numbers or not all(isinstance(x, int | float) for x in value):
    raise _error(key, value, "three numbers")
  return [float(x) for x in value]


def _resize_and_crop(ops: Any) -> tuple[Any, Any]:
  """The resize and the crop, each (name, arguments) or None."""
  operations.parse(ops, "config.eval_image", train=False)
  pairs = [(op, {}) if isinstance(op, str) else (op[0], op[1]) for op in ops]
  names = [name for name, _ in pairs]
  crop = pairs.pop() if names[-1:] == ["center_crop"] else None
  plain = all(kwargs.get("antialias", True) for _, kwargs in pairs)
  if len(pairs) > 1 or "center_crop" in names[:-1] or not plain:
    raise _cannot(ops)
  return (pairs[0] if pairs else None), crop


def _naflex(ops: Any) -> dict[str, Any]:
  """The arguments of naflex, which must be the only operation."""
  operations.parse(ops, "config.eval_image", train=False)
  if [op[0] for op in ops] != ["naflex"]:
    raise _cannot(ops, "the operation naflex alone: all that NaFlex's does")
  return dict(ops[0][1])


def _edges(size: Any) -> dict[str, int]:
  pair = [size, size] if isinstance(size, int) else size
  return {"height": pair[0], "width": pair[1]}


def _error(key: str, value: object, allowed: str) -> errors.UserError:
  remedy = "No operation of data/transforms/operations.py does it."
  return errors.UserError(f"preprocessing: {key}", value, allowed, remedy)


def _cannot(
  ops: Any,
  allowed: str = "a resize, or a resize_shortest and a center_crop, with "
  "antialias: all that their processors do",
) -> errors.UserError:
  remedy = "Change config.eval_image."
  return errors.UserError("config.eval_image", ops, allowed, remedy)
