"""``mirage bench --floor``: what the frame must compute and move, and what this machine could do at best.

The operations are counted as torch runs the network; the bytes are the fewest that must pass through memory:
weights, pictures in and out, and the stream's state, each once. A large matrix product and a large copy,
timed in the same run, turn them into the least time that any program could take. Where the frame is made of
hand-written kernels, each of them is timed alone as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mirage_cli.stream.model import KernelUse
from mirage_cli.stream.placement import dtype_name
from mirage_cli.stream.session import Session

REPEATS = 20  # of a kernel in one graph


def floor(session: Session, frames: list[np.ndarray]) -> dict[str, Any]:
    """FLOPs, bytes, the two ceilings and the least time; what is not known of the model's family is left out."""
    painter, dtype = session.painter, session.model.dtype
    with torch.inference_mode():
        rate, size = matrix_rate(session.device, dtype)
        bandwidth, copied = copy_rate(session.device)
    ceilings = {
        "matrix_product": f"{size}x{size}x{size} {dtype_name(dtype)}",
        "matrix_tflops": round(rate / 1e12, 2),
        "copy_mib": copied >> 20,
        "copy_gigabytes_a_second": round(bandwidth / 1e9, 1),
    }
    work = painter.work()
    if work is None:
        return ceilings
    state = [tensor for name, tensor in painter.state().items() if name not in painter.derived]
    moved = work.weight_bytes + 2 * frames[0].nbytes + 2 * sum(t.numel() * t.element_size() for t in state)
    compute_ms, memory_ms = 1e3 * work.flops / rate, 1e3 * moved / bandwidth
    cuda = session.device.type == "cuda"
    return {
        "network_gflop": round(work.flops / 1e9, 2),
        "least_megabytes": round(moved / 1e6, 2),
        **ceilings,
        "compute_floor_ms": round(compute_ms, 4),
        "memory_floor_ms": round(memory_ms, 4),
        "floor_ms": round(max(compute_ms, memory_ms), 4),
        "note": "the device's caches hold most of it between kernels" if cuda else "of all cores together",
    }


def _best_seconds(act: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median of several timed calls, in seconds, after three that are not counted."""
    times = []
    for number in range(3 + repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            act()
            end.record()
            torch.cuda.synchronize()
            seconds = begin.elapsed_time(end) / 1e3
        else:
            begun = time.perf_counter()
            act()
            seconds = time.perf_counter() - begun
        if number >= 3:
            times.append(seconds)
    return statistics.median(times)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> tuple[float, int]:
    """FLOP a second of a large matrix product on random numbers, and its side."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _best_seconds(lambda: a @ b, device, 10), side


def copy_rate(device: torch.device) -> tuple[float, int]:
    """Bytes read and written a second by a large copy, and the copy's size in bytes."""
    size = (2 << 30) if device.type == "cuda" else (64 << 20)
    a = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / _best_seconds(lambda: b.copy_(a), device, 10), size


def kernel_table(session: Session) -> list[dict[str, Any]] | None:
    """Each kernel of the frame: launches, microseconds of one alone, GFLOP, and TFLOP/s.

    A kernel is repeated in a graph of its own, so its time holds the gap between two launches, and its data
    is in the caches. None where the frame is not made of hand-written kernels.
    """
    uses = session.painter.kernels()
    if not uses:
        return None
    table: dict[str, _Row] = {}
    with torch.inference_mode():
        for use in uses:
            row = table.setdefault(use.name, _Row(use))
            row.launches += 1
            row.microseconds += _alone_microseconds(use.launch, session.device)
            row.gflop += use.flops / 1e9
    result = []
    for name, row in table.items():
        tflops = row.gflop / row.microseconds * 1e3 if row.gflop else None
        bare = row.first.bare
        result.append(
            {
                "kernel": name,
                "launches": row.launches,
                "us_each": round(row.microseconds / row.launches, 2),
                "us_a_frame": round(row.microseconds, 2),
                "gflop": round(row.gflop, 3),
                "tflops": round(tflops, 1) if tflops else "",
                "torch_convolution_us": round(_torch_microseconds(bare(), session.device), 2) if bare else "",
            }
        )
    session.reset()  # the kernels wrote over the stream's state
    return result


@dataclass
class _Row:
    """Sums over the launches of one kernel."""

    first: KernelUse
    launches: int = 0
    microseconds: float = 0.0
    gflop: float = 0.0


def _alone_microseconds(launch: Callable[[int], None], device: torch.device) -> float:
    """Of one launch among others of its kind."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stream = torch.cuda.current_stream().cuda_stream
        for _ in range(REPEATS):
            launch(stream)
    return 1e6 * _best_seconds(graph.replay, device, 5) / REPEATS


def _torch_microseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of a bare convolution (cuDNN), in a graph like the kernels."""
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        with torch.inference_mode():
            run()  # chooses the algorithm
            torch.cuda.synchronize(device)
            return _alone_microseconds(lambda stream: run(), device)
    finally:
        torch.backends.cudnn.benchmark = benchmark
