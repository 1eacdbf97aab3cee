"""Flags of every command: missing, empty, twice, of another type.

Exit code 2 and a line that names the flag; nothing is read, compiled or
written, so that all of them run in one process.
"""

import itertools
import re

import numpy as np
import pytest

from big_contrastive import (
  balance,
  caption,
  convert,
  dedup,
  embed,
  evaluate,
  keep,
  pack,
  plan,
  report,
  score,
  synsets,
  train,
)
from big_contrastive.config import errors
from big_contrastive.factory import cli

DATA = "shapes:split=heldout,train_size=512,size=32"
# By command: what it needs, all of it right; {} is a folder.
NEEDS = {
  evaluate.run: {
    "--checkpoint": "{model}", "--data": DATA, "--task": "retrieval"
  },
  embed.run: {"--checkpoint": "{model}", "--data": DATA, "--out": "{new}"},
  caption.run: {"--model": "{model}", "--data": DATA, "--out": "{new}"},
  score.run: {"--embedded": "{folder}", "--out": "{new}"},
  keep.run: {"--scores": "{scores}", "--out": "{new}.npy"},
  dedup.run: {
    "--embedded": "{folder}", "--out": "{new}.npy", "--by": "content"
  },
  balance.run: {
    "--data": DATA, "--entries": "{file}", "--out": "{new}.npy"
  },
  convert.run: {"--from": "{model}", "--to": "{new}"},
  synsets.run: {"--published": "{file}", "--wordnet": "shapes"},
  pack.run: {"--data": DATA, "--out": "{new}.tar"},
  plan.run: {"--config": "configs/siglip.py:smoke"},
  train.run: {"--config": "configs/siglip.py:smoke", "--workdir": "{new}"},
  report.run: {},  # RUN is no flag.
}  # fmt: skip
MODEL = ("--batch_size", "--tokenizer")
NUMBERS = (
  "--batch_size", "--tolerance", "--per_file", "--per_shard", "--views",
  "--seed", "--actors", "--reference", "--min_side", "--max_aspect",
  "--min_words", "--clusters", "--rounds", "--limit", "--tail",
  "--least", "--size", "--captions", "--min_characters", "--fraction",
  "--threshold", "--share", "--top_p", "--temperature", "--beams",
  "--min_tokens", "--max_tokens", "--repetition_penalty", "--length_penalty",
  "--slices",
)  # fmt: skip
OPTIONAL = {
  evaluate.run: (*MODEL, "--suite", "--model", "--out", "--prompts"),
  embed.run: (
    *MODEL,
    "--shards",
    "--per_shard",
    "--dtype",
    "--views",
    "--train_image",
    "--seed",
    "--engine",
    "--actors",
    "--resources",
  ),
  caption.run: (
    *MODEL,
    "--filter",
    "--by",
    "--prompt",
    "--method",
    "--top_p",
    "--seed",
    "--shards",
    "--per_shard",
  ),
  score.run: (
    "--by",
    "--reference",
    "--seed",
    "--min_side",
    "--max_aspect",
    "--min_words",
    "--min_characters",
  ),
  keep.run: ("--fraction", "--threshold", "--picture", "--data", "--among"),
  dedup.run: ("--threshold", "--clusters", "--rounds", "--seed"),
  balance.run: ("--limit", "--tail", "--seed"),
  convert.run: (
    "--format",
    "--from_format",
    "--tokenizer",
    "--tolerance",
    "--average",
    "--share",
    "--image",
  ),
  pack.run: ("--per_file", "--keep"),
  synsets.run: (
    "--synonyms",
    "--least",
    "--size",
    "--captions",
    "--out",
    "--shards",
    "--per_shard",
    "--counts",
  ),
  plan.run: ("--topology", "--slices"),
  train.run: (),
  report.run: ("--out", "--x"),
}
# Of values, what the line must say beside the flag's name.
WRONG = [
  (evaluate.run, "--task", "retreival", "Did you mean 'retrieval'"),
  (evaluate.run, "--task", "../secret", "one of attention"),
  (evaluate.run, "--task", "gallery", "--task = 'gallery'; .*with metrics"),
  (evaluate.run, "--templates", "", "templates"),
  (evaluate.run, "--templates", "nowhere.txt", "--templates = 'nowhere.txt'"),
  (pack.run, "--per_file", "0", "a whole number from 1 up"),
  (pack.run, "--per_file", "1e3", "--per_file = '1e3'; expected an integer"),
  (pack.run, "--per_file", "2.5", "--per_file = '2.5'; expected an integer"),
  (pack.run, "--out", "{new}", "ends in .tar or .parquet"),
  (pack.run, "--keep", "{new}.npy", "--keep = '.*'; expected files that exist"),
  (embed.run, "--out", "{file}", "expected a folder"),
  (embed.run, "--per_shard", "0", "a whole number from 1 up"),
  (embed.run, "--shards", "4/4", "i/n with 0 <= i < n"),
  (embed.run, "--dtype", "float64", "one of bfloat16, float16"),
  (embed.run, "--views", "-1", "a whole number from 0"),
  (embed.run, "--views", "2", "--train_image is missing"),
  (embed.run, "--engine", "rya", "Did you mean 'ray'"),
  (embed.run, "--actors", "0", "a whole number from 1 up"),
  (embed.run, "--resources", "2", "numbers by name"),
  (embed.run, "--out", "{file}/in", "a path in a directory"),
  (embed.run, "--out", "{new}/in", "a path in a directory"),
  (caption.run, "--out", "{file}", "expected a folder"),
  (caption.run, "--shards", "4/4", "i/n with 0 <= i < n"),
  (caption.run, "--method", "beams", "--method = 'beams'.*mean 'beam'"),
  (caption.run, "--top_p", "0", "--top_p = 0.0; expected a number above 0"),
  (caption.run, "--top_p", "x", "--top_p = 'x'; expected a float"),
  (caption.run, "--by", "cosines", "Did you mean 'cosine'"),
  (caption.run, "--model", "{new}", "--model = .*a model's path"),
  (caption.run, "--filter", "{new}", "--filter = .*a model's path"),
  (caption.run, "--seed", "-1", "--seed = -1; expected a whole number from 0"),
  (score.run, "--embedded", "{new}", "embed writes it"),
  (score.run, "--by", "cosines", "Did you mean 'cosine'"),
  (score.run, "--reference", "0", "a whole number from 1 up"),
  (score.run, "--min_side", "-1", "a whole number from 0"),
  (score.run, "--max_aspect", "inf", "expected a number from 0"),
  (keep.run, "--fraction", "2", "--fraction = 2.0; expected a number above 0"),
  (keep.run, "--fraction", "half", "--fraction"),
  (keep.run, "--threshold", "x", "--threshold = 'x'; expected a float"),
  (dedup.run, "--by", "contents", "Did you mean 'content'"),
  (dedup.run, "--threshold", "0.9", "left out: content is the same"),
  (dedup.run, "--clusters", "0", "a whole number from 1 up"),
  (dedup.run, "--rounds", "-1", "a whole number from 0"),
  (dedup.run, "--out", "{new}", "NAME.npy"),
  (dedup.run, "--embedded", "{new}", "embed writes it"),
  (balance.run, "--limit", "0", "a whole number from 1 up"),
  (balance.run, "--tail", "1.5", "a number between 0 and 1"),
  (balance.run, "--entries", "{new}", "files that exist"),
  (balance.run, "--seed", "-1", "a whole number from 0"),
  (convert.run, "--share", "-1", "--share = '-1'; expected a number from 0"),
  (convert.run, "--to", "{file}", "a path where nothing is"),
  (convert.run, "--from", "{new}", "a model's path"),
  (convert.run, "--format", "torch", "one of big_vision"),
  (convert.run, "--from_format", "torch", "one of big_vision"),
  (convert.run, "--tolerance", "nan", "= '.*'; expected a number from 0"),
  (convert.run, "--tolerance", "inf", "= '.*'; expected a number from 0"),
  (convert.run, "--tolerance", "-1", "= '.*'; expected a number from 0"),
  (
    convert.run,
    "--tolerance",
    "much",
    "--tolerance = 'much'; expected a number",
  ),
  (convert.run, "--tokenizer", "5", "a section with fields"),
  (train.run, "--workdir", "hf://me/run", "begins with gs:// or s3://"),
  (plan.run, "--config", "{file}", "a .py that exists"),
  (plan.run, "--config", "{new}.py", "a .py that exists"),
  (plan.run, "--config", "{folder}", "a .py that exists"),
  (plan.run, "--config", "{raises}", "NameError.*raises.py:1"),
  (plan.run, "--config", "{empty}", "get_config"),
  (plan.run, "--config", "{divides}:3", "ZeroDivisionError.*divides.py:2"),
  (train.run, "--config", "configs/siglip.py:res=", "res of .* = ''"),
]
for _run in (evaluate.run, embed.run):
  WRONG += [
    *((_run, "--batch_size", v, "--batch_size = .*; expected an integer from 1")
      for v in ("0", "-1", "1e3", "2.5", "many", "²", "9" * 20)),
    (_run, "--checkpoint", "{new}", "a model's path"),
    (_run, "--checkpoint", "{file}", "its config"),
    (_run, "--checkpoint", "{folder}", "neither config.json"),
    (_run, "--tokenizer", "5", "a section with fields"),
    (_run, "--tokenizer", "bpe", "a section with fields"),
    (_run, "--tokenizer", "{{", "a section with fields"),
  ]  # fmt: skip
for _run in (evaluate.run, embed.run, pack.run):
  WRONG += [
    (_run, "--data", "shape:heldout", "Did you mean 'shapes'"),
    (_run, "--data", ":", "one of"),
    (_run, "--data", "wds", "--data"),
    (_run, "--data", "wds:", "--data"),
    (_run, "--data", "wds:{new}.tar", "new.tar"),
    (_run, "--data", "parquet:", "--data"),
    (_run, "--data", "parquet:{new}", "new"),
    (_run, "--data", "folder:", "--data"),
    (_run, "--data", "folder:{new}", "new"),
    (_run, "--data", "table:", "--data"),
    (_run, "--data", "table:{new}.tsv", "images"),
    (_run, "--data", "tfds:", "--data"),
    (_run, "--data", "shapes:split=none", "split"),
    (_run, "--data", "shapes:size=big", "size = 'big'"),
    (_run, "--data", "shapes:sise=32", "Did you mean 'size'"),
  ]


def cases():
  for main, needs in NEEDS.items():
    for flag in needs:
      left = {k: v for k, v in needs.items() if k != flag}
      yield main, flat(left), f"{flag} is missing; expected "
    for flag in (*needs, *OPTIONAL[main]):
      given = needs | {flag: ""}
      empty = f"{flag} = ''; expected an? "
      yield main, flat(given), empty
      yield main, [f"{k}={v}" for k, v in given.items()], empty
      yield main, [*flat(needs), flag], f"value of {flag} is missing; expected"
      value = needs.get(flag, "{file}")
      twice = [*flat(needs | {flag: value}), flag, value]
      if flag not in NUMBERS:
        yield main, twice, rf"{flag} = \[.*\]; expected one value"
  for main, flag, value, said in WRONG:
    yield main, flat(NEEDS[main] | {flag: value}), said
  for main in NEEDS:
    yield main, [*flat(NEEDS[main]), "stray"], "stray"
    yield main, [*flat(NEEDS[main]), "--nonsense=1"], "--nonsense|nonsense"
  needs = flat(NEEDS[evaluate.run])
  for rest, said in (
    (["--templates"], "--KEY=VALUE"),
    (["--templates", "a {{c}}", "--classes"], "--KEY=VALUE"),
    (["templates=a"], "--KEY=VALUE"),
    (
      ["--templates=a", "--templates=b"],
      "--templates = .*'a', 'b'.*; expected one value",
    ),
    (["--source=x"], "--source"),
    (["--classes=5"], "classes = 5"),
  ):
    yield evaluate.run, [*needs, *rest], said
  needs = flat(NEEDS[train.run])
  for rest, said in (
    (["--config.batch_size"], "--config.FIELD=VALUE"),
    (["--config.batch_size="], "config.batch_size"),
    (["--config.=3"], "config"),
    (["--config.a..b=3"], "config"),
    (["--config.batch_size.x=3"], "config.batch_size"),
    (["--batch_size", "3"], "--batch_size"),
  ):
    yield train.run, [*needs, *rest], said


def flat(given):
  return list(itertools.chain.from_iterable(given.items()))


@pytest.fixture(scope="module")
def places(tmp_path_factory, small):
  folder = tmp_path_factory.mktemp("places")
  (folder / "file").write_text("text")
  (folder / "folder").mkdir()
  (folder / "scores").mkdir()
  np.save(folder / "scores" / "scores.npy", np.zeros(8, np.float32))
  (folder / "raises.py").write_text("x = unknown\n")
  (folder / "empty.py").write_text("")
  code = "def get_config(argument):\n  return 1 / 0\n"
  (folder / "divides.py").write_text(code)
  scripts = {k: folder / f"{k}.py" for k in ("raises", "empty", "divides")}
  found = {k: folder / k for k in ("file", "folder", "new", "scores")}
  return {"model": small} | found | scripts


CASES = list(cases())


@pytest.mark.parametrize(
  ("main", "given", "said"), CASES,
  ids=[f"{main.__module__[16:]}-{said}" for main, _, said in CASES],
)  # fmt: skip
def test_a_wrong_flag_is_named_and_ends_with_2(
  main, given, said, places, monkeypatch, capsys
):
  given = [text.format(**places) for text in given]
  monkeypatch.setattr("sys.argv", ["x", *given])
  with pytest.raises(SystemExit) as end:
    cli.main(main)
  out, err = capsys.readouterr()
  assert end.value.code == errors.WRONG_INPUT == 2, err
  assert not out and "Traceback" not in err
  assert re.fullmatch(r"error: .+( = .+| is missing); expected .+\n", err)
  assert re.search(said, err), (given, err)
  assert not places["new"].exists()


def test_a_batch_that_the_host_has_no_memory_for_is_one_line(capsys):
  def run():
    np.zeros((2**20, 2**20, 2**10), np.uint8)

  with pytest.raises(SystemExit) as end:
    cli.main(run)
  said = capsys.readouterr().err.strip()
  assert end.value.code == 2
  assert re.fullmatch("error: Unable to allocate .*Lower the batch size.", said)
