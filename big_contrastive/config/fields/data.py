"""Where examples come from, and how they become batches."""

import dataclasses
from typing import Literal

from big_contrastive.config.fields.field import field

Kind = Literal[
  "bert", "bpe", "bytes", "clip_bpe", "json", "sentencepiece", "synsets"
]  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Source:
  """A data set with random access: a file of data/sources.

  Its own arguments stand beside these; see the function `source` of that
  file. A string "NAME:VALUE,KEY=VALUE,..." says the same in short.
  """

  name: str = field(
    doc="Which kind of data set: webdataset, parquet, tfds, folder, table, "
    "shapes, or the path of a Python file.",
  )
  filter: dict | None = field(
    None, doc="Leaves out records. None: keeps all of them.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Filter:
  """Records to keep; every condition must hold.

  Each record is read once when the run starts, and of its image the header.
  """

  min_side: int = field(
    0, doc="Least length of an image's shorter side.", unit="pixels",
    why="0 keeps all.",
  )  # fmt: skip
  max_aspect: float = field(
    0.0,
    doc="Largest ratio of an image's longer to its shorter side. 0: any.",
    unit="ratio",
  )
  min_caption: int = field(
    1, doc="Least length of a caption; shorter ones are dropped, and records "
    "without any left.", unit="characters",
  )  # fmt: skip
  max_caption: int = field(
    10**9, doc="Greatest length of a caption.", unit="characters",
  )  # fmt: skip
  keep: str | None = field(
    None,
    doc="A file with the records to keep, one a line: their names as the log "
    "shows them, or their ids. None: all.",
  )
  captions: str | None = field(
    None,
    doc="A folder of big_contrastive.caption. The captions in it that score "
    "well enough, the records' own and generated ones, take the place of the "
    "records' own; records without any are left out. None: their own.",
    paper="BLIP, arXiv:2201.12086",
  )
  threshold: float | None = field(
    None,
    doc="Least score of these captions. None: 0.5, where scores are "
    "probabilities that text and image match.",
    why="0.5 in BLIP. A cosine has no usual one.",
  )


@dataclasses.dataclass(kw_only=True)
class Mixture:
  """Several data sets in one, in place of a name."""

  mixture: list | tuple = field(
    doc="Sources: each a section of this kind with a weight of its own, or a "
    "string.",
  )
  shared_ids: bool = field(
    False,
    doc="Whether equal ids in different sources mean the same concept. If "
    "not, they are moved apart.",
    why="Most data sets count from 0, each for itself.",
  )


@dataclasses.dataclass(kw_only=True)
class MixturePart:
  """One data set of a mixture."""

  source: dict | str = field(doc="Where its examples come from.")
  weight: float | None = field(
    None,
    doc="Share of the training examples, relative to the other weights. None: "
    "its number of records.",
    why="With the default, an epoch sees every record once.",
  )
  train_image: list | tuple | None = field(
    None,
    doc="Preprocessing of its training images. None: that of the config.",
  )


@dataclasses.dataclass(kw_only=True)
class View:
  """Views of each training image; its name is of your choice.

  In a batch, they are uint8 [B, count, height, width, 3] under that name. Their
  randomness depends on the seed, the position in the stream, the name and the
  number within the count: other views, and train_image, change nothing in it.
  """

  ops: list | tuple = field(
    doc="Preprocessing, as in train_image; views may have different sizes.",
    why="Each method has its own: configs/augmentations.py.",
  )
  count: int = field(
    1, doc="How many views are made so.", unit="views",
    why="A pair whose views are drawn alike is one view with count 2.",
  )  # fmt: skip


@dataclasses.dataclass(kw_only=True)
class Tokenizer:
  """Turns a caption into a row of token ids.

  {"kind": "checkpoint", "path": DIR} takes the tokenizer of a checkpoint, and
  {"kind": "init"} that of config.init; fields beside them change it.
  """

  kind: Kind = field(
    doc='"bytes": those of UTF-8. "bpe": byte-level, from a tokenizers JSON or '
    'trained on the captions. "sentencepiece": a .model file. "bert": '
    'WordPiece\'s vocab.txt. "clip_bpe": bpe_simple_vocab_16e6.txt.gz. '
    '"json": any tokenizer.json. "synsets": classes instead of tokens, of a '
    "vocabulary of big_contrastive.synsets.",
  )
  length: int = field(
    doc="Ids in a row; longer captions are cut, shorter ones padded.",
    unit="tokens",
    why="64 in SigLIP, 77 in CLIP, 32 in FLIP, 16 in LiT.",
  )
  path: str | None = field(
    None,
    doc="The vocabulary file. None: for bytes, and to train a bpe.",
  )
  vocab_size: int | None = field(
    None,
    doc="The most ids that a bpe may have; of other kinds, the size that the "
    "vocabulary must have. None: 8192 for a bpe that is trained.",
    unit="ids",
  )
  lower: bool = field(
    True, doc="Whether to lower-case captions.", why="As SigLIP, CLIP and LiT.",
  )  # fmt: skip
  canonicalize: bool | Literal["transformers"] = field(
    False,
    doc='Whether to drop punctuation and extra white space. True turns "_" '
    'into a space, as big_vision and OpenCLIP do; "transformers" is how '
    "SiglipTokenizer does it.",
    why="SigLIP sets it.",
  )
  repair: bool | None = field(
    None,
    doc="Whether to fix broken Unicode and unescape HTML, as CLIP does. None: "
    "for clip_bpe only.",
  )
  bos: bool | None = field(
    None,
    doc="Whether a row begins with BOS. None: for bert and clip_bpe, and where "
    "a json says so.",
  )
  eos: bool = field(
    True,
    doc="Whether a row ends with EOS, also after a caption that was cut.",
    why="LiT has none.",
  )
  pad: Literal["pad", "eos"] | int | None = field(
    None,
    doc="What fills a row: the vocabulary's pad, its eos, or an id. None: eos "
    "for sentencepiece, 0 for clip_bpe, otherwise pad.",
    why="The published models were trained so; SigLIP 2 and T5 set pad.",
  )


@dataclasses.dataclass(kw_only=True)
class Loading:
  """How the host reads, decodes and batches examples."""

  threads: int = field(
    8, doc="Threads that read and decode in each process.", unit="threads",
    why="Try the number of cores. train --profile-input says whether the "
    "input is the bottleneck.",
  )  # fmt: skip
  workers: int = field(
    0,
    doc="Processes that read and decode in place of threads. 0: none.",
    unit="processes",
    why="They do not wait for Python's lock, but take longer to start.",
  )
  ahead: int = field(
    2, doc="Batches prepared and put on devices ahead of time.",
    unit="batches",
    why="One is consumed while the next is made ready; more only evens out "
    "slow disks.",
  )  # fmt: skip
  max_bad: float = field(
    0.01,
    doc="Largest fraction of examples that may be unreadable; more of them "
    "stop the run.",
    unit="fraction of the examples",
    why="Crawled data is never clean; more than one in a hundred is a fault "
    "of the pipeline.",
  )
  bad_floor: int = field(
    20,
    doc="Unreadable examples that never stop a run, whatever their fraction.",
    unit="examples",
    why="One bad file at the start would be a large fraction.",
  )
