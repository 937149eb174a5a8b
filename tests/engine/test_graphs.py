"""Captured frames, kernels inside them, and the kernels' times on a GPU."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.op_cases import Maker

from mirage_cli.engine import reference
from mirage_cli.engine.graphs import CapturedFrame
from mirage_cli.engine.ops import select_backend
from mirage_cli.engine.reference import Nv12


def test_captured_frame_on_the_cpu_calls():
    calls = []
    frame = CapturedFrame(lambda x: calls.append(1) or x + 1, device="cpu")
    assert torch.equal(frame(torch.ones(2)), torch.full((2,), 2.0))
    assert not frame.captured and frame.captures == 0 and len(calls) == 1 and "cpu" in frame.reason
    off = CapturedFrame(lambda x: x, device="cpu", enabled=False)
    assert "switched off" in off.reason


@pytest.mark.gpu
def test_replay_equals_eager_and_shapes_recapture():
    history = torch.zeros(64, device="cuda")

    def step(x):
        history.mul_(0.5).add_(x.mean())
        return x * 2 + history[0], history.clone()

    def eager(values):
        past, results = torch.zeros(64, device="cuda"), []
        for x in values:
            past = past * 0.5 + x.mean()
            results.append(x * 2 + past[0])
        return results

    values = [torch.randn(1, 8, 16, 16, device="cuda") for _ in range(5)]
    frame = CapturedFrame(step, device="cuda", state=[history], required=True)
    results = [frame(x)[0].clone() for x in values]
    assert frame.captured and frame.captures == 1
    for ours, theirs in zip(results, eager(values), strict=True):
        torch.testing.assert_close(ours, theirs)
    frame(torch.randn(1, 8, 4, 4, device="cuda"))
    assert frame.captures == 2
    frame(torch.randn(1, 8, 4, 4).pin_memory())
    frame.reset()
    assert not frame.captured


FAILED_CAPTURE = """
import pytest, torch
from mirage_cli.engine.graphs import CapturedFrame
from mirage_cli.errors import GpuError

def copies_to_the_host(x):
    return x * float(x.sum().item())

x = torch.ones(4, device="cuda")
with pytest.raises(GpuError, match="cannot be captured"):
    CapturedFrame(copies_to_the_host, device="cuda", required=True)(x)
frame = CapturedFrame(copies_to_the_host, device="cuda")
assert torch.equal(frame(x), x * 4) and "capture failed" in frame.reason
assert torch.cuda.current_stream() == torch.cuda.default_stream()
assert torch.randn(8, device="cuda").isfinite().all()
good = CapturedFrame(lambda x: x + torch.randn_like(x), device="cuda", required=True)
assert not torch.equal(good(x).clone(), good(x))
"""


@pytest.mark.gpu
def test_failed_capture_is_an_error_or_plain_calls():
    """In a process of its own: a failed capture must leave torch usable, and if not, other tests alone."""
    result = subprocess.run([sys.executable, "-c", FAILED_CAPTURE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.gpu
def test_same_seed_same_numbers_with_and_without_a_capture():
    x = torch.zeros(16, device="cuda")
    torch.manual_seed(3)
    plain = [(x + torch.randn_like(x)).clone() for _ in range(3)]
    torch.manual_seed(3)
    frame = CapturedFrame(lambda x: x + torch.randn_like(x), device="cuda", required=True)
    for expected in plain:
        torch.testing.assert_close(frame(x), expected)


@pytest.mark.gpu
def test_kernels_inside_a_graph_equal_torch():
    ops, _ = select_backend("cuda", "ptx")
    make = Maker("cuda", torch.float16)
    buffer = torch.zeros(1, 168, 128, 128, dtype=torch.float16, device="cuda").to(memory_format=torch.channels_last)
    weight = make.vector(48 * 48).view(48, 48, 1, 1).to(memory_format=torch.channels_last) / 7
    scale, shift = make.vector(48, 0.3), make.vector(48, 0.3)

    def frame(implementation):
        def run(rgb):
            out = torch.empty(512, 512, 3, dtype=torch.uint8, device="cuda")
            stats = torch.empty(5, dtype=torch.int64, device="cuda")
            x = implementation.frame_in(rgb, buffer[:, 48:96])
            h = implementation.channel_norm_film_silu(x, scale, shift)
            h = implementation.residual_add(torch.nn.functional.conv2d(h, weight), x)
            implementation.frame_out(h, out, stats=stats)
            return out, stats

        return run

    captured = CapturedFrame(frame(ops), device="cuda", required=True)
    for _ in range(3):
        rgb = make.rgb(512, 512)
        out, stats = (t.clone() for t in captured(rgb))
        expected, expected_stats = frame(reference)(rgb)
        difference = (out.int() - expected.int()).abs()
        assert difference.max() <= 2 and (difference > 1).float().mean() <= 1e-3
        assert abs(int(stats[0]) - int(expected_stats[0])) <= 1e-3 * int(expected_stats[0])
    assert captured.captures == 1 and not ops.fallbacks


@pytest.mark.gpu
def test_microbenchmark():
    """Kernel times at 512x512 against torch eager under a graph; JSON to the file named by MIRAGE_BENCH_JSON."""
    ops, reason = select_backend("cuda", "ptx")
    make = Maker("cuda", torch.float16)
    rgb, picture = make.rgb(512, 512), torch.empty(512, 512, 3, dtype=torch.uint8, device="cuda")
    luma, chroma = (torch.randint(0, 256, (rows, 512), dtype=torch.uint8, device="cuda") for rows in (512, 256))
    stats = torch.empty(5, dtype=torch.int64, device="cuda")
    inputs, outputs = make.cells(168, 128, 128), make.cells(64, 128, 128)
    history = make.cells(48, 128, 128)
    keep = make.cells(16, 128, 128).abs().clamp(max=1).to(memory_format=torch.channels_last)
    blend = {"base": inputs[:, 48:96], "warped": inputs[:, 96:144], "keep": keep, "history": history, "stats": stats}
    cases = {
        "frame_in": (lambda o: o.frame_in(rgb, inputs[:, 48:96]), 512 * 512 * 3 + 128 * 128 * 96),
        "frame_out": (
            lambda o: o.frame_out(outputs[:, :48], picture, **blend),
            128 * 128 * (4 * 96 + 32) + 512 * 512 * 3,
        ),
        "nv12_to_rgb": (lambda o: o.nv12_to_rgb(luma, chroma, Nv12(), picture), 512 * 512 * 9 // 2),
        "rgb_to_nv12": (lambda o: o.rgb_to_nv12(picture, Nv12(), luma, chroma), 512 * 512 * 9 // 2),
    }
    for channels, side in ((64, 128), (128, 64), (256, 32)):
        x, residual = make.cells(channels, side, side), make.cells(channels, side, side)
        scale, shift, out = make.vector(channels), make.vector(channels), make.cells(channels, side, side)
        size = side * side * channels * 2
        cases[f"channel_norm_film_silu_{channels}"] = (
            lambda o, x=x, s=scale, t=shift, y=out: o.channel_norm_film_silu(x, s, t, out=y),
            2 * size,
        )
        cases[f"residual_add_{channels}"] = (lambda o, x=x, r=residual, y=out: o.residual_add(x, r, out=y), 3 * size)
    x, skip, out = make.cells(128, 64, 64), make.cells(64, 128, 128), make.cells(192, 128, 128)
    cases["upsample_concat"] = (
        lambda o: o.upsample_concat(x, skip, out=out),
        2 * (64 * 64 * 128 + 2 * 128 * 128 * 64 + 128 * 128 * 128),
    )
    rows = {}
    for name, (call, byte_count) in cases.items():
        times = {"ptx_us": _graph_time(lambda c=call: c(ops)), "torch_us": _graph_time(lambda c=call: c(reference))}
        rows[name] = {**times, "bytes": byte_count, "ratio": times["ptx_us"] / times["torch_us"]}
        assert times["ptx_us"] > 0
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "backend": reason,
        "dtype": "fp16",
        "method": "CUDA graph of 50 calls, 20 replays, median time of a replay / 50; "
        "the same buffers each call, so they stay in L2",
        "kernels": rows,
    }
    if path := os.environ.get("MIRAGE_BENCH_JSON"):
        Path(path).write_text(json.dumps(result, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{name:32s} ptx {row['ptx_us']:7.2f} us  torch {row['torch_us']:7.2f} us")
    assert not ops.fallbacks


def _graph_time(call, calls: int = 50, replays: int = 20) -> float:
    """Median microseconds a call, many calls in one graph so that launching costs nothing."""

    def many(unused):
        for _ in range(calls):
            call()
        return unused

    unused = torch.zeros(1, device="cuda")
    frame = CapturedFrame(many, device="cuda", required=True)
    frame(unused)
    times = []
    for _ in range(replays):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        frame(*frame.inputs)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1000 / calls)
    return statistics.median(times)
