"""``mirage bench --race`` and ``--paced``: against torch.compile in one process, and at a camera's pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mirage_cli.bench.subjects import Subject, measure, prepared, rows, summary

MODES = ("default", "max-autotune-no-cudagraphs")


def race(
    bundle: Any,
    size: tuple[int, int],
    steps: int,
    weights: dict[str, float],
    frames: list[np.ndarray],
    count: int,
    backend: str,
) -> list[dict[str, Any]]:
    """mirage, plain torch and torch.compile, all under a CUDA graph where there are graphs, in turns."""
    from mirage_cli.stream.session import Session

    def session(backend: str) -> Any:
        return Session(bundle, width=size[0], height=size[1], steps=steps, backend=backend, guard=False)

    def plain() -> Any:
        one = session("torch")
        one.packed = None  # on a CPU: torch's own convolutions, which is what torch.compile is given too
        return one

    def compiled(mode: str | None) -> Any:
        import torch

        one, mode = plain(), None if mode == "default" else mode
        if bundle.device.type == "cuda":  # the best it can do: one graph, sizes known, replayed without launches
            one.frame = one.captured(torch.compile(one._frame, mode=mode, fullgraph=True, dynamic=False), required=True)
        else:  # there step does not go through the captured frame
            one._prepare, one._denoise, one._compose = (
                torch.compile(f, mode=mode) for f in (one._prepare, one._denoise, one._compose)
            )
        return one

    graph = "a CUDA graph of " if bundle.device.type == "cuda" else ""
    subjects: list[Subject] = [
        prepared("mirage", "as it runs", lambda: session(backend), frames, weights),
        prepared("torch", f"{graph}torch ops, channels_last", plain, frames, weights),
    ]
    for mode in MODES:
        subjects.append(
            prepared(
                f"torch.compile {mode}",
                f"{graph}what torch.compile makes",
                lambda mode=mode: compiled(mode),
                frames,
                weights,
            )
        )
    measure(subjects, frames, count, warm_up=min(50, max(2, count // 4)))
    return rows(subjects)


def paced(
    session: Any,
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


def host_frame(session: Any, frames: list[np.ndarray], count: int, warm_up: int = 20) -> dict[str, Any] | None:
    """Pinned memory to pinned memory on CUDA, wall clock, beside the device frame and the copies alone, in ms."""
    if session.device.type != "cuda":
        return None
    import torch

    source, target = session.picture_in, session.picture_out
    on_device = torch.from_numpy(frames[0]).to(session.device)
    result = torch.empty_like(on_device)

    def whole() -> None:
        out, flags, _ = session.frame(source)
        target.copy_(out, non_blocking=True)
        session.flags_out.copy_(flags, non_blocking=True)

    def device() -> None:
        session.frame(on_device)

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
