"""Drift: does a stream of thousands of frames still look as it did at its start?

A shot is played to and fro, so that the same places return with the same input. The numbers of
``metrics.Look`` of every frame are averaged over chunks of one whole loop; each chunk thus shows the
same places, and what differs between chunks is the model's doing. The first frames, which have no
history and no anchors in the memory bank yet, are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from mirage_cli.evaluation.clips import Clip
from mirage_cli.evaluation.metrics import Look, frame_look
from mirage_cli.stream.session import Session

ANCHORED = 16  # the first frame of the first chunk: history and both anchors of the memory bank are there
NAMES = tuple(field.name for field in fields(Look))
JUDGED = ("luma_spread", "saturation", "sharpness")
SHARES = ("grey", "stripes")  # compared by difference; a share may well be zero at the start
KEPT_FRAMES = (1, 100, 1000, 10000)
RETURN_PLACES = 4  # places of the loop whose pictures are kept to be compared at their return
# Added to both sides of a ratio, so that a look without colour is not judged by its rounding errors.
FLOOR = {"luma_mean": 1 / 255, "luma_spread": 1 / 255, "saturation": 2 / 255, "sharpness": 1 / 255**2}
REPORT_SECONDS = 10.0


@dataclass
class Numbers:
    """``Look`` of every frame of a stream, in an array that is allocated once: float32 [frames, 6]."""

    values: np.ndarray
    period: int
    count: int = 0

    @classmethod
    def of(cls, frames: int, period: int) -> Numbers:
        return cls(np.zeros((frames, len(NAMES)), np.float32), period)

    def add(self, rgb: np.ndarray) -> None:
        """Count the next frame, uint8 [H, W, 3]."""
        look = frame_look(rgb)
        self.values[self.count] = [getattr(look, name) for name in NAMES]
        self.count += 1

    def chunks(self) -> np.ndarray:
        """Means over each whole loop after the start: float64 [chunks, 6]."""
        usable = self.values[ANCHORED : self.count].astype(np.float64)
        whole = len(usable) // self.period
        return usable[: whole * self.period].reshape(whole, self.period, -1).mean(axis=1)

    def tail(self) -> np.ndarray:
        """Mean over the last loop, whatever its phase: float64 [6]."""
        return self.values[self.count - self.period : self.count].astype(np.float64).mean(axis=0)


def tail_over_head(numbers: Numbers) -> dict[str, float]:
    """Last loop over first anchored loop for each number that has a ratio; 1 means no drift.

    Raises:
        ValueError: shorter than the start and two loops.
    """
    _require(numbers)
    head, tail = numbers.chunks()[0], numbers.tail()
    return {
        name: float((tail[i] + FLOOR[name]) / (head[i] + FLOOR[name])) for i, name in enumerate(NAMES) if name in FLOOR
    }


def video_drift_error(numbers: Numbers) -> dict[str, float]:
    """Video Drift Error of each number, in the manner of LV-Bench.

    LV-Bench (Zhang et al., "BlockVid", arXiv 2511.22973) cuts a video into N chunks, takes a number m
    of each and sums w_i |m_i - m_1| / m_1 over i = 2..N with w_i = N - i + 1. Here m is a number of
    ``Look``, a chunk is one loop, and the weights are scaled to sum to one, so that the error of a
    stream does not grow with the number of chunks it is cut into: 0.03 is a typical departure of 3%.

    Raises:
        ValueError: shorter than the start and two loops.
    """
    _require(numbers)
    chunks = numbers.chunks()
    weights = np.arange(len(chunks) - 1, 0, -1, dtype=np.float64)
    weights /= weights.sum()
    result = {}
    for i, name in enumerate(NAMES):
        if name in FLOOR:
            departure = np.abs(chunks[1:, i] - chunks[0, i]) / (chunks[0, i] + FLOOR[name])
            result[name] = float(weights @ departure)
    return result


def _require(numbers: Numbers) -> None:
    needed = ANCHORED + 2 * numbers.period
    if numbers.count < needed:
        raise ValueError(f"drift over loops of {numbers.period} frames needs {needed}, had {numbers.count}")


def loop_of(clip: Clip, frames: int) -> int:
    """Frames of one loop, such that at least three fit into the stream."""
    return clip.period((frames - ANCHORED) // 3)


def measure_drift(
    session: Session,
    clip: Clip,
    frames: int,
    history: bool = True,
    deadline: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict]:
    """Run a stream over a clip and yield what it shows so far every few seconds, at last the whole.

    Args:
        session: of the clip's size, its look set; it is reset first.
        frames: how many, at least ``ANCHORED`` and three loops of two frames.
        history: False hides the past before every frame.
        deadline: on ``clock``; the stream ends early there and says so.

    Yields:
        Documents with "complete", "frames", ratios and errors ("drift" is absent while the stream is too
        short for them); the last one has "pictures": frame number -> (input, output), uint8 [H, W, 3].
    """
    session.reset()
    before = dict(session.counters)
    period = loop_of(clip, frames)
    numbers = Numbers.of(frames, period)
    places = {ANCHORED + period * k // RETURN_PLACES for k in range(RETURN_PLACES)}
    first_visits: dict[int, np.ndarray] = {}
    returned: dict[int, float] = {}
    last_loop = ANCHORED + ((frames - ANCHORED) // period - 1) * period
    pictures: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    events: list[dict] = []
    begun, reported, memory_begin = clock(), clock(), None
    for number in range(frames):
        rgb = clip.at(number, period)
        if not history:
            session.forget()
        out = session.step(rgb)
        numbers.add(out)
        if session.report.guard_event:
            events.append({"frame": number, "event": session.report.guard_event})
        if number + 1 in KEPT_FRAMES:
            pictures[number + 1] = (rgb.copy(), out.copy())
        if number in places:
            first_visits[number] = out.copy()
        elif number >= last_loop and (place := number - last_loop + ANCHORED) in first_visits:
            returned[place] = float(np.abs(out.astype(np.int16) - first_visits[place]).mean())
        if number == ANCHORED + period - 1:
            memory_begin = memory_mib(session)
        now = clock()
        if now >= deadline or number + 1 == frames:
            break
        if now - reported >= REPORT_SECONDS:
            reported = now
            yield _document(numbers, session, before, events, frames, False)
    seconds = clock() - begun
    document = _document(numbers, session, before, events, frames, numbers.count == frames)
    document["loop_frames"] = period
    document["frames_per_second"] = round(numbers.count / seconds, 1) if seconds else None
    document["memory_mib"] = {"after_first_loop": memory_begin, "end": memory_mib(session)}
    if returned:
        document["return_difference_levels"] = float(np.mean(list(returned.values())))
    document["pictures"] = pictures
    yield document


def _document(
    numbers: Numbers, session: Session, before: dict, events: list[dict], frames: int, complete: bool
) -> dict:
    document = {
        "complete": complete,
        "frames": numbers.count,
        "frames_asked": frames,
        "guard_events": session.counters["guard_events"] - before["guard_events"],
        "guard_event_list": events[:20],
        "guard_opinions": session.counters["guard_opinions"] - before["guard_opinions"],
        "cuts": session.counters["cuts"] - before["cuts"],
    }
    if numbers.count >= ANCHORED + 2 * numbers.period:
        error, chunks, tail = video_drift_error(numbers), numbers.chunks(), numbers.tail()
        document["drift"] = {
            "tail_over_head": tail_over_head(numbers),
            "video_drift_error": error,
            "video_drift_error_worst": max(error.values()),
            "head": dict(zip(NAMES, chunks[0].tolist())),
            **{f"{name}_rise": float(tail[NAMES.index(name)] - chunks[0][NAMES.index(name)]) for name in SHARES},
            "chunks": {name: chunks[:, i].round(6).tolist() for i, name in enumerate(NAMES)},
        }
    return document


def memory_mib(session: Session) -> dict[str, float]:
    """Resident memory of this process, and what torch holds on the session's GPU, in MiB."""
    result = {}
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            result["resident"] = round(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    except (OSError, ValueError):
        pass
    if session.device.type == "cuda":
        import torch

        result["cuda_allocated"] = round(torch.cuda.memory_allocated(session.device) / 2**20, 1)
        result["cuda_reserved"] = round(torch.cuda.memory_reserved(session.device) / 2**20, 1)
    return result
