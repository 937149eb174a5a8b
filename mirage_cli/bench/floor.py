"""``mirage bench --floor``: what the frame must compute and move, and what this machine could do at best.

The operations are counted as torch runs the network; the bytes are the fewest that must pass through memory:
weights, pictures in and out, and the stream's state, each once. A large matrix product and a large copy,
timed in the same run, turn them into the least time that any program could take. Where the frame is the
engine's program, each of its kernels is timed alone as well.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

REPEATS = 20  # of a kernel in one graph


def floor(session: Any, frames: list[np.ndarray]) -> dict[str, Any]:
    """FLOPs, bytes, the two ceilings and the least time."""
    import torch

    flops = count_flops(session)
    state = [*vars(session.history).values(), session.memory.tokens]
    weights = sum(p.numel() * p.element_size() for p in session.net.parameters())
    moved = weights + 2 * frames[0].nbytes + 2 * sum(t.numel() * t.element_size() for t in state)
    cuda = session.device.type == "cuda"
    with torch.inference_mode():
        rate, size = matrix_rate(session.device, session.bundle.dtype)
        bandwidth, copied = copy_rate(session.device)
    compute_ms, memory_ms = 1e3 * flops / rate, 1e3 * moved / bandwidth
    return {
        "network_gflop": round(flops / 1e9, 2),
        "least_megabytes": round(moved / 1e6, 2),
        "matrix_product": f"{size}x{size}x{size} {str(session.bundle.dtype).removeprefix('torch.')}",
        "matrix_tflops": round(rate / 1e12, 2),
        "copy_mib": copied >> 20,
        "copy_gigabytes_a_second": round(bandwidth / 1e9, 1),
        "compute_floor_ms": round(compute_ms, 4),
        "memory_floor_ms": round(memory_ms, 4),
        "floor_ms": round(max(compute_ms, memory_ms), 4),
        "note": "the device's caches hold most of it between kernels" if cuda else "of all cores together",
    }


def count_flops(session: Any) -> int:
    """Of all the denoising steps of a frame: convolutions, linear layers and attention, a multiply-add as two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    frame = torch.zeros_like(session.noise)
    half = torch.zeros(1, 6, *(s // 2 for s in session.padded), device=session.device)
    from mirage_cli.lsd.model import Past

    past = Past(frame, half, frame[:, :1], session.memory.tokens, torch.ones(1, device=session.device))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        session.net(session.noise, frame, past, session.screen, session.conditioning.modulations[0, 0])
    return counter.get_total_flops() * session.steps


def _best_seconds(act: Any, device: Any, repeats: int) -> float:
    """Median of several timed calls, in seconds, after three that are not counted."""
    import torch

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


def matrix_rate(device: Any, dtype: Any) -> tuple[float, int]:
    """FLOP a second of a large matrix product on random numbers, and its side."""
    import torch

    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _best_seconds(lambda: a @ b, device, 10), side


def copy_rate(device: Any) -> tuple[float, int]:
    """Bytes read and written a second by a large copy, and the copy's size in bytes."""
    import torch

    size = (2 << 30) if device.type == "cuda" else (64 << 20)
    a = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / _best_seconds(lambda: b.copy_(a), device, 10), size


def kernel_table(session: Any) -> list[dict[str, Any]] | None:
    """Each kernel of the program: launches a frame, microseconds of one alone, GFLOP, and TFLOP/s.

    A kernel is repeated in a graph of its own, so its time holds the gap between two launches, and its data
    is in the caches. None where the frame is no program.
    """
    program = getattr(session, "program", None)
    if program is None:
        return None
    import torch

    launches = [
        *enumerate(program.launches),
        *((None, launch) for others in program.beside.values() for launch in others),
    ]
    table: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        for place, launch in launches:
            pdl, launch.pdl = launch.pdl, False
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                stream = torch.cuda.current_stream().cuda_stream
                for _ in range(REPEATS):
                    launch(stream)
            launch.pdl = pdl
            microseconds = 1e6 * _best_seconds(graph.replay, session.device, 5) / REPEATS
            flops = 0
            if place is not None and place in program.layers:
                flops = program.layers[place].flops
            elif launch.name.startswith("mirage_attention"):
                queries, keys = program.mixed.shape[0], program.packed.shape[0]
                flops = 4 * queries * keys * program.mixed.shape[1]
            row = table.setdefault(
                launch.name.removeprefix("mirage_"),
                {
                    "launches": 0,
                    "microseconds": 0.0,
                    "gflop": 0.0,
                    "call": program.layers.get(-1 if place is None else place),
                },
            )
            row["launches"] += 1
            row["microseconds"] += microseconds
            row["gflop"] += flops / 1e9
    result = []
    for name, row in table.items():
        each = row["microseconds"] / row["launches"]
        tflops = row["gflop"] / row["microseconds"] * 1e3 if row["gflop"] else None
        result.append(
            {
                "kernel": name,
                "launches": row["launches"],
                "us_each": round(each, 2),
                "us_a_frame": round(row["microseconds"], 2),
                "gflop": round(row["gflop"], 3),
                "tflops": round(tflops, 1) if tflops else "",
                "torch_convolution_us": round(_torch_convolution(session, row["call"]), 2) if row["call"] else "",
            }
        )
    session.reset()  # the kernels wrote over the stream's state
    return result


def bare_convolution(call: Any, device: Any) -> Any:
    """A function that does a layer's convolution in torch, NHWC, and nothing else: without the bias (in torch a
    kernel of its own), norm, modulation, activation, residual and concatenation that the layer's kernel does as well."""
    import torch

    shape = call.shape
    parts = [w if w.dim() == 4 else w[:, :, None, None] for w in call.weights]
    if shape.taps == 9:
        parts = parts[:1]  # a second input of a 3x3 layer is left out
    weight = torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)
    x = torch.randn(1, weight.shape[1], call.height * shape.stride, call.width * shape.stride, device=device)
    x = x.to(weight.dtype).contiguous(memory_format=torch.channels_last)
    padding = 1 if shape.taps == 9 else 0
    return lambda: torch.nn.functional.conv2d(x, weight, stride=shape.stride, padding=padding)


def _torch_convolution(session: Any, call: Any) -> float:
    """Microseconds of ``bare_convolution`` (cuDNN), in a graph like the kernels."""
    import torch

    run = bare_convolution(call, session.device)
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        with torch.inference_mode():
            run()  # chooses the algorithm
            torch.cuda.synchronize(session.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(REPEATS):
                    run()
            return 1e6 * _best_seconds(graph.replay, session.device, 5) / REPEATS
    finally:
        torch.backends.cudnn.benchmark = benchmark
