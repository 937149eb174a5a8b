"""Plans: what a launch is given, who may start early, the side stream, and torch calls in between."""

from __future__ import annotations

import ctypes

import pytest
import torch
import torch.nn.functional as F
from helpers.fake_gpu import MAIN, SIDE, FakeGpu
from mirage_cli.kernels import loader

from mirage_cli.engine.graphs import CapturedFrame
from mirage_cli.engine.plan import ALONE_BYTES, Plan
from mirage_cli.stream import motion

CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch) -> FakeGpu:
    return FakeGpu(monkeypatch)


def plan_on(gpu: FakeGpu, **how) -> Plan:
    return Plan(CPU, torch.float16, gpu.kernels("a", "b_f16", "c"), **how)


def test_launch_takes_tensors_numbers_and_ctypes(gpu):
    plan = plan_on(gpu)
    x = plan.buffer(4, 8)
    late = ctypes.c_void_p(0)
    plan.launch(plan.typed("b"), (3, 2), (x, x[1:], 7, 0.5, late), block=64, shared_bytes=512)
    (launch,) = plan.launches
    assert (launch.name, launch.entry, launch.grid, launch.block) == ("b", "b_f16", (3, 2, 1), (64, 1, 1))
    kinds = [type(argument) for argument in launch.arguments]
    assert kinds == [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_void_p]
    assert launch.arguments[1].value == x.data_ptr() + 16 and launch.arguments[4] is late
    assert launch.shared_bytes == 512 and x.dtype == torch.float16


def test_launch_refuses_what_no_kernel_can_have(gpu):
    plan = plan_on(gpu)
    with pytest.raises(KeyError, match="b_bf16"):
        plan.launch("b_bf16", (1,), ())
    with pytest.raises(ValueError, match="does not fit 32 bits"):
        plan.launch("a", (1,), (2**31,))
    with pytest.raises(ValueError, match="side stream begins behind a node"):
        plan.launch("a", (1,), (), side=True)


def test_launch_keeps_its_tensors_alive(gpu):
    plan = plan_on(gpu)
    plan.launch("a", (1,), (torch.ones(3), 1))
    assert [tensor.tolist() for tensor in plan.kept] == [[1.0, 1.0, 1.0]]
    assert plan.launches[0].arguments[0].value == plan.kept[0].data_ptr()
    assert plan.address(None) == 0


def four(plan: Plan) -> Plan:
    """Launch, launch, torch, launch, launch; and one on the side stream."""
    plan.launch("a", (1,), ())
    plan.launch("b_f16", (1,), ())
    plan.launch("c", (1,), (), side=True)
    plan.call(lambda: None)
    plan.launch("c", (1,), ())
    plan.launch("a", (1,), ())
    return plan


def test_pdl_only_behind_a_kernel_of_the_plan(gpu):
    """Not behind what the caller queued, not behind torch's kernels, and not from one stream to another."""
    plan = four(plan_on(gpu))
    assert [launch.pdl for launch in plan.launches] == [False, True, False, True]
    assert [launch.pdl for launch in plan.side[1]] == [False]
    plan.use_pdl(False)
    assert not any(launch.pdl for launch in plan.launches)
    plan.use_pdl(True)
    assert [launch.pdl for launch in plan.launches] == [False, True, False, True]


@pytest.mark.parametrize(("asked", "able"), [(False, True), (True, False)], ids=["switched off", "not to be had"])
def test_pdl_stays_off(monkeypatch, asked, able):
    plan = four(plan_on(FakeGpu(monkeypatch, pdl=able), pdl=asked))
    plan.use_pdl(True)
    assert not any(launch.pdl for launch in plan.launches)


def test_a_block_alone_has_its_multiprocessor_where_the_grid_is_small(monkeypatch):
    plan = plan_on(FakeGpu(monkeypatch, processors=8))
    for grid in ((8,), (8,), (4, 2), (9,)):  # the first waits for what is ahead: nothing to keep apart
        plan.launch("a", grid, (), shared_bytes=100, alone=True)
    assert [launch.shared_bytes for launch in plan.launches] == [100, ALONE_BYTES, ALONE_BYTES, 100]


def test_run_queues_in_order_and_joins_the_side_stream(gpu):
    plan, order = plan_on(gpu), gpu.queued
    plan.launch("a", (1,), ())
    plan.launch("c", (1,), (), side=True)
    plan.call(lambda: order.append("torch"))
    plan.launch("b_f16", (1,), ())
    plan.run()
    seen = [one if one == "torch" else (one.what, one.stream) for one in order]
    fork, join = [("record", MAIN), ("wait", SIDE)], [("record", SIDE), ("wait", MAIN)]
    assert seen == [("launch", MAIN), *fork, ("launch", SIDE), "torch", ("launch", MAIN), *join]


def test_run_without_a_side_stream_touches_none(gpu):
    """A capture refuses to wait for a stream that is not part of it."""
    plan = plan_on(gpu)
    plan.launch("a", (1,), ())
    plan.run()
    assert [one.what for one in gpu.queued] == ["launch"]


def test_buffers_are_zero_and_of_the_plans_type(gpu):
    plan = plan_on(gpu)
    assert plan.buffer(2, 3).dtype == torch.float16 and plan.buffer(2, 3).abs().sum() == 0
    assert plan.buffer(5, dtype=torch.int32).dtype == torch.int32
    with pytest.raises(KeyError):
        Plan(CPU, torch.float32, gpu.kernels()).typed("b")


@pytest.mark.gpu
def test_a_torch_call_between_launches_equals_eager_in_a_graph():
    """Means of vectors by confidence, doubled by torch, and once more: queued plainly, captured, and in torch."""
    height, width, device = 40, 72, torch.device("cuda", 0)
    kernels = loader.load_plan(0, ["motion"])
    plan = Plan(device, torch.float16, kernels)
    weighted = plan.buffer(3, height, width, dtype=torch.float32)
    first, second = (plan.buffer(2, height, width, dtype=torch.float32) for _ in range(2))
    again = plan.buffer(3, height, width, dtype=torch.float32)
    grid = (-(-width // 32), -(-height // 8))

    def between() -> None:
        again[:2].copy_(2 * first)
        again[2].fill_(1.0)

    plan.launch("mirage_spread", grid, (weighted, first, height, width))
    plan.call(between)
    plan.launch("mirage_spread", grid, (again, second, height, width))
    plan.launch("mirage_spread", grid, (weighted, first, height, width))
    assert [launch.pdl for launch in plan.launches] == [False, False, kernels.pdl]

    def frame(x: torch.Tensor) -> torch.Tensor:
        weighted.copy_(x)
        plan.run()
        return second

    def by_torch(x: torch.Tensor) -> torch.Tensor:
        def spread(values: torch.Tensor) -> torch.Tensor:
            reach = motion.REACH
            means = F.avg_pool2d(values.double(), 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
            return means[:2] / means[2:]

        return spread(torch.cat((2 * spread(x), torch.ones_like(x[2:]).double())))

    captured = CapturedFrame(frame, device=device, required=True)
    with torch.inference_mode():
        for _ in range(3):
            x = torch.rand(3, height, width, device=device) + 0.1
            plain = frame(x).clone()
            torch.testing.assert_close(plain.double(), by_torch(x), rtol=1e-4, atol=1e-5)
            assert torch.equal(captured(x), plain)
    assert captured.captured
