"""``mirage bench --race`` and ``--paced``: against torch.compile in one process, and at a camera's pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from mirage_cli.bench.compiled import MODES, CompiledPainter
from mirage_cli.bench.subjects import Subject, measure, prepared, rows, summary
from mirage_cli.config import Size
from mirage_cli.stream.device import Graph, OnCuda
from mirage_cli.stream.model import Look, Model, Painted, Painter
from mirage_cli.stream.session import Session
from mirage_cli.stream.stepping import Stream


def race(
    model: Model, size: Size, steps: int, look: Look, frames: list[np.ndarray], count: int, backend: str
) -> list[dict[str, Any]]:
    """mirage, plain torch and torch.compile, all under a CUDA graph where there are graphs, in turns."""
    on_gpu = model.device.type == "cuda"

    def session(painter: Painter | None = None, graph: Graph = "auto") -> Session:
        width, height = size
        return Session(
            model, width=width, height=height, steps=steps, backend=backend, guard=False, painter=painter, graph=graph
        )

    def plain() -> Session:
        return session(model.plain(size, steps=steps, seed=0))

    def compiled(mode: str) -> Session:
        # on a GPU the best it can do: one graph, sizes known, replayed without launches
        painter = CompiledPainter(model.plain(size, steps=steps, seed=0), mode, whole=on_gpu)
        return session(painter, graph="required")

    graph = "a CUDA graph of " if on_gpu else ""
    subjects: list[Subject] = [
        prepared("mirage", "as it runs", session, frames, look),
        prepared("torch", f"{graph}torch ops, channels_last", plain, frames, look),
    ]
    for mode in MODES:
        what = f"{graph}what torch.compile makes"
        subjects.append(prepared(f"torch.compile {mode}", what, partial(compiled, mode), frames, look))
    measure(subjects, frames, count, warm_up=min(50, max(2, count // 4)))
    return rows(subjects)


def paced(
    session: Stream,
    frames: list[np.ndarray],
    hertz: float,
    count: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Latency of ``Session.step`` when frames come at a camera's pace: the device idles, and its clocks fall.

    ``late`` counts frames whose turn came before the one ahead was done.
    """
    latencies, late = [], 0
    begun = clock()
    for number in range(count):
        due = begun + number / hertz
        wait = due - clock()
        if wait > 0:
            sleep(wait)
        else:
            late += number > 0
        start = clock()
        session.step(frames[number % len(frames)])
        latencies.append(1e3 * (clock() - start))
    return {"name": f"{hertz:g} Hz", **summary(latencies), "late": late}


def host_frame(session: Session, frames: list[np.ndarray], count: int, warm_up: int = 20) -> dict[str, Any] | None:
    """Pinned memory to pinned memory on CUDA, wall clock, beside the device frame and the copies alone, in ms."""
    runner = session.runner
    if not isinstance(runner, OnCuda):
        return None
    source, target = runner.host_in, runner.host_out
    on_device = torch.from_numpy(frames[0]).to(session.device)
    result = torch.empty_like(on_device)

    def whole() -> None:
        painted: Painted = runner.frame(source)
        target.copy_(painted.rgb, non_blocking=True)
        runner.host_flags.copy_(painted.flags, non_blocking=True)

    def device() -> None:
        runner.frame(on_device)

    def copies() -> None:
        on_device.copy_(source, non_blocking=True)
        target.copy_(result, non_blocking=True)

    times: dict[str, list[float]] = {"host_frame": [], "device_frame": [], "copies": []}
    with torch.inference_mode():
        for number in range(warm_up + count):
            source.numpy()[:] = frames[number % len(frames)]
            for (name, kept), act in zip(times.items(), (whole, device, copies)):
                torch.cuda.synchronize()
                begun = time.perf_counter()
                act()
                torch.cuda.synchronize()
                if number >= warm_up:
                    kept.append(1e3 * (time.perf_counter() - begun))
    document = {name: summary(kept) for name, kept in times.items()}
    ratio = document["host_frame"]["p50"] / (document["device_frame"]["p50"] + document["copies"]["p50"])
    return {**document, "over_device_and_copies": round(ratio, 3)}
