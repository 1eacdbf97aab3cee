"""The mapping of the arrays in big_vision's .npz files.

Names as in big_vision's models/vit.py, models/proj/image_text/naflex_vit.py and
text_transformer.py, and models/proj/flaxformer/bert.py, whose parameters are
those of BertEncoder in flaxformer's architectures/bert/bert.py.

LiT's BERT: its names and shapes are those of flaxformer's
testdata/model_param_shapes.json, its sizes those of architectures/bert/
configs.py. vit_jax's models_lit.py, which reads the released LiT-*.npz, has the
same modules, and the numbers of parameters in its models_test.py are those of
the table. The names in the files are inferred from this; no file has been
inspected.
"""

from collections.abc import Iterable

from big_contrastive.interop.mapping import Row

BERT = "txt/BertEncoder_0"
BERT_TABLE = f"{BERT}/embedder/embedders_{{}}_ids/embedding"
BERT_LAYERS = f"{BERT}/encoder_block/layer_sequence/layers_"
_LINEAR, _NORM = ("kernel", "bias"), ("scale", "bias")


def table(scanned: bool, bert: bool = False, naflex: bool = False) -> list[Row]:
  """Returns the rows of a file.

  Args:
    scanned: whether blocks are stacked; those of BERT are always numbered.
    bert: whether the text tower is LiT's.
    naflex: whether images come as patches (naflex_vit.py).
  """
  kernel, pos = ("copy", "square") if naflex else ("patch_jax", "leading")
  return [
    Row(("img/embed/kernel",), "img/embedding/kernel", kernel),
    Row(("img/pos",), "img/pos_embedding", pos),
    Row(("img/embed/bias",), "img/embedding/bias"),
    Row(("img/cls",), "img/cls", "two_leading"),
    *_tower("img", "img/Transformer", scanned),
    *(_bert() if bert else _text(scanned)),
    Row(("t",), "t", "leading"),
    Row(("b",), "b", "leading"),
  ]


def _pair(ours: str, theirs: str, names: Iterable[str]) -> list[Row]:
  return [Row((f"{ours}/{name}",), f"{theirs}/{name}") for name in names]


def _layers(ours: str, theirs: str, norms: dict[str, int]) -> list[Row]:
  """Attention, MLP and norms: a block's, or a MAP head's."""
  rows = []
  for name, number in norms.items():
    rows += _pair(f"{ours}/{name}", f"{theirs}/LayerNorm_{number}", _NORM)
  for part in ("query", "key", "value", "out"):
    place = f"{theirs}/MultiHeadDotProductAttention_0/{part}"
    rows += _pair(f"{ours}/attention/{part}", place, _LINEAR)
  for number in (0, 1):
    place = f"{theirs}/MlpBlock_0/Dense_{number}"
    rows += _pair(f"{ours}/mlp/fc{number + 1}", place, _LINEAR)
  return rows


def _tower(ours: str, encoder: str, scanned: bool) -> list[Row]:
  block = f"{encoder}/encoderblock" + ("" if scanned else "_{i}")
  probe = Row((f"{ours}/head/probe",), f"{ours}/MAPHead_0/probe", "leading")
  return [
    *_layers(f"{ours}/encoder/blocks", block, {"norm1": 0, "norm2": 1}),
    *_pair(f"{ours}/encoder/norm", f"{encoder}/encoder_norm", _NORM),
    probe,
    *_layers(f"{ours}/head", f"{ours}/MAPHead_0", {"norm": 0}),
    *_pair(f"{ours}/project", f"{ours}/head", _LINEAR),
  ]


def _text(scanned: bool) -> list[Row]:
  embedding = Row(("txt/embed/embedding",), "txt/Embed_0/embedding")
  pos = Row(("txt/pos",), "txt/pos_embedding", "leading")
  return [embedding, pos, *_tower("txt", "txt/Encoder_0", scanned)]


def _bert() -> list[Row]:
  rows = []
  tables = {"embed/embedding": "token", "pos": "position", "segment": "segment"}
  for ours, theirs in tables.items():
    rows.append(Row((f"txt/{ours}",), BERT_TABLE.format(theirs)))
  block, layer = "txt/encoder/blocks", f"{BERT_LAYERS}{{i}}"
  attention, mlp = f"{layer}/attention_block", f"{layer}/mlp_block"
  for part in ("query", "key", "value"):
    ours, theirs = f"{block}/attention/{part}", f"{attention}/attention_layer"
    # Heads are concatenated: their number is not in the file.
    rows += [
      Row((f"{ours}/kernel",), f"{theirs}/{part}/kernel", "heads_out"),
      Row((f"{ours}/bias",), f"{theirs}/{part}/bias", "flat"),
    ]
  ours, theirs = f"{block}/attention/out", f"{attention}/dense_layer"
  return [
    *rows,
    Row((f"{ours}/kernel",), f"{theirs}/kernel", "heads_in"),
    Row((f"{ours}/bias",), f"{theirs}/bias"),
    *_pair(f"{block}/norm1", f"{attention}/layer_norm", _NORM),
    *_pair(f"{block}/mlp/fc1", f"{mlp}/mlp/dense_layer", _LINEAR),
    *_pair(f"{block}/mlp/fc2", f"{mlp}/dense_layer", _LINEAR),
    *_pair(f"{block}/norm2", f"{mlp}/layer_norm", _NORM),
    *_pair("txt/encoder/norm", f"{BERT}/layer_norm", _NORM),
    *_pair("txt/project", "txt/head", _LINEAR),
  ]
