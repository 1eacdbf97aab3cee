"""The page as Chromium shows it, where there is a chromium.

CI has none: what it checks of a page is in test_report.py.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

import workdirs
from big_contrastive.reports import page, runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
  "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--window-size=1400,900",
  "--virtual-time-budget=5000", "--dump-dom",
]  # fmt: skip
WIDTHS = 320, 375, 1280

# Goes before all else in a copy of the page, and tells the frame around it.
PROBE = """<script>
const wrong = [];
addEventListener("error", e => wrong.push(String(e.message)), true);
addEventListener("securitypolicyviolation", e => wrong.push(e.blockedURI));
console.error = (...x) => wrong.push(x.join(" "));
const seen = of => [...document.querySelectorAll(of)].filter(
  e => e.getClientRects().length);
const beyond = () => seen("body *").filter(e =>
  e.getBoundingClientRect().right > innerWidth + 1
  && !e.parentNode.closest(".scroll")).map(e => e.outerHTML.slice(0, 80));
const hours = () => {
  const label = document.querySelector('label[for="by-hours"]');
  label.click();
  const chart = seen("figure.chart > svg")[0];
  const box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove",
    {clientX: box.left + box.width * 350 / 360, clientY: box.top + 9}));
  return {
    finger: label.getBoundingClientRect().height, beyond: beyond(),
    curves: seen("path.curve[data-run]").length,
    last: chart.parentNode.querySelector(".value").textContent,
  };
};
addEventListener("load", () => {
  const chart = document.querySelector("figure.chart > svg");
  const text = () => chart.parentNode.querySelector(".value").textContent;
  const before = text(), box = chart.getBoundingClientRect();
  const at = share => chart.dispatchEvent(new PointerEvent("pointermove",
    {clientX: box.left + box.width * share, clientY: box.top + 9}));
  at(42 / 360);
  const first = text();
  chart.dispatchEvent(new PointerEvent("pointerleave"));
  parent.postMessage({
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    beyond: beyond(),
    curves: seen("path.curve[data-run]").length,
    pictures: [...document.images].filter(i => i.naturalWidth > 0).length,
    requests: performance.getEntriesByType("resource").map(e => e.name)
      .filter(name => !name.startsWith("data:")),
    before, first, after: text(), wrong, hours: hours(),
  }, "*");
});
</script>"""

FRAMES = """<!doctype html><meta charset="utf-8"><pre id="told"></pre>
<script>
addEventListener("message", e => {
  document.getElementById("told").append(JSON.stringify(e.data) + "\\n");
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_the_page_works_on_a_phone_and_on_a_desk(tmp_path):
  long = "siglip_with_a_rather_long_name_of_its_own_and_no_space_in_it_at_all"
  rows = [*workdirs.training(900), workdirs.evaluated(450, 0.2)]
  rows += [workdirs.evaluated(900, 0.6), {"step": 901, "train/loss": None}]
  rows += [{"step": 900, "perf/hours": 1.23456}]
  config = {"batch_size": 64, "source": "wds:" + "x" * 300, "a": {"b": 1}}
  pictures = ["eval/gallery/c/nearest_texts"]
  warning = {"step": 5, "kind": "warning", "text": "y" * 200}
  paths = [
    workdirs.made(tmp_path / long, rows, config, [warning], pictures),
    workdirs.made(tmp_path / "b", workdirs.training(50, 1), {"a": {"b": 2}}),
    workdirs.made(tmp_path / "<script>", workdirs.training(50, 1, 99.0)),
  ]
  text = page.page(runs.read([str(p) for p in paths]), "step")
  # The policy of the page stays, and is obeyed by what is in it.
  probed = text.replace("<head>", f"<head>{PROBE}", 1)
  frames = "".join(
    f'<iframe style="width:{w}px;height:800px;border:0" '
    f'srcdoc="{html.escape(probed)}"></iframe>'
    for w in WIDTHS
  )
  outer = tmp_path / "frames.html"
  outer.write_text(FRAMES + frames)
  done = subprocess.run(
    [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}",
     outer.as_uri()],
    capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  told = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)[1]
  found = [json.loads(html.unescape(x)) for x in told.strip().splitlines()]
  assert {f["width"] for f in found} == set(WIDTHS)
  for f in found:
    assert not f["wrong"] and not f["requests"] and not f["beyond"], f
    assert f["scroll"] <= f["width"], f
    # Loss, rate and speed of three runs, and one evaluation.
    assert f["curves"] == 10 and f["pictures"] == 1
    # The pointer at the left end is on the first step; without it, the last.
    assert re.search(r" at 1$", f["first"]), f["first"]
    assert f["before"] == f["after"] and re.search(r" at 900$", f["before"])
    # By hours, those of the run that has them, under a button for a finger.
    hours = f["hours"]
    assert hours["curves"] == 4 and not hours["beyond"], hours
    assert hours["finger"] >= 40 and hours["last"].endswith(" at 1.235"), hours
