"""Counters of a running stream in bounded memory: latency percentiles, rates, peak memory."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

THREADS = {"decode": "read", "model": "model", "encode": "write"}  # thread of a run -> its stage
PERCENTS = (50, 95, 99)
STAGES = ("read", "prepare", "denoise", "compose", "model", "write", "end_to_end")


class LatencyHistogram:
    """Percentiles of any number of latencies in fixed memory.

    Buckets grow by 1% each from 1 microsecond to 1000 s, so a percentile is within 0.5% of the
    true one; least, greatest and mean are exact.
    """

    _GROWTH = 1.01
    _LOW_MS = 0.001
    _BUCKETS = 2084  # 1.01**2084 is about 1e9: 1 microsecond to 1000 s

    def __init__(self) -> None:
        self._counts = [0] * self._BUCKETS
        self.count = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self.min_ms = math.inf

    def add(self, latency_ms: float) -> None:
        """Count one latency, in milliseconds."""
        place = int(math.log(max(latency_ms, self._LOW_MS) / self._LOW_MS, self._GROWTH))
        self._counts[min(place, self._BUCKETS - 1)] += 1
        self.count += 1
        self.total_ms += latency_ms
        self.max_ms = max(self.max_ms, latency_ms)
        self.min_ms = min(self.min_ms, latency_ms)

    def percentile(self, percent: float) -> float:
        """The latency that ``percent`` of all are at or under, in ms; NaN without any."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100.0))
        seen = 0
        for place, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                if place == self._BUCKETS - 1:  # all that is longer lies here
                    return self.max_ms
                middle = self._LOW_MS * self._GROWTH ** (place + 0.5)
                return min(max(middle, self.min_ms), self.max_ms)
        return self.max_ms

    def at_most(self, bounds_ms: Iterable[float]) -> list[int]:
        """How many latencies are at or under each bound, for bounds in rising order; right to 1%."""
        result, place, seen = [], 0, 0
        for bound_ms in bounds_ms:
            end = round(math.log(bound_ms / self._LOW_MS, self._GROWTH))
            seen += sum(self._counts[place:end])
            place = max(place, end)
            result.append(seen)
        return result

    def summary(self) -> dict[str, float | int]:
        """p50, p95, p99, max and mean in ms, and the count; empty when nothing was counted."""
        if not self.count:
            return {}
        return {
            **{f"p{percent}": round(self.percentile(percent), 3) for percent in PERCENTS},
            "max": round(self.max_ms, 3),
            "mean": round(self.total_ms / self.count, 3),
            "count": self.count,
        }


def exact_percentile(values: Iterable[float], percent: float) -> float:
    """Nearest-rank percentile of a short list; NaN for an empty one."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100.0) - 1)]


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p95 and p99, nearest rank; NaN for an empty list."""
    ordered = sorted(values)
    return {f"p{percent}": exact_percentile(ordered, percent) for percent in PERCENTS}


def summary(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 (nearest rank), max and mean of one value or more, rounded to three digits."""
    numbers = {**percentiles(values), "max": max(values), "mean": sum(values) / len(values)}
    return {name: round(value, 3) for name, value in numbers.items()}


class RateMeter:
    """Events a second over the last few seconds."""

    def __init__(self, window: int = 64) -> None:
        self._times: deque[float] = deque(maxlen=window)

    def tick(self, now_seconds: float) -> None:
        """Count one event."""
        self._times.append(now_seconds)

    def rate(self, now_seconds: float) -> float:
        """Events a second; falls toward 0 when no more come."""
        if len(self._times) < 2:
            return 0.0
        gaps = len(self._times) - 1
        typical = (self._times[-1] - self._times[0]) / gaps
        silent = now_seconds - self._times[-1]
        span = self._times[-1] - self._times[0] + max(0.0, silent - typical)
        return gaps / span if span > 0 else 0.0


@dataclass
class Meter:
    """What the threads of a run count; every method is safe to call from any of them."""

    stages: dict[str, LatencyHistogram] = field(default_factory=lambda: {name: LatencyHistogram() for name in STAGES})
    frames_in: int = 0
    frames_out: int = 0
    dropped: int = 0
    first_out_seconds: float | None = None
    last_out_pts_seconds: float = 0.0
    rate_in: RateMeter = field(default_factory=RateMeter)
    rate_out: RateMeter = field(default_factory=RateMeter)
    recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=240))
    recent_model_ms: deque[float] = field(default_factory=lambda: deque(maxlen=240))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def frame_read(self, latency_ms: float, now_seconds: float) -> None:
        """A frame came from the source after ``latency_ms`` of waiting and decoding."""
        with self._lock:
            self.frames_in += 1
            self.stages["read"].add(latency_ms)
            self.rate_in.tick(now_seconds)

    def frames_dropped(self, count: int) -> None:
        """Frames that were passed over for newer ones."""
        with self._lock:
            self.dropped += count

    def stage(self, name: str, latency_ms: float) -> None:
        """One latency of a stage of ``STAGES``."""
        with self._lock:
            self.stages[name].add(latency_ms)
            if name == "model":
                self.recent_model_ms.append(latency_ms)

    def frame_written(self, write_ms: float, end_to_end_ms: float, pts_seconds: float, now_seconds: float) -> None:
        """A frame left for the sink, ``end_to_end_ms`` after it came from the source."""
        with self._lock:
            if self.first_out_seconds is None:
                self.first_out_seconds = now_seconds
            self.frames_out += 1
            self.last_out_pts_seconds = pts_seconds
            self.stages["write"].add(write_ms)
            self.stages["end_to_end"].add(end_to_end_ms)
            self.recent_ms.append(end_to_end_ms)
            self.rate_out.tick(now_seconds)

    def recent(self, model: bool = False) -> list[float]:
        """A copy of the last latencies, end to end or of the model alone, in ms."""
        with self._lock:
            return list(self.recent_model_ms if model else self.recent_ms)

    def rates(self, now_seconds: float) -> tuple[float, float]:
        """Frames a second (in, out) over the last frames."""
        with self._lock:
            return self.rate_in.rate(now_seconds), self.rate_out.rate(now_seconds)

    def histogram(self, name: str, bounds_ms: Iterable[float]) -> tuple[list[int], int, float]:
        """Of a stage: latencies at or under each bound, their number and their sum in ms."""
        with self._lock:
            stage = self.stages[name]
            return stage.at_most(bounds_ms), stage.count, stage.total_ms

    def busy(self, seconds: float, on_gpu: bool) -> dict[str, Any]:
        """Which part of a run was at work, and for how much of its time.

        A thread that waits for another one's frame, or for room to put its own, is not busy; a decode or
        encode thread that waits for its file or its ffmpeg is, as there its own stage is slow.

        Args:
            seconds: of the run, from the first read to the last write.
            on_gpu: the denoise stage was measured between events on a GPU.

        Returns:
            ``busy``: decode, model, encode and gpu (None without one) -> share of ``seconds``;
            ``limiting_stage``: the busiest of the three threads, None where nothing ran.
        """
        with self._lock:
            spent = {stage: self.stages[name].total_ms / 1e3 for stage, name in THREADS.items()}
            gpu = self.stages["denoise"].total_ms / 1e3 if on_gpu else None
        shares = {
            stage: None if value is None else round(value / seconds, 4) if seconds else 0.0
            for stage, value in (*spent.items(), ("gpu", gpu))
        }
        return {"busy": shares, "limiting_stage": max(spent, key=spent.__getitem__) if any(spent.values()) else None}

    def latency_summary(self) -> dict[str, dict[str, float | int]]:
        """Stage -> p50, p95, p99, max, mean in ms; stages without a count are left out."""
        with self._lock:
            return {name: h.summary() for name, h in self.stages.items() if h.count}


def _high_water_mb(pid: int | str) -> float:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024.0
    except (OSError, ValueError, IndexError):
        pass
    return 0.0


class PeakMemory:
    """Peak resident memory of this process and, where /proc tells, of its ffmpeg children.

    On Linux the figure is VmHWM: getrusage would also count what the parent of a fresh process
    held. Elsewhere it is getrusage's, and children are not counted.
    """

    def __init__(self) -> None:
        self._children = 0.0

    def sample(self) -> None:
        """Read the children's peaks while they live; once a second is enough."""
        try:
            tasks = os.listdir("/proc/self/task")
        except OSError:
            return
        alive: set[str] = set()
        for task in tasks:
            try:
                with open(f"/proc/self/task/{task}/children", encoding="ascii") as children:
                    pids = children.read().split()
            except OSError:
                continue
            alive |= set(pids)
        # Of those that live now: a long job has an encoder for each segment, one after another.
        self._children = max(self._children, sum(map(_high_water_mb, alive)))

    def megabytes(self) -> dict[str, float]:
        """Peak of the process, of the children that lived together, and both together, in MiB."""
        own = _high_water_mb("self")
        if not own:
            try:
                import resource

                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                own = peak / (1024.0 * 1024.0) if sys.platform == "darwin" else peak / 1024.0
            except ImportError:
                own = 0.0
        children = self._children
        return {"process": round(own, 1), "children": round(children, 1), "total": round(own + children, 1)}


@dataclass(frozen=True)
class Stats:
    """One look at a running stream: what the dashboard shows.

    Attributes:
        command: transform or live.
        source, target: names of what is read and written.
        prompt: as the user wrote it; ``looks`` is what the model is doing now (look -> weight).
        size: width and height in pixels.
        model, device, dtype, backend, steps: of the session.
        frames_in, frames_out, dropped: counted so far.
        frames_total: expected, None if unknown.
        fps_in, fps_out: frames a second over the last frames.
        p50_ms, p95_ms, p99_ms: latency of the last frames from source to sink; NaN before any.
        model_p50_ms, model_p95_ms: of the model alone; the rest of a latency is reading, writing
            and, in transform, waiting in full channels.
        elapsed_seconds: since the first read; ``left_seconds`` until the end, None if unknown.
        position_seconds: time of the last written frame in the stream.
        cuts, guard_events: counted so far; ``last_event`` in words.
        typed: the line being typed, None if standard input is not read.
        message: the last event worth showing.
        strength: of the look, None if not shown.
        paused: the last picture is held; ``recording`` is the file being recorded, None for none.
        control: where the stream can be steered from, as a URL.
    """

    command: str
    source: str
    target: str
    prompt: str
    looks: dict[str, float]
    size: tuple[int, int]
    model: str = ""
    device: str = ""
    dtype: str = ""
    backend: str = ""
    steps: int = 1
    frames_in: int = 0
    frames_out: int = 0
    dropped: int = 0
    frames_total: int | None = None
    fps_in: float = 0.0
    fps_out: float = 0.0
    p50_ms: float = math.nan
    p95_ms: float = math.nan
    p99_ms: float = math.nan
    model_p50_ms: float = math.nan
    model_p95_ms: float = math.nan
    elapsed_seconds: float = 0.0
    left_seconds: float | None = None
    position_seconds: float = 0.0
    cuts: int = 0
    guard_events: int = 0
    last_event: str = ""
    typed: str | None = None
    message: str = ""
    strength: float | None = None
    paused: bool = False
    recording: str | None = None
    control: str = ""


@dataclass(frozen=True)
class TrainStats:
    """One look at a training run.

    Attributes:
        run: its folder; device: where it computes; processes: how many take part.
        parameters: of the network.
        step: done so far; steps_total: the config's ``max_steps``, None where time alone ends the run.
        seconds: trained so far; minutes: the config's, 0 for no limit.
        terms: running means of the loss and its terms; first_terms: as they were at the first step.
        images_per_second: graded frames of all processes; 0 before there is a speed.
        left_seconds: until the end, None if unknown.
        memory_mib: peak, of the GPU's tensors or of the process on a CPU.
    """

    run: str
    device: str
    processes: int
    parameters: int
    step: int
    steps_total: int | None
    seconds: float
    minutes: float
    terms: Mapping[str, float]
    first_terms: Mapping[str, float]
    images_per_second: float
    learning_rate: float
    left_seconds: float | None
    memory_mib: float

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        by_time = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        by_steps = self.step / self.steps_total if self.steps_total else 0.0
        return min(1.0, max(by_time, by_steps))
