"""Whole training steps beside OpenCLIP and transformers, in interleaved rounds.

  python -m benchmarks.peers [--size Ti] [--batch 16] [--rounds 9]

SigLIP at 224 pixels, patch 16, 64 tokens of 32,000, float32, AdamW, random
pairs that lie in memory: the step alone. Each runs in a process of its own,
which does a step when it is its turn. The others are run where torch,
transformers and open_clip_torch are (`make test-peers` makes such an
environment; --others is its Python). All have the same towers, but that
OpenCLIP's have a class token more and no attention pooling.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

SIZES = {"mu": (32, 1, 2), "Ti": (192, 12, 3), "S": (384, 12, 6)}
RES, PATCH, LENGTH, WORDS = 224, 16, 64, 32_000
NAMES = ("ours", "transformers", "OpenCLIP")


def ours(size, batch):
  """Returns a step: () -> loss."""
  import jax
  import numpy as np

  from benchmarks import step as steps
  from big_contrastive.parallel import sharding

  update, state, pairs, _ = steps.make(
    sharding.make_mesh(), f"{size}/{PATCH}", batch,
    image={"pool": "map"}, text_={"pool": "last", "vocab_size": WORDS},
  )  # fmt: skip

  def step():
    nonlocal state
    state, metrics = update(state, pairs)
    return float(jax.block_until_ready(metrics["loss"]))

  assert np.isfinite(step())
  return step


def _torch(model, loss_of, batch):
  """The step of a torch model; loss_of: (model, pixels, tokens) -> loss."""
  import torch

  torch.set_num_threads(os.cpu_count())
  torch.manual_seed(0)
  pixels = torch.rand(batch, 3, RES, RES) * 2 - 1
  tokens = torch.randint(3, WORDS, (batch, LENGTH))
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
  model.train()

  def step():
    loss = loss_of(model, pixels, tokens)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss)

  step()
  return step


def transformers_model(
  width, depth, heads, mlp, res=RES, patch=PATCH, loss="sigmoid"
):
  """Returns a SiglipModel, and (model, pixels, tokens) -> loss."""
  from benchmarks.input import stand_in_torchvision

  stand_in_torchvision()
  import torch
  import transformers as hf

  shared = {
    "hidden_size": width, "intermediate_size": mlp,
    "num_hidden_layers": depth, "num_attention_heads": heads,
  }  # fmt: skip
  config = hf.SiglipConfig(
    text_config=shared
    | {"vocab_size": WORDS, "max_position_embeddings": LENGTH},
    vision_config=shared | {"image_size": res, "patch_size": patch},
  )

  def loss_of(model, pixels, tokens):
    found = model(tokens, pixels, return_loss=loss == "sigmoid")
    if loss == "sigmoid":
      return found.loss
    pairs = torch.arange(len(tokens), device=tokens.device)
    entropy = torch.nn.functional.cross_entropy
    sides = found.logits_per_text, found.logits_per_text.T
    return sum(entropy(logits.float(), pairs) for logits in sides) / 2

  return hf.SiglipModel(config), loss_of


def transformers(size, batch):
  """SiglipModel with its own loss."""
  width, depth, heads = SIZES[size]
  made = transformers_model(width, depth, heads, 4 * width)
  return _torch(*made, batch)


def open_clip_model(
  width, depth, heads, mlp, res=RES, patch=PATCH, loss="sigmoid", keep=1.0
):
  """Returns OpenCLIP's towers, and (model, pixels, tokens) -> its loss."""
  from benchmarks.input import stand_in_torchvision

  stand_in_torchvision()
  import open_clip as peer

  sigmoid = loss == "sigmoid"
  model = peer.model.CustomTextCLIP(
    width,
    {
      "image_size": res, "layers": depth, "width": width, "patch_size": patch,
      "head_width": width // heads, "mlp_ratio": mlp / width,
      "patch_dropout": 1 - keep,
    },
    {
      "context_length": LENGTH, "vocab_size": WORDS, "width": width,
      "heads": heads, "layers": depth, "mlp_ratio": mlp / width,
      "no_causal_mask": True, "pool_type": "last",
    },
    init_logit_bias=-10.0 if sigmoid else None,
  )  # fmt: skip
  made = peer.loss.SigLipLoss() if sigmoid else peer.loss.ClipLoss()

  def loss_of(model, pixels, tokens):
    return made(*model(pixels, tokens))

  return model, loss_of


def open_clip(size, batch):
  """Its CLIP towers with its SigLIP loss."""
  width, depth, heads = SIZES[size]
  return _torch(*open_clip_model(width, depth, heads, 4 * width), batch)


MAKE = {"ours": ours, "transformers": transformers, "OpenCLIP": open_clip}


def serve(name, size, batch):
  """Does a step for each line that comes in, and tells its seconds."""
  step = MAKE[name](size, batch)
  print(json.dumps("ready"), flush=True)
  for _ in sys.stdin:
    began = time.perf_counter()
    loss = step()
    took = time.perf_counter() - began
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([took, loss, peak]), flush=True)


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=SIZES, default="Ti")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument(
    "--others", default=".venv-peers/bin/python", help="the others' Python"
  )
  parser.add_argument("--serve", choices=NAMES, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.serve:
    serve(flags.serve, flags.size, flags.batch)
    return
  runs, seconds, peaks = {}, {name: [] for name in NAMES}, {}
  for name in NAMES:
    python = sys.executable if name == "ours" else flags.others
    runs[name] = subprocess.Popen(
      [python, "-m", "benchmarks.peers", "--serve", name, "--size", flags.size,
       "--batch", str(flags.batch)],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while (line := runs[name].stdout.readline()) and '"ready"' not in line:
      pass
  for i in range(flags.rounds):
    for name in [*NAMES[i % 3 :], *NAMES[: i % 3]]:
      runs[name].stdin.write("step\n")
      runs[name].stdin.flush()
      took, loss, peaks[name] = json.loads(runs[name].stdout.readline())
      seconds[name].append(took)
  print(
    f"SigLIP {flags.size}/{PATCH}, batch {flags.batch}, float32, "
    f"{os.cpu_count()} CPU cores, {flags.rounds} interleaved rounds\n"
  )
  print("| whole step | images/s | speed relative to ours | peak GiB |")
  print("|---|---|---|---|")
  for name, times in seconds.items():
    ratio = statistics.median(
      a / b for a, b in zip(seconds["ours"], times, strict=True)
    )
    rate = flags.batch / statistics.median(times)
    print(f"| {name} | {rate:.1f} | {ratio:.2f} | {peaks[name]:.2f} |")
    runs[name].stdin.close()


if __name__ == "__main__":
  main()
