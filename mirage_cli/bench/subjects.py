"""What the bench runs against each other: device frames, made in different ways from the same model.

A device frame is uint8 on the device to uint8 on the device: motion, denoiser, composing, history and memory.
A ``Subject`` is one way of making it; ``measure`` times many frames of several subjects in turns, so that a
change of the machine's clock meets all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.measure import exact_percentile, percentiles
from mirage_cli.stream.device import OnCuda
from mirage_cli.stream.model import Look
from mirage_cli.stream.session import Session

WARM_UP = 50
TURN = 25  # frames of one subject before the next one's turn
PICTURES = 16


@dataclass
class Subject:
    """One way of making a frame.

    Attributes:
        name, what: for the table.
        session: the ``Session`` it works in.
        prepare_seconds: loading, compiling and capturing, until the first frame was there.
        error: why it could not be made or run; it is then left out of the measurement.
    """

    name: str
    what: str
    session: Session | None = None
    prepare_seconds: float = 0.0
    error: str = ""
    times_ms: list[float] = field(default_factory=list)


def pictures(width: int, height: int, count: int = PICTURES) -> list[np.ndarray]:
    """Moving pictures without a file or ffmpeg, uint8 [H, W, 3]."""
    return [frame.rgb for frame in TestPicture(width, height, paced=False, frames=count)]


def summary(times_ms: Sequence[float]) -> dict[str, float | int]:
    """p50, p95, p99 and max in ms, and how many."""
    numbers = {name: round(value, 4) for name, value in percentiles(times_ms).items()}
    return {**numbers, "max": round(max(times_ms), 4), "frames": len(times_ms)}


def prepared(name: str, what: str, make: Callable[[], Session], frames: Sequence[np.ndarray], look: Look) -> Subject:
    """A subject whose session has made its first frame; a failure is kept in ``error``."""
    subject = Subject(name, what)
    begun = time.perf_counter()
    try:
        session = make()
        session.set_look(look)
        session.step(frames[0])
        subject.session = session
    except Exception as error:  # torch.compile and drivers fail in many ways; the other subjects go on
        subject.error = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    subject.prepare_seconds = time.perf_counter() - begun
    return subject


class _Clock:
    """Times one device frame: events on CUDA, the wall elsewhere."""

    def __init__(self, session: Session, frames: Sequence[np.ndarray]) -> None:
        self._session, self._frames = session, list(frames)
        self._graph = session.runner.frame if isinstance(session.runner, OnCuda) else None
        self._on_device = [torch.from_numpy(f).to(session.device) for f in frames] if self._graph is not None else []
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def run(self, number: int, kept: list[float] | None) -> None:
        """Frame ``number``; with ``kept`` its time is taken, on CUDA at the next ``settle``."""
        number %= len(self._frames)
        if self._graph is None:
            begun = time.perf_counter()
            self._session.step(self._frames[number])
            if kept is not None:
                kept.append(1e3 * (time.perf_counter() - begun))
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self._graph(self._on_device[number])
        end.record()
        self._session.painter.between(cut=False)
        if kept is not None:
            self._pairs.append((begin, end))

    def settle(self, kept: list[float]) -> None:
        """Wait for the device and collect the times."""
        if self._graph is not None:
            torch.cuda.synchronize()
            kept += [begin.elapsed_time(end) for begin, end in self._pairs]
            self._pairs.clear()


def measure(subjects: Sequence[Subject], frames: Sequence[np.ndarray], count: int, warm_up: int = WARM_UP) -> None:
    """Time ``count`` frames of each subject that runs, in turns; fills ``times_ms``."""
    running = [(s, s.session) for s in subjects if s.session is not None]
    if not running:
        return
    with torch.inference_mode():
        clocks = [(_Clock(session, frames), subject) for subject, session in running]
        for clock, _ in clocks:
            for number in range(warm_up):
                clock.run(number, None)
            clock.settle([])
        done = 0
        while done < count:
            turn = min(TURN, count - done)
            for clock, subject in clocks:
                for number in range(turn):
                    clock.run(done + number, subject.times_ms)
                clock.settle(subject.times_ms)
            done += turn


def rows(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """A row a subject: percentiles and the ratio to the first that ran, or why there are none."""
    first = next((exact_percentile(s.times_ms, 50) for s in subjects if s.times_ms), None)
    table = []
    for subject in subjects:
        row: dict[str, Any] = {"name": subject.name, "what": subject.what}
        if subject.times_ms:
            row |= summary(subject.times_ms)
            row["of_first"] = round(exact_percentile(subject.times_ms, 50) / first, 4) if first else None
            row["prepare_seconds"] = round(subject.prepare_seconds, 2)
        else:
            row["error"] = subject.error
        table.append(row)
    return table
