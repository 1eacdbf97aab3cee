"""The command: what a workdir holds is on the page; what is none is refused."""

import html.parser
import json
import pathlib
import re

import fsspec
import numpy as np
import PIL.Image
import pytest

import workdirs
from big_contrastive import report
from big_contrastive.config import errors
from big_contrastive.reports import (
  differences,
  evaluations,
  markup,
  page,
  runs,
  series,
)
from big_contrastive.training import events, metrics

made = workdirs.made


class Page(html.parser.HTMLParser):
  """Tags by name with their attributes, and all texts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.texts.append(data)

  def of(self, name, class_=""):
    return [
      a for t, a in self.tags if t == name and class_ in a.get("class", "")
    ]


def parsed(*paths):
  return Page(page.page(runs.read([str(p) for p in paths]), "step"))


def command(monkeypatch, *flags):
  monkeypatch.setattr("sys.argv", ["report", *map(str, flags)])
  report.run()


def test_the_command_writes_one_file_and_writes_it_again(
  tmp_path, monkeypatch, capsys
):
  run = made(tmp_path / "demo", workdirs.training(9), {"batch_size": 4})
  out = tmp_path / "page.html"
  for _ in range(2):
    command(monkeypatch, run, "--out", out)
    assert capsys.readouterr().out.startswith(f"{out}: 1 run, ")
  text = out.read_text()
  assert text.startswith("<!doctype html>")
  # Nothing comes from elsewhere, but what is in the page.
  links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s>]+)", text)
  assert links and all(x.startswith(("#", "data:")) for x in links)
  assert "http" not in text.replace("http-equiv", "")


def test_curves_are_those_of_the_metrics_that_change(tmp_path):
  both = [
    made(tmp_path / "a", [*workdirs.training(20), workdirs.evaluated(10, 0.2),
                          workdirs.evaluated(20, 0.3)]),
    made(tmp_path / "b", workdirs.training(400, 1)),
  ]  # fmt: skip
  found = parsed(*both)
  # Three of training each; of one run alone an evaluation, with its chance;
  # bad_records are always 0.
  curves = found.of("path", "curve")
  assert sorted(c["data-run"] for c in curves if "data-run" in c) == [
    *"0000", *"111"
  ]  # fmt: skip
  assert "top1" in found.texts and "chance 0.01" in found.texts
  assert "data/bad_records" in found.texts
  assert "1 metric of one value" in found.texts
  rates = [c for c in curves if c.get("data-run") == "1"]
  assert all(len(c["data-at"].split()) <= 310 for c in rates)
  for c in curves:
    if "data-at" in c:
      assert len(c["data-at"].split()) == len(c["data-values"].split())


def test_the_loss_of_guessing_is_a_level(tmp_path):
  began = {"step": 0, "kind": "began", "total": 40, "chances": {"loss": 2.75}}
  run = made(tmp_path / "a", workdirs.training(20), None, [began])
  found = parsed(run)
  assert "chance 2.75" in found.texts and "20 of 40" in found.texts


def test_a_table_has_the_last_and_the_best_value_and_chance(tmp_path):
  rows = [workdirs.evaluated(i, v) for i, v in enumerate([0.2, 0.7, 0.7, 0.5])]
  rows.append({"step": 3, "eval/collapse/c/uniformity": -1.5})
  rows.append({"step": 2, "eval/collapse/c/uniformity": -2.5})
  text = page.page(runs.read([str(made(tmp_path / "a", rows))]), "step")
  row = re.search(r"<tr><th scope=\"row\">top1</th>(.*?)</tr>", text)[1]
  cells = re.findall(r"<td>(.*?)</td>", row)
  assert cells == ["0.01", "0.5", "0.7<small> at 1</small>"]
  assert ">-2.5 to -1.5<" in text  # Nobody knows which is better.
  assert '<th scope="row">chance</th>' not in text


@pytest.mark.parametrize(
  ("key", "level"),
  [
    ("zero_shot/c/top1", "chance"),
    ("zero_shot/c/top5", "chance_top5"),
    ("zero_shot/c/mean_per_class_recall", "chance"),
    ("retrieval/c/img2txt_r1", "chance_r1"),
    ("retrieval/c/txt2img_r1", "chance_r1"),
    ("retrieval/c/txt2img_r10", "chance_txt2img_r10"),
    ("retrieval/c/img2txt_reranked_r5", "chance_img2txt_r5"),
    ("retrieval/c/img2txt_reranked_r1", "chance_r1"),
    ("knn/c/top1_k20", "chance"),
    ("knn/c/top5_k20", "chance_top5"),
    ("linear_probe/c/val_top1", "chance"),
    ("few_shot/c/5shot_top1", "chance"),
    ("labels/c/map", "chance"),
    ("captioning/c/true", "true_of_others"),
    ("captioning/c/cider", "cider_constant"),
    ("captioning/c/exact", "exact_constant"),
    ("captioning/c/bleu4", None),
    ("collapse/c/std", "std_uniform"),
    ("collapse/c/uniformity", None),
    ("knn/c/k", None),
    ("knn/c/T", None),
    ("few_shot/c/5shot_l2", None),
    ("labels/c/unlabeled", None),
  ],
)
def test_guessing_has_its_metric(key, level):
  """As the evaluators name them: see evals/."""
  task = key.partition("/")[0]
  known = {
    "zero_shot": ["chance", "chance_top5"],
    "retrieval": ["chance_r1"]
    + [f"chance_{d}_r{k}" for d in ("img2txt", "txt2img") for k in (5, 10)],
    "knn": ["chance", "chance_top5"],
    "linear_probe": ["chance", "chance_top5"],
    "few_shot": ["chance"],
    "labels": ["chance"],
    "captioning": ["true_of_others", "cider_constant", "exact_constant"],
    "collapse": ["std_uniform"],
  }[task]
  levels = [*known]
  known += {"captioning": ["true", "cider", "exact"], "collapse": ["std"]}.get(
    task, []
  )
  one = series.of([(1, 0.5)])
  all_of_it = {f"eval/{task}/c/{k}": one for k in known} | {f"eval/{key}": one}
  found, _ = evaluations.level_of(f"eval/{key}", all_of_it)
  assert found == (level and f"eval/{task}/c/{level}")
  assert not evaluations.is_level(f"eval/{key}", all_of_it)
  for name in levels:
    assert evaluations.is_level(f"eval/{task}/c/{name}", all_of_it), name


def test_the_best_is_the_first_of_equals_in_the_direction_that_is_known():
  s = series.of([(1, 0.5), (2, 0.9), (3, float("nan")), (4, 0.9), (5, 0.1)])
  assert evaluations.best("eval/x/y/top1", s) == (0.9, 2)
  assert evaluations.best("eval/x/y/loss", s) == (0.1, 5)
  assert evaluations.best("eval/x/y/of_mine", s) is None


def test_the_fields_that_differ_are_exactly_these():
  first = {
    "same": {"deep": [1, 2]}, "number": 1, "flag": True, "none": None,
    "list": [1, [2]], "empty": {}, "section": {"a": 1, "b": 2},
  }  # fmt: skip
  second = {
    "same": {"deep": [1, 2]}, "number": 1.0, "flag": 1, "list": [1, [3]],
    "empty": {}, "section": {"a": 1}, "only": "x",
  }  # fmt: skip
  differ, same = differences.split([first, second])
  assert differ == {
    "number": ["1", "1.0"],
    "flag": ["true", "1"],
    "none": ["null", "not set"],
    "list": ["[1, [2]]", "[1, [3]]"],
    "section.b": ["2", "not set"],
    "only": ["not set", '"x"'],
  }
  assert same == {"same.deep": "[1, 2]", "empty": "{}", "section.a": "1"}
  assert differences.split([first, first])[0] == {}
  assert differences.split([{}, {}]) == ({}, {})


def test_a_run_that_is_being_written_is_read_as_far_as_it_is(tmp_path):
  rows = workdirs.training(5)
  run = made(tmp_path / "a", rows, torn='{"step": 6, "train/lo')
  (found,) = runs.read([str(run)])
  assert found.step == 5
  assert not [n for n in found.notes if "can't be read" in n.text]
  # In the middle, a torn line is worth a note.
  text = (run / "metrics.jsonl").read_text()
  more = '[1]\nnull\n{}\n{"step": -1}\n{"step": 1e999}\n'
  (run / "metrics.jsonl").write_text(f"{text}\n{more}")
  (found,) = runs.read([str(run)])
  (note,) = [n for n in found.notes if "can't be read" in n.text]
  assert note.text.startswith("6 of the lines of metrics.jsonl")


def test_what_is_not_finite_is_a_gap_and_a_warning(tmp_path):
  rows = [
    {"step": i, "train/loss": None if i in (2, 3) else 1.0 / i, "a/text": "x"}
    for i in range(1, 6)
  ]
  rows += [{"step": 6, "train/huge": 10**400, "train/\ud800": 1}]
  (found,) = runs.read([str(made(tmp_path / "a", rows))])
  values = found.metrics["train/loss"].values
  assert np.isnan(values[1:3]).all() and np.isfinite(values[[0, 3, 4]]).all()
  assert np.isnan(found.metrics["train/huge"].values)
  texts = [n.text for n in found.notes]
  assert "not finite: train/loss; at 2 steps: 2, 3" in texts
  assert "not finite: train/loss; at 2 steps: 2, 3" in parsed(found.path).texts


def test_a_run_that_was_killed_says_its_warnings_once(tmp_path):
  line = {"step": 3, "kind": "warning", "text": "warning: step 3: too hot"}
  happened = [
    {"step": 0, "kind": "began", "total": 9}, line,
    {"step": 2, "kind": "resumed", "time": "2026-01-02T03:04:05+00:00",
     "total": 10}, line,
    {"step": 5, "kind": "skipped", "text": "step 5: not finite: the loss."},
    {"step": 6, "kind": "stopped", "text": "stopped by SIGTERM"},
    {"step": 0, "kind": "began"}, {"kind": "warning"},
  ]  # fmt: skip
  rows = [{"step": 9, "data/bad/image": 4.0, "data/bad/read": 0.0}]
  run = made(tmp_path / "a", rows, None, happened)
  (run / "nonfinite").mkdir()
  about = {"step": 7, "not_finite": ["loss"], "positions": [1]}
  (run / "nonfinite" / "step_7_process_0.json").write_text(json.dumps(about))
  (found,) = runs.read([str(run)])
  assert {(n.step, n.text) for n in found.notes} == {
    (3, "too hot"),
    (2, "resumed 2026-01-02 03:04 UTC"),
    (5, "not finite: the loss."),
    (6, "stopped by SIGTERM"),
    (0, "began again: there was no checkpoint"),
    (7, "not finite: loss; the batch is in nonfinite/"),
    (9, "4 bad records: image"),
  }
  assert len(found.notes) == 7


def test_a_run_writes_what_happens_to_it(tmp_path):
  """And goes on after a line that a kill cut short."""
  log = events.Events(tmp_path)
  log.add(0, "began", total=8, chances={"loss": 1.5})
  file = tmp_path / events.FILE
  file.write_text(file.read_text() + '{"step": 3, "ki')
  log.add(3, "warning", "warning: step 3: <hot>")
  found, torn = runs._lines(file)
  assert torn == 1 and [e["kind"] for e in found] == ["began", "warning"]
  assert events.FILE in metrics.CONTINUED
  made(tmp_path / "a", events=found)
  (run,) = runs.read([str(tmp_path / "a")])
  assert run.total == 8 and run.chances == {"train/loss": 1.5}


def test_where_the_time_went(tmp_path):
  run = made(tmp_path / "a", [{"step": 1, "perf/goodput": 0.75}])
  seconds = {"input": 25.0, "step": 75.0}
  (run / "goodput.json").write_text(json.dumps({"seconds": seconds}))
  texts = parsed(run).texts
  assert "75.0 %" in texts and "25.0 %" in texts
  assert texts.index("75.0 %") < texts.index("25.0 %")
  assert "goodput" in texts and "0.75" in texts
  (run / "goodput.json").write_text('{"seconds": {"in')
  assert "75.0 %" not in parsed(run).texts


EVIL = "<img src=x onerror=alert(1)>\"'&<script>alert(2)<"


def test_names_and_values_are_only_text(tmp_path):
  rows = [{"step": i, f"train/{EVIL}": i, f"eval/a/{EVIL}/top1": i / 2}
          for i in (1, 2)]  # fmt: skip
  config = {EVIL: EVIL, "batch_size": EVIL, "total": EVIL}
  happened = [{"step": 1, "kind": "warning", "text": EVIL}]
  safe = EVIL.replace("/", "")
  run = made(tmp_path / safe, rows, config, happened, [f"{safe}/pic"])
  other = made(tmp_path / "b", rows, {"x": 1}, happened)
  text = page.page(runs.read([str(run), str(other)]), "step")
  found, plain = Page(text), parsed(made(tmp_path / "plain"))
  assert len(found.of("script")) == len(plain.of("script")) == 1
  assert not [a for _, a in found.tags if any(k[:2] == "on" for k in a)]
  assert all(a["src"].startswith("data:image/png") for a in found.of("img"))
  # It is all there, as it is.
  assert {EVIL, safe} <= set(found.texts) and json.dumps(EVIL) in found.texts
  assert found.of("img")[0]["alt"] == f"{safe}/pic of {safe}"


def test_markup_escapes_all_but_itself():
  inner = markup.tag("b", "1 < 2", [markup.tag("br"), "&"], title='"')
  assert inner == '<b title="&quot;">1 &lt; 2<br>&amp;</b>'
  assert markup.tag("p", inner, None, class_=None) == f"<p>{inner}</p>"


def test_a_long_run_makes_a_page_of_a_bounded_size(tmp_path):
  pages = []
  for n in (4_000, 100_000):
    r = np.random.default_rng(0)
    rows = [{"step": i, "train/loss": float(v)}
            for i, v in enumerate(r.normal(size=n))]  # fmt: skip
    rows[n // 3]["train/loss"] = 1e4
    run = made(tmp_path / f"of{n}", rows)
    pages.append(page.page(runs.read([str(run)]), "step"))
    assert "to 1e4" in pages[-1] or "to 10,000" in pages[-1]
    spike = [a for a in Page(pages[-1]).of("path", "extremes")]
    assert len(spike) == 1
  assert len(pages[1]) < 1.1 * len(pages[0]) < 100_000


def test_pictures_are_in_the_page_but_broken_and_huge_ones(
  tmp_path, monkeypatch
):
  names = ["eval/gallery/c/nearest_texts", "whole", "torn"]
  run = made(tmp_path / "a", [], None, [], names)
  torn = run / "pictures" / "torn.png"
  torn.write_bytes(torn.read_bytes()[:60])
  noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
  PIL.Image.fromarray(noise).save(run / "pictures" / "large.png")
  other = made(tmp_path / "b", [], None, [], names[:1])
  found = parsed(run, other)
  alts = [a["alt"] for a in found.of("img")]
  assert alts[:2] == [f"{names[0]} of a", f"{names[0]} of b"]
  assert set(alts[2:]) == {"whole of a", "large of a"}
  (large,) = [a["src"] for a in found.of("img") if "large" in a["alt"]]
  assert large.startswith("data:image/jpeg;base64,") and len(large) < 900_000
  assert "1 picture left out: torn of a can't be read." in found.texts


def test_a_checkpoint_alone_is_a_run_without_curves(small, tmp_path):
  (found,) = runs.read([str(small)])
  assert found.config["model"] and found.step == 0
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)  # A damaged one.
  assert runs.read([str(tmp_path)])[0].config is None
  assert "There are no curves yet." in parsed(small).texts


def test_runs_of_the_same_name_have_longer_ones(tmp_path):
  paths = [made(tmp_path / p) for p in ("x/demo", "y/demo", "y/other")]
  assert [r.name for r in runs.read([str(p) for p in paths])] == [
    "x/demo", "y/demo", "other"
  ]  # fmt: skip


def test_what_is_no_run_is_refused(tmp_path, monkeypatch):
  run = made(tmp_path / "runs" / "demo", workdirs.training(3))
  (tmp_path / "empty").mkdir()
  (tmp_path / "mine.html").write_text("<!doctype html>\nMy notes.")
  (tmp_path / "folder.html").mkdir()
  out = ("--out", tmp_path / "x.html")
  for flags, said in [
    ([tmp_path / "no"], "RUN = .*/no'; expected the workdir of a run. It does"),
    ([tmp_path / "empty"], "RUN = .*empty'.* It is empty"),
    ([tmp_path / "runs"], r"Did you mean .*/runs/demo\?"),
    ([run / "metrics.jsonl"], "It is a file. Give the folder"),
    ([tmp_path / "folder.html", *out], "It is empty"),
    ([run, f"{run}/", *out], "RUN = .*; expected another run each time"),
    ([run, "--x", "steps"], "--x = 'steps'; expected .*Did you mean 'step'"),
    ([run, "--x", "examples", *out], "--x = 'examples'; expected step for"),
    ([run, "--x", "hours", *out], "Of .*/demo perf/hours is missing"),
    ([run, "--out", tmp_path / "mine.html"], "--out = .*an older report"),
    ([run, "--out", tmp_path / "folder.html"], "--out = .*expected NAME.html"),
    ([run, "--out", tmp_path / "x.htm"], "--out = .*expected NAME.html"),
    ([run, "--out", tmp_path / "no" / "x.html"], "no does not exist"),
    ([run, "--out", "hf://me/x.html"], "--out = .*gs:// or s3://"),
    (["hf://me/run"], "RUN = 'hf://me/run'; expected .*gs:// or s3://"),
    ([], "RUN is missing; expected the workdir of a run"),
  ]:
    with pytest.raises(errors.UserError, match=said):
      command(monkeypatch, *flags)
  assert not (tmp_path / "x.html").exists()
  assert (tmp_path / "mine.html").read_text().endswith("My notes.")


def test_runs_and_page_may_be_in_a_bucket(bucket, tmp_path, monkeypatch):
  config = {"batch_size": 4}
  run = made(tmp_path / "demo", workdirs.training(5), config, [], ["a/b", "c"])
  files = fsspec.filesystem(bucket.partition("://")[0])
  files.put(f"{run}/", f"{bucket}/runs/demo", recursive=True)
  (there,), (here,) = (
    runs.read([p]) for p in (f"{bucket}/runs/demo", str(run))
  )
  assert there.name == here.name and there.config == here.config
  assert there.pictures.keys() == here.pictures.keys() == {"a/b", "c"}
  assert there.step == 5
  command(monkeypatch, f"{bucket}/runs/demo", "--out", f"{bucket}/report.html")
  text = files.cat_file(f"{bucket}/report.html").decode()
  assert len(Page(text).of("img")) == 2
  with pytest.raises(errors.UserError, match="It does not exist"):
    runs.read([f"{bucket}/runs/none"])


STYLE = pathlib.Path(page.__file__).parent / "style.css"


def luminance(color):
  """WCAG 2's, of #rrggbb."""
  rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_the_contrast_that_wcag_aa_asks_for(scheme):
  text = STYLE.read_text()
  light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
  block = light if scheme == "light" else dark
  colors = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6});", block))
  assert luminance("#000000") == 0 and luminance("#ffffff") == pytest.approx(1)
  least = {"text": 4.5, "quiet": 4.5, "alert": 4.5}
  # c0 is that of links as well; lines need three.
  least |= {f"c{i}": 4.5 if i == 0 else 3.0 for i in range(8)}
  for name, ratio in least.items():
    pair = sorted([luminance(colors[name]), luminance(colors["page"])])
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= ratio, name
