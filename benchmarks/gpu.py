"""Training steps on one GPU: einsum, cuDNN's attention, torch's libraries.

  python -m benchmarks.gpu [--cases B/16-224 ...] [--picture FILE.png]
  python -m benchmarks.gpu --smoke   # tiny, on any device: tries the command

Whole steps of SigLIP and CLIP with 64 tokens of 32,000, bfloat16, AdamW, random
pairs that lie in memory. transformers and OpenCLIP run with torch.autocast,
torch.compile and scaled_dot_product_attention; --others is the Python that has
them, and without it they are left out. OpenCLIP's towers have a class token
more and no attention pooling; transformers drops no patches.

Each runs alone, in a process of its own. Model FLOPs are those of our towers,
recomputation left out, for all of them; MFU is over the device's dense peak in
bfloat16. Ours recompute what config.model.remat says, the others nothing.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks import peers

# Variant, pixels, fraction of the patches, batch.
CASES = {
  "B/16-224": ("B/16", 224, 1.0, 512),
  "L/16-256": ("L/16", 256, 1.0, 128),
  "So400m/14-384": ("So400m/14", 384, 1.0, 32),
  "FLIP 50 %, B/16-224": ("B/16", 224, 0.5, 1024),
  "FLIP 75 %, B/16-224": ("B/16", 224, 0.25, 1024),
}
SMOKE = {
  "mu/16-48": ("mu/16", 48, 1.0, 8),
  "FLIP 50 %, mu/16-48": ("mu/16", 48, 0.5, 8),
}
LOSSES = ("sigmoid", "softmax")
RUNNERS = ("ours, einsum", "ours, cudnn", "transformers", "OpenCLIP")
ROUNDS, STEPS = 3, 10


def ours(attention, variant, res, keep, batch, loss):
  """Returns a step () -> loss that may be pending, and facts about it."""
  import jax

  from benchmarks import step as steps
  from big_contrastive.parallel import sharding
  from big_contrastive.training import flops

  update, state, pairs, work = steps.make(
    sharding.make_mesh(devices=jax.devices()[:1]), variant, batch,
    loss=loss, keep=keep, dtype="bfloat16", attention=attention,
    image={"res": res, "pool": "map", "remainder": True},
    text_={"pool": "last", "vocab_size": peers.WORDS},
  )  # fmt: skip

  def step():
    nonlocal state
    state, metrics = update(state, pairs)
    return metrics["loss"]

  def peak():
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

  kind = jax.devices()[0].device_kind
  facts = {
    "device": kind, "flops": work, "peak_flops": flops.peak_flops(kind),
    "version": f"jax {jax.__version__}",
  }  # fmt: skip
  return step, float, peak, facts


def theirs(name, variant, res, keep, batch, loss):
  """The same of a torch library."""
  import torch

  from big_contrastive.models.layers import SIZES

  size, patch = variant.split("/")
  width, depth, mlp, heads = SIZES[size]
  sizes = (width, depth, heads, mlp, res, int(patch), loss)
  if name == "transformers":
    model, loss_of = peers.transformers_model(*sizes)
  else:
    model, loss_of = peers.open_clip_model(*sizes, keep)
  cuda = torch.cuda.is_available()
  device = "cuda" if cuda else "cpu"
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  model = model.to(device).train()
  pixels = torch.rand(batch, 3, res, res, device=device) * 2 - 1
  tokens = torch.randint(3, peers.WORDS, (batch, peers.LENGTH), device=device)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=cuda)
  called = torch.compile(model) if cuda else model

  def step():
    with torch.autocast(device, torch.bfloat16):
      value = loss_of(called, pixels, tokens)
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return value.detach()

  def peak():
    return torch.cuda.max_memory_allocated() if cuda else None

  return step, float, peak, {"version": f"torch {torch.__version__}"}


def serve(name, variant, res, keep, batch, loss, steps):
  """Prints seconds of a step, peak bytes and facts, as JSON, the last line."""
  case = variant, res, keep, batch, loss
  if name.startswith("ours"):
    step, wait, peak, facts = ours(name.rpartition(" ")[2], *case)
  else:
    step, wait, peak, facts = theirs(name, *case)
  for _ in range(3):  # Compiles.
    value = wait(step())
  assert value == value, "the loss is not a number"
  seconds = []
  for _ in range(ROUNDS):
    began = time.perf_counter()
    for _ in range(steps):
      value = step()
    wait(value)
    seconds.append((time.perf_counter() - began) / steps)
  found = {"seconds": statistics.median(seconds), "peak": peak()}
  print(json.dumps(found | facts), flush=True)


def run(python, arguments):
  """Returns what `serve` prints, or the last line of what went wrong."""
  command = [python, "-m", "benchmarks.gpu", "--serve", json.dumps(arguments)]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  lines = done.stderr.strip().splitlines()
  memory = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "out of memory")
  if any(word in line for line in lines for word in memory):
    return "out of memory"
  told = [x.partition(": ")[2] for x in lines if "Error" in x.partition(":")[0]]
  return (told or lines or [f"exit code {done.returncode}"])[-1][:100]


def has_torch(python):
  """Returns whether a Python has torch."""
  try:
    looked = [python, "-c", "import torch"]
    return subprocess.run(looked, capture_output=True).returncode == 0
  except OSError:
    return False


def measure(flags, cases):
  """Yields (case, loss, runner, batch, what was found), as they are run."""
  runners = [name for name in RUNNERS if name in flags.runners]
  if not has_torch(flags.others):
    print(f"No torch in {flags.others}: without transformers and OpenCLIP.")
    runners = [name for name in runners if name.startswith("ours")]
  steps = 1 if flags.smoke else STEPS
  for (case, values), loss in itertools.product(cases.items(), flags.losses):
    variant, res, keep, batch = values
    batch = flags.batch or batch
    for name in runners:
      if name == "transformers" and keep < 1:
        continue
      python = sys.executable if name.startswith("ours") else flags.others
      found = run(python, [name, variant, res, keep, batch, loss, steps])
      yield case, loss, name, batch, found


def table(rows):
  """Returns a Markdown table of what `measure` yields."""
  facts = next((found for *_, found in rows if "flops" in found), {})
  versions = {f["version"] for *_, f in rows if isinstance(f, dict)}
  lines = [
    f"{facts.get('device', 'no device')}, {', '.join(sorted(versions))}, "
    f"bfloat16, one device, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}",
    "",
    "| case | loss | step | batch | images/s | MFU | peak GiB |",
    "|---|---|---|---|---|---|---|",
  ]
  work = {row[:2]: row[-1] for row in rows if "flops" in row[-1]}
  for case, loss, name, batch, found in rows:
    cells = [case, loss, name, f"{batch:,}"]
    if isinstance(found, str):
      lines.append(f"| {' | '.join([*cells, found, '', ''])} |")
      continue
    mfu, known = "-", work.get((case, loss), {})
    if known.get("peak_flops"):
      rate = known["flops"] / found["seconds"]
      mfu = f"{rate / known['peak_flops']:.1%}"
    peak = f"{found['peak'] / 2**30:.1f}" if found["peak"] else "-"
    speed = f"{batch / found['seconds']:,.1f}"
    lines.append(f"| {' | '.join([*cells, speed, mfu, peak])} |")
  return lines


def picture(rows, path):
  """Draws images/s of each case, by runner."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  groups = list(dict.fromkeys(row[:2] for row in rows))
  figure, axis = plt.subplots(figsize=(10, 4))
  for i, name in enumerate(RUNNERS):
    bars = {
      groups.index((case, loss)) + 0.2 * i - 0.3: batch / found["seconds"]
      for case, loss, runner, batch, found in rows
      if runner == name and isinstance(found, dict)
    }
    axis.bar(bars.keys(), bars.values(), 0.2, label=name, color=f"C{i}")
  labels = ["\n".join(group) for group in groups]
  axis.set_xticks(range(len(groups)), labels, fontsize=7)
  axis.set(ylabel="images/s", yscale="log")
  axis.legend()
  figure.tight_layout()
  figure.savefig(path, dpi=110)


def main():
  """Prints the table, and draws the picture."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--smoke", action="store_true", help="tiny sizes")
  parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
  parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
  parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=RUNNERS)
  parser.add_argument("--batch", type=int, help="in place of each case's own")
  parser.add_argument(
    "--others", default=".venv-peers/bin/python", help="the Python with torch"
  )
  parser.add_argument("--picture", help="FILE.png")
  parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.serve:
    serve(*flags.serve)
    return
  cases = SMOKE if flags.smoke else {k: CASES[k] for k in flags.cases}
  rows = []
  for row in measure(flags, cases):
    rows.append(row)
    print(table(rows)[-1], flush=True)
  print("\n" + "\n".join(table(rows)))
  if flags.picture:
    picture(rows, flags.picture)


if __name__ == "__main__":
  main()
