"""Several TPU slices: the mesh, the ring over them, and what leaves a slice."""

import re
import types

import jax
import numpy as np
import pytest

from big_contrastive.config import errors
from big_contrastive.losses import sigmoid
from big_contrastive.objectives import _base
from big_contrastive.parallel import dcn, sharding


def fake(slices, platform="tpu"):
  """Devices that are of these slices, one after the other."""
  return [
    types.SimpleNamespace(id=i, slice_index=s, platform=platform)
    for i, s in enumerate(slices)
  ]


def ids(blocks):
  return [[device.id for device in block] for block in blocks]


def test_devices_are_grouped_by_their_slices_in_order():
  assert ids(sharding.slices(fake([1, 0, 1, 0]))) == [[1, 3], [0, 2]]
  assert ids(sharding.slices(fake([3, 3]))) == [[0, 1]]


def test_hosts_of_gpus_are_no_slices():
  assert ids(sharding.slices(fake([0, 0, 1, 1], "gpu"))) == [[0, 1, 2, 3]]
  assert len(sharding.slices(jax.devices())) == 1


def test_slices_of_other_sizes_are_one_line():
  with pytest.raises(errors.UserError, match=r"slices = \[2, 1\]"):
    sharding.slices(fake([0, 0, 1]))


@pytest.fixture
def two(monkeypatch):
  """Takes the even and the odd devices for two slices."""
  monkeypatch.setattr(
    sharding, "slices", lambda devices: [[*devices[::2]], [*devices[1::2]]]
  )
  return lambda position: position.id % 2


def test_only_data_goes_over_slices(two):
  mesh = sharding.make_mesh(fsdp=2, tensor=2)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
  of = np.vectorize(two)(mesh.devices)
  assert (of == np.array([0, 1])[:, None, None]).all()


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}])
def test_weights_that_a_slice_does_not_hold_are_one_line(sizes, two):
  with pytest.raises(errors.UserError, match="4 devices, of each of 2 slices"):
    sharding.make_mesh(**sizes)


def value_and_grad(mesh):
  loss = _base.over_mesh(sigmoid.loss, mesh)
  f = jax.value_and_grad(lambda x: loss(*x, 10.0, -10.0, None))
  return jax.jit(f)


def test_the_ring_leaves_each_slice_once_a_hop(two):
  """So in n hops each chunk passes each border once. Nothing else changes."""
  mesh = sharding.make_mesh()
  r = np.random.default_rng(0)
  z = r.normal(size=(2, 16, 4)).astype("f4")
  z = z / np.linalg.norm(z, axis=-1, keepdims=True)
  compiled = value_and_grad(mesh).lower((z[0], z[1])).compile()
  order = [two(device) for device in mesh.devices.ravel()]
  permutes = re.findall(
    r"collective-permute(?:-start)?\(.*source_target_pairs=\{(\{.*?\})\}",
    compiled.as_text(),
  )
  assert len(permutes) >= 3  # Embeddings, ids, sums.
  for pairs in permutes:
    found = [(int(a), int(b)) for a, b in re.findall(r"(\d+),(\d+)", pairs)]
    assert len(found) == 8
    leaving = [order[a] for a, b in found if order[a] != order[b]]
    assert sorted(leaving) == [0, 1]
  value, grads = compiled((z[0], z[1]))
  logits = 10 * z[0] @ z[1].T - 10
  signs = 2 * np.eye(16) - 1
  expected = np.log1p(np.exp(-signs * logits)).sum() / 16
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  slope = -signs / (1 + np.exp(signs * logits)) / 16 * 10
  np.testing.assert_allclose(grads[0], slope @ z[1], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(grads[1], slope.T @ z[0], rtol=1e-4, atol=1e-6)


SEND = (
  '  %send.{} = ({}, u32[], token[]) send(%x, %t), channel_id=1, '
  'frontend_attributes={{_xla_host_transfer_handler_name='
  '"xla_megascale_runtime",_xla_host_transfer_rendezvous="{}_0",'
  '_xla_megascale_target={},_xla_megascale_transfer_type="{}"}}'
)  # fmt: skip
RING = "{{100003->200000},{200003->100000}}"
GROUP = '"{1,2,3}x{0:3}"'


def program(limit="%limit"):
  """A loop of three iterations, one of eight inside, and what they send."""
  once = SEND.format(1, "f32[32,8]{0,1:T(8,128)}", "ppermute.18", RING, ONE)
  inner = SEND.format(2, "bf16[8,32]{1,0}", "ppermute.20", RING, ONE)
  outer = SEND.format(3, "f32[10]{0}", "all-reduce.6", GROUP, "ALL_REDUCE")
  return f"""HloModule jit_update

%inner_test (p: (f32[], s32[])) -> pred[] {{
  %p = (f32[], s32[]) parameter(0)
  %limit = s32[]{{:T(128)}} constant(8), metadata={{}}
  %i = s32[]{{:T(128)}} get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%i, {limit}), direction=LT, metadata={{}}
}}

%inner (p.1: (f32[], s32[])) -> (f32[], s32[]) {{
  %p.1 = (f32[], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i.1, %one)
{inner}
  ROOT %out = (f32[], s32[]) tuple(%x, %next)
}}

%outer_test (p: (s32[])) -> pred[] {{
  %limit.1 = s32[] constant(7)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt.1 = pred[] compare(%i, %limit.1), direction=LT
}}

%outer (p.2: (s32[])) -> (s32[]) {{
  %zero = s32[] constant(0)
  %copied = s32[] copy(%zero)
  %start = (f32[], s32[]) tuple(%x, %copied)
  %while.1 = (f32[], s32[]) while(%start), condition=%inner_test, body=%inner
{outer}
  %two = s32[] constant(2)
  %next.1 = s32[] add(%two, %i.2)
  %moved = s32[] copy(%next.1)
  ROOT %out.1 = (s32[]) tuple(%moved)
}}

ENTRY %main (a: f32[]) -> f32[] {{
  %first = s32[] constant(1)
  %start.1 = (s32[]) tuple(%first)
  %while.2 = (s32[]) while(%start.1), condition=%outer_test, body=%outer
{once}
  ROOT %a = f32[] parameter(0)
}}
"""


ONE = "ONE_TO_ONE"


def test_transfers_count_as_often_as_their_loops_run():
  found = {t.name: t for t in dcn.transfers(program())}
  assert {k: t.times for k, t in found.items()} == {
    "ppermute.18": 1, "ppermute.20": 3 * 8, "all-reduce.6": 3
  }  # fmt: skip
  assert found["ppermute.20"].pairs == ((100003, 200000), (200003, 100000))
  # Of an all-reduce over 3 slices a device sends 4 / 3 of what it holds.
  reduced = round(4 * (10 * 4) * 4 / 3)
  assert dcn.leaving(program()) == {
    "permute": 24 * 512 + 1024, "all-reduce": 3 * reduced
  }  # fmt: skip


def test_what_cannot_be_read_is_not_counted():
  assert dcn.leaving(program("%unknown")) == {
    "permute": None, "all-reduce": 3 * 213
  }  # fmt: skip
  strange = program().replace("ALL_REDUCE", "RAGGED")
  assert dcn.leaving(strange)["ragged"] is None
  another = program().replace("_megascale_target", "_of")
  assert dcn.leaving(another) == {"unknown": None}
  assert dcn.leaving("HloModule empty") == {}
