"""Self-supervised objectives beside torch, step by step on the same views.

Both sides begin with the same weights, in float32, and take 20 steps (3 over a
ResNet, see STEPS). There the towers are timm's or torchvision's, the optimizers
torch's and the losses lightly's, MoCo v3's excepted, which lightly lacks: it is
written here from the paper, and so is the rule by which SwAV fills its queue.
The order of forward pass, update and teacher is that of the papers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import peers
from big_contrastive import objectives
from big_contrastive.config import registry, rules
from big_contrastive.interop import mapping
from big_contrastive.interop.formats import torchvision as format
from big_contrastive.interop.mapping import Row
from big_contrastive.interop.open_clip import weights
from big_contrastive.models import build
from big_contrastive.models.heads import prototypes
from big_contrastive.models.image import resnet
from big_contrastive.parallel import sharding
from big_contrastive.training import optimizers, step
from big_contrastive.training.state import State

pytestmark = pytest.mark.peers

# The teacher's momentum is far from the end of its schedule.
BATCH, TOTAL, WIDTH = 16, 30, 24
VIT = {
  "variant": "mu/8", "res": 32, "width": 32, "depth": 2, "mlp": 64, "heads": 2,
  "pool": "tok", "activation": "gelu", "pos_resize": "antialias",
}  # fmt: skip
RESNET = {"tower": "resnet", "depth": 18, "res": 32}
# A gradient of about 1e-8, which is rounding, is no step of Adam's with this.
EPS = 1e-3
GAIN = 0.1
ADAMW = {"name": "adamw", "rate": 1e-3, "weight_decay": 0.1}
SGD = {"name": "sgd", "rate": 1e-3, "weight_decay": 1e-3}
# A ReLU's kink may turn a rounding into 1e-4 of a loss: the heads have none.
NORMED = {
  "name": "mlp", "activation": "gelu", "hidden": 48, "out_dim": WIDTH,
  "norm": True, "hidden_bias": False,
}  # fmt: skip
MOCO = {"name": "moco", "queue": 4 * BATCH, "momentum": 0.9}
MOCO_HEAD = {k: NORMED[k] for k in ("name", "activation", "hidden", "out_dim")}
PREDICTOR = NORMED | {"on": "projector"}
# By case: the objective, the heads, the tower, the optimizer.
CASES = {
  "simclr": (
    {"name": "simclr", "temperature": 0.2},
    {"projector": NORMED | {"bias": False, "last_norm": "scale"}}, VIT, ADAMW,
  ),
  "moco": (MOCO, {"projector": MOCO_HEAD}, VIT, SGD | {"rate": 0.02}),
  "moco, resnet": (MOCO, {"projector": MOCO_HEAD}, RESNET, SGD),
  "moco_v3": (
    {"name": "moco_v3", "momentum": 0.9},
    {"projector": NORMED | {"bias": False, "depth": 3, "last_norm": "plain"},
     "predictor": PREDICTOR | {"bias": False, "last_norm": "plain"}},
    VIT, ADAMW,
  ),
  "byol": (
    {"name": "byol", "momentum": 0.9},
    {"projector": NORMED, "predictor": PREDICTOR}, VIT, ADAMW,
  ),
  "simsiam": (
    {"name": "simsiam"},
    {"projector": NORMED | {"bias": False, "depth": 3, "last_norm": "plain"},
     "predictor": PREDICTOR},
    VIT, SGD | {"rate": 2e-3},
  ),
  "dino": (
    {"name": "dino", "momentum": 0.9, "final_teacher_temperature": 0.07,
     "temperature_warmup": 8},
    {"projector": {"name": "dino", "hidden": 48, "bottleneck": WIDTH,
                   "out_dim": 64}},
    VIT, ADAMW | {"final_weight_decay": 0.4, "clip_each": 0.1},
  ),
  # Filled in the steps 6 and 7, the queue counts from the next one on.
  "swav": (
    {"name": "swav", "queue": 2 * BATCH, "queue_start": 6},
    {"projector": NORMED,
     "prototypes": {"name": "prototypes", "on": "projector", "count": 12}},
    VIT, ADAMW,
  ),
}  # fmt: skip
# DINO's last layer and SwAV's prototypes begin late.
LAST, START = {"projector/last/kernel", "prototypes/kernel"}, 5
# So many local views of half the side.
LOCAL = {"dino": 2, "swav": 2}
# MoCo v3's random patch projection.
FROZEN = {"moco_v3": "img/embed/"}
# The ResNet keeps its ReLUs. In its fourth step here an input of one in
# layer3.0 is 2e-8: with its sign 2e-3 of that layer's movement changes.
STEPS = {"moco, resnet": 3}
# Biases without a gradient, see `check`.
SHIFTS = {
  "simclr": ("tower.norm.bias",),
  "moco_v3": ("tower.norm.bias",),
  "byol": ("tower.norm.bias", "projector.fc2.bias"),
  "simsiam": ("tower.norm.bias",),
  "swav": ("tower.norm.bias",),
}


def batches(case):
  """Views, uint8 [B, 1, 32, 32, 3]: the second is the first with noise."""
  r = np.random.default_rng(0)
  made = []
  for _ in range(STEPS.get(case, 20)):
    # Squares of one color, so that images differ in more than noise.
    first = r.integers(0, 256, (BATCH, 1, 4, 4, 3)).repeat(8, 2).repeat(8, 3)
    second = np.clip(first + r.integers(-90, 91, first.shape), 0, 255)
    made.append({"first": first.astype("u1"), "second": second.astype("u1")})
    if case in LOCAL:
      local = [second[:, 0, :16, :16], first[:, 0, 16:, 8:24]]
      made[-1]["local"] = np.stack(local[: LOCAL[case]], 1).astype("u1")
  return made


# --- Ours. ---


def make(case):
  """The placed step of a case, on one device."""
  objective, heads, tower, optimizer = CASES[case]
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  model = build.build_model({"image": tower, "heads": heads})
  views = {"first": 1, "second": 1}
  views |= {"local": LOCAL[case]} if case in LOCAL else {}
  setting = objectives.Setting(model, mesh, BATCH, None, TOTAL, views)
  module = registry.module("objectives", objective["name"], "")
  fields = {k: v for k, v in objective.items() if k != "name"}
  method = module.build(setting, **fields)
  names = frozenset(rules.flatten(model.shapes))
  start = FROZEN.get(case, "nothing")
  frozen = frozenset(k for k in names if k.startswith(start))
  ones = dict.fromkeys(names - frozen, 1.0)
  directions = {
    "adamw": lambda: optimizers.adamw(b2=0.999, eps=EPS),
    "sgd": lambda: optimizers.sgd(momentum=0.9),
  }
  more = {k: optimizer.get(k) for k in ("final_weight_decay", "clip_each")}
  if late := LAST & names:
    more["start"] = dict.fromkeys(ones, 0) | dict.fromkeys(late, START)
  tx = optimizers.build(
    directions[optimizer["name"]](), lambda step: optimizer["rate"],
    weight_decay=optimizer["weight_decay"], decay=ones, lr_mult=ones, clip=None,
    total=TOTAL, **more,
  )  # fmt: skip
  recipe = step.Step(
    method.freeze(frozen), tx, lambda s: optimizer["rate"], names - frozen, 0
  )
  return step.place(recipe, mesh, [(".*", "replicate")])


def first_state(placed):
  """The initial state, in which no vector is 0 or 1 by rule.

  The parameters are drawn here: the model's own draws take long to compile.
  """
  r, params = np.random.default_rng(1), {}
  for name, x in rules.flatten(placed.abstract.params).items():
    std = len(x.shape) > 1 and x.shape[0] ** -0.5
    if name.endswith(("scale", "bias", "cls")):
      std = 0.1
    elif "conv/" in name:  # He's, over outputs.
      std = math.sqrt(2 / (x.shape[0] * x.shape[1] * x.shape[3]))
    elif "blocks/" in name:
      std = 0.2
    noise = std * r.standard_normal(x.shape) + name.endswith("scale")
    if name.endswith("conv2/norm/scale"):
      # The end of a residual branch, which recipes begin with 0. Without it
      # gradients explode towards the stem, and torch's own trajectories in
      # float32 and in float64 part after two steps.
      noise *= GAIN
    params[name] = jnp.asarray(noise, jnp.float32)
  params = rules.unflatten(params)
  if "prototypes" in params:
    params["prototypes"] = prototypes.normalized(params["prototypes"])
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    (placed.abstract.step, placed.abstract.opt),
  )
  return State(zeros[0], params, zeros[1], placed.init_extra(params))


def trained(case, placed, state):
  """The losses and the state after all steps, on the host."""
  losses = []
  for local in batches(case):
    batch = sharding.to_global(local, BATCH, placed.mesh)
    state, metrics = placed.update(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state)


def tensors(case, params, statistics=None):
  """Our parameters and running statistics by the names of `Peer`."""
  flat = rules.flatten(params) | rules.flatten(statistics or {})
  rows = []
  for part in ("projector", "predictor"):
    for i in (1, 2, 3):
      rows += mapping.linear(f"{part}/fc{i}", f"{part}.fc{i}")
      rows += mapping.norm(f"{part}/norm{i}", f"{part}.norm{i}")
    rows += mapping.norm(f"{part}/last_norm", f"{part}.last_norm")
  for i in (1, 2, 3):
    rows += mapping.linear(
      f"projector/mlp/fc{i}", f"projector.layers.{2 * i - 2}"
    )
  for ours, theirs in (
    ("projector/last", "projector.last_layer.weight_v"),
    ("prototypes", "prototypes.heads.0.weight"),
  ):
    rows.append(Row((f"{ours}/kernel",), theirs, "linear"))
  if CASES[case][2] is VIT:
    rows += weights.table("timm", True, False)
    rows.append(Row(("img/cls",), "visual.trunk.cls_token", "two_leading"))
  else:
    of_tower = format._rows(RESNET["depth"])
    rows += [row._replace(theirs=f"tower.{row.theirs}") for row in of_tower]
  found = mapping.write(rows, flat, "torch")
  return {k.replace("visual.trunk.", "tower."): x for k, x in found.items()}


# --- torch's. ---


def tower(case):
  """timm's ViT or torchvision's ResNet, without a classifier; its width."""
  torch = peers.torch()
  if CASES[case][2] is VIT:
    timm = pytest.importorskip("timm")
    made = timm.models.vision_transformer.VisionTransformer(
      img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2,
      mlp_ratio=2, num_classes=0, global_pool="token", class_token=True,
      no_embed_class=True, act_layer="gelu", dynamic_img_size=True,
    )  # fmt: skip
    return made, 32
  pytest.importorskip("torchvision")
  from torchvision import models

  made = models.resnet18(weights=None)
  made.fc = torch.nn.Identity()
  return made, 512


def head(width, section):
  """The head of a section of config.model.heads."""
  if section["name"] == "dino":
    from lightly.models.modules import heads

    sizes = width, section["hidden"], section["bottleneck"], section["out_dim"]
    return heads.DINOProjectionHead(*sizes, freeze_last_layer=START)
  if section["name"] == "prototypes":
    from lightly.models.modules import heads

    made = heads.SwaVPrototypes(width, section["count"], START)
    made.heads[0].bias = None  # The official code has none.
    return made
  nn, layers = peers.torch().nn, {}
  hidden, depth = section["hidden"], section.get("depth", 2)

  def norm(width):
    return nn.BatchNorm1d(width, track_running_stats=False)

  for i in range(1, depth):
    bias = section.get("hidden_bias", True)
    layers[f"fc{i}"] = nn.Linear(width, hidden, bias=bias)
    if section.get("norm"):
      layers[f"norm{i}"] = norm(hidden)
    layers[f"gelu{i}"], width = nn.GELU(), hidden
  bias = section.get("bias", True)
  layers[f"fc{depth}"] = nn.Linear(width, section["out_dim"], bias=bias)
  if section.get("last_norm"):
    layers["last_norm"] = norm(section["out_dim"])
    layers["last_norm"].bias = None
    if section["last_norm"] == "plain":
      layers["last_norm"].weight = None
  made = nn.Sequential()
  for name, layer in layers.items():
    made.add_module(name, layer)
  return made


class Peer:
  """A model of torch's in training, with our weights."""

  def __init__(self, case, ours):
    torch = peers.torch()
    made, width = tower(case)
    parts = {"tower": made}
    for name, section in CASES[case][1].items():
      parts[name] = head(width, section)
      width = section.get("out_dim")
    self.model = torch.nn.ModuleDict(parts).train()
    ours = {k: torch.tensor(np.array(x)) for k, x in ours.items()}
    wrong = self.model.load_state_dict(ours, strict=False)
    assert not wrong.unexpected_keys
    # The lengths of DINO's prototypes are 1, and stay so.
    missing = [k for k in wrong.missing_keys if not k.endswith("weight_g")]
    assert not mapping.without_counters(dict.fromkeys(missing))

  def __call__(self, x, *heads):
    x = self.model["tower"](x)
    for name in heads:
      x = self.model[name](x)
    return x

  def tensors(self):
    """Parameters and running statistics, float32."""
    state = mapping.without_counters(self.model.state_dict())
    return {k: x.numpy().copy() for k, x in state.items()}


class Reference:
  """Steps of one method in torch.

  Args:
    case: of CASES.
    state: our first state.
  """

  def __init__(self, case, state):
    torch = peers.torch()
    # With more, models this small take many times as long on busy cores.
    torch.set_num_threads(1)
    pytest.importorskip("lightly")
    from lightly.loss import (
      DINOLoss,
      NegativeCosineSimilarity,
      NTXentLoss,
      SwaVLoss,
    )

    self.case = case
    self.objective, heads, self.section, optimizer = CASES[case]
    statistics = state.extra.get("statistics")
    self.student = Peer(case, tensors(case, state.params, statistics))
    parameters = dict(self.student.model.named_parameters())
    if case in FROZEN:
      for name in ("weight", "bias"):
        parameters.pop(f"tower.patch_embed.proj.{name}").requires_grad_(False)
    kwargs = dict(lr=optimizer["rate"], weight_decay=optimizer["weight_decay"])
    if optimizer["name"] == "sgd":
      kind = torch.optim.SGD
      kwargs |= dict(momentum=0.9)
    else:
      kind, kwargs = torch.optim.AdamW, kwargs | dict(eps=EPS)
    self.optimizer = kind(parameters.values(), **kwargs)
    self.cosine = NegativeCosineSimilarity()
    self.swav_loss, self.queue = SwaVLoss(), [[], []]
    if case == "dino":
      rise = self.objective["temperature_warmup"]
      self.dino_loss = DINOLoss(heads["projector"]["out_dim"], 0.04, 0.07, rise)
    temperature = self.objective.get("temperature", 0.2)
    bank = 0
    if "teacher" in state.extra:
      first = rules.flatten(state.params) | rules.flatten(
        state.extra["teacher"]
      )
      first = tensors(case, rules.unflatten(first), statistics)
      self.teacher = Peer(case, first)
    if self.objective["name"] == "moco":
      bank = (self.objective["queue"], WIDTH)
    self.nt_xent = NTXentLoss(temperature, memory_bank_size=bank)
    if bank:
      queue = np.array(state.extra["queue"]).reshape(bank)
      self.nt_xent.memory_bank.bank = torch.tensor(queue)

  def follow(self, t):
    """Updates the teacher with the momentum of step t."""
    from lightly.models.utils import update_momentum

    m = self.objective["momentum"]
    if self.objective["name"] != "moco":
      m = 1 - (1 - m) * (1 + math.cos(math.pi * t / TOTAL)) / 2
    for name, part in self.teacher.model.items():
      update_momentum(self.student.model[name], part, m)

  def train(self):
    """Returns the losses of all steps."""
    losses, name = [], self.objective["name"]
    stats = (
      {} if self.section is VIT else dict(mean=resnet.MEAN, std=resnet.STD)
    )
    for t, batch in enumerate(batches(self.case)):
      views = [
        peers.pixels(view[:, i], **stats)
        for view in batch.values()
        for i in range(view.shape[1])
      ]
      if name in ("moco", "moco_v3"):
        self.follow(t)
      more = {"t": t} if name in ("dino", "swav") else {}
      loss = getattr(self, name)(*views, **more)
      self.optimizer.zero_grad()
      loss.backward()
      if name == "dino":
        self.shape_step(t)
      self.optimizer.step()
      if name in ("byol", "dino"):
        self.follow(t)
      losses.append(loss.item())
    if name in ("moco", "moco_v3"):  # As before the next step's keys.
      self.follow(STEPS.get(self.case, 20))
    if name == "swav":  # As before the next step.
      self.student.model["prototypes"].normalize()
    return losses

  def simclr(self, x1, x2):
    torch = peers.torch()
    z = self.student(torch.cat([x1, x2]), "projector")
    return 2 * self.nt_xent(*z.chunk(2))

  def moco(self, x1, x2):
    k = self.targets(x2)[0]
    return self.nt_xent(self.student(x1, "projector"), k)

  def moco_v3(self, x1, x2):
    f = peers.torch().nn.functional
    q = [f.normalize(q) for q in self.predicted(x1, x2)]
    k = [f.normalize(k) for k in self.targets(x1, x2)]
    labels, loss = peers.torch().arange(BATCH), 0
    for i in range(2):
      loss += f.cross_entropy(q[i] @ k[1 - i].T / 0.2, labels)
    return 2 * 0.2 * loss

  def byol(self, x1, x2):
    p, k = self.predicted(x1, x2), self.targets(x1, x2)
    return 4 + 2 * self.cosine(p[0], k[1]) + 2 * self.cosine(p[1], k[0])

  def simsiam(self, x1, x2):
    z = [self.student(x, "projector") for x in (x1, x2)]
    p = [self.student.model["predictor"](z) for z in z]
    first = self.cosine(p[0], z[1].detach())
    return (first + self.cosine(p[1], z[0].detach())) / 2

  def dino(self, *views, t):
    of_teacher = self.targets(*views[:2])
    student = [self.student(x, "projector") for x in views]
    return self.dino_loss(of_teacher, student, epoch=t)

  def swav(self, *views, t):
    torch, model = peers.torch(), self.student.model
    model["prototypes"].normalize()
    # One size after the other; all crops are one batch of the head.
    x = [model["tower"](torch.cat(of)) for of in (views[:2], views[2:])]
    z = torch.nn.functional.normalize(model["projector"](torch.cat(x)))
    scores = model["prototypes"](z, step=t).split(BATCH)
    older, length = None, self.objective["queue"] // BATCH
    if len(self.queue[0]) == length:
      older = [model["prototypes"](torch.cat(q), step=t) for q in self.queue]
    if t >= self.objective["queue_start"]:
      newest = z.detach().split(BATCH)
      self.queue = [
        [new, *q][:length] for new, q in zip(newest, self.queue, strict=False)
      ]
    return self.swav_loss(scores[:2], scores[2:], older)

  def shape_step(self, t):
    """Clips gradients, stills the last layer, and sets the weight decay."""
    of = CASES[self.case][3]
    self.clipped = []
    for x in self.student.model.parameters():
      if x.grad is not None:
        factor = of["clip_each"] / (x.grad.norm() + 1e-6)
        x.grad *= min(1, factor)
        self.clipped.append(factor < 1)
    self.student.model["projector"].cancel_last_layer_gradients(t)
    first, last = of["weight_decay"], of["final_weight_decay"]
    cosine = (1 + math.cos(math.pi * t / TOTAL)) / 2
    for group in self.optimizer.param_groups:
      group["weight_decay"] = last + (first - last) * cosine

  def predicted(self, *views):
    return [self.student(x, "projector", "predictor") for x in views]

  def targets(self, *views):
    with peers.torch().no_grad():
      return [self.teacher(x, "projector") for x in views]


# --- Both. ---


def check(found, wanted, start, shifts=()):
  """Asserts that tensors differ by a small part of what training moved them.

  Args:
    found, wanted, start: tensors by name; start: before the first step.
    shifts: names of biases that the next batch norm subtracts. Their gradient
      is rounding, of which Adam makes steps: they are compared by their size.
  """
  wrong = {}
  for name, x in found.items():
    shift = name in shifts
    moved = wanted[name] if shift else wanted[name] - start[name]
    limit = (1e-4 if shift else 3e-4) * np.linalg.norm(moved)
    # And the rounding of the value itself, which may move by 1e-5 of it.
    limit += np.finfo(np.float32).eps * np.linalg.norm(wanted[name])
    error = np.linalg.norm(x - wanted[name])
    if not error <= limit:
      wrong[name] = error, limit
  assert not wrong


@pytest.mark.slow
# lightly's heads have torch's older form of it.
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_torch(case):
  placed = make(case)
  state = first_state(placed)
  start = jax.device_get(state)
  reference = Reference(case, start)
  wanted = reference.train()
  losses, state = trained(case, placed, state)
  # SimSiam's is a cosine, of any sign: there it is a part of 1.
  size = np.maximum(np.abs(wanted), 1) if case == "simsiam" else wanted
  np.testing.assert_array_less(np.abs(np.subtract(losses, wanted)) / size, 1e-5)
  assert np.ptp(wanted) > 0.05
  first = tensors(case, start.params, start.extra.get("statistics"))
  found = tensors(case, state.params, state.extra.get("statistics"))
  check(found, reference.student.tensors(), first, SHIFTS.get(case, ()))
  if "teacher" in state.extra:
    first = tensors(case, start.extra["teacher"])
    found = tensors(case, state.extra["teacher"])
    check(found, reference.teacher.tensors(), first, SHIFTS.get(case, ()))
  if case == "swav":
    queue = np.array([[x.numpy() for x in of] for of in reference.queue])
    assert queue.shape == state.extra["queue"].shape
    # Of unit vectors after 19 steps of AdamW, in float32.
    np.testing.assert_allclose(state.extra["queue"], queue, rtol=0, atol=1e-4)
    lengths = np.linalg.norm(state.params["prototypes"]["kernel"], axis=0)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
  if "at" in state.extra:
    bank = reference.nt_xent.memory_bank
    assert int(state.extra["at"]) * BATCH == int(bank.bank_ptr)
    queue = state.extra["queue"].reshape(bank.bank.shape)
    np.testing.assert_allclose(queue, bank.bank.numpy(), rtol=0, atol=1e-5)
  if case == "dino":
    assert any(reference.clipped) and not all(reference.clipped)
    center = reference.dino_loss.center.numpy().ravel()
    np.testing.assert_allclose(state.extra["center"], center, rtol=0, atol=1e-6)
    assert np.abs(center).max() > 0.05
  if case in FROZEN:
    first, last = (rules.flatten(s.params) for s in (start, state))
    frozen = [k for k in first if k.startswith(FROZEN[case])]
    assert len(frozen) == 2
    for name in frozen:
      assert first[name].tobytes() == last[name].tobytes()
