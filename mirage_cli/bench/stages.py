"""``mirage bench``: how fast is the bundled model on the machine at hand?

Two passes over real frames, after a warm-up:

1. One frame at a time, each stage timed: read, prepare, denoise, compose, write. A frame's stages
   add up to its end-to-end time; ``stages_over_end_to_end`` is the proof (1.0 +- 0.05).
2. As ``mirage transform`` runs, with decode, model and encode in threads: frames a second, and
   the wall time a frame takes against the denoiser's own.

A latency is never 1 / frames a second: the first pass gives latencies, the second the rate.

With ``--ladder``, ``--race``, ``--paced`` or ``--floor`` these are measured instead (run.py). Without
ffmpeg the test picture is measured, and finished frames are dropped instead of encoded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mirage_cli.config import BenchConfig
from mirage_cli.errors import MediaError, MirageError
from mirage_cli.frames import Frame, FrameSink, FrameSource, Pending, SinkWrapper
from mirage_cli.inputs.wrappers import LoopedSource
from mirage_cli.measure import Meter, PeakMemory, exact_percentile, summary
from mirage_cli.outputs.window import NullSink
from mirage_cli.pipeline import Flow, causes_raised, run as run_pipeline
from mirage_cli.stream.stepping import Stream
from mirage_cli.styling.loading import Models

BUDGETS_MS = (40.0, 16.0, 10.0)
STAGES = ("read", "prepare", "denoise", "compose", "write")
STAGE_FRAMES = 100
FP32_FRAMES = 20
MAX_FRAMES = 1_000_000

Clock = Callable[[], float]


def frame_by_frame(
    source: LoopedSource, session: Stream, sink: FrameSink, warmup: int, frames: int, timer: DeviceTimer, clock: Clock
) -> tuple[list[dict[str, float]], float]:
    """One frame after another; returns a row of milliseconds a frame, and when the first was out."""
    rows: list[dict[str, float]] = []
    first_out = 0.0
    stream = iter(source)
    count = 0
    while len(rows) < frames:
        begin = clock()
        frame = next(stream)
        read = clock()
        rgb, device_ms = timer.time(partial(session.step, frame.rgb))
        stepped = clock()
        sink.write(Frame(rgb, frame.pts_seconds, frame.index))
        written = clock()
        count += 1
        if count == 1:
            first_out = written
        if count <= warmup or source.rewound:
            continue
        rows.append(
            {
                "read": (read - begin) * 1e3,
                **session.report.latencies(),
                "write": (written - stepped) * 1e3,
                "device_frame": device_ms,
                "end_to_end": (written - begin) * 1e3,
            }
        )
    return rows, first_out


def stage_summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Percentiles of each column, the budgets, and whether the stages add up."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    whole = sum(columns["end_to_end"])
    staged = sum(sum(columns[name]) for name in STAGES)
    return {
        "latency_ms": {name: summary(values) for name, values in columns.items()},
        "stages_over_end_to_end": round(staged / whole, 4),
        "budgets": [
            {
                "budget_ms": budget,
                "device_frame_p95_within": exact_percentile(columns["device_frame"], 95) <= budget,
                "end_to_end_p95_within": exact_percentile(columns["end_to_end"], 95) <= budget,
                "frames_within": round(sum(value <= budget for value in columns["end_to_end"]) / len(rows), 4),
            }
            for budget in BUDGETS_MS
        ],
    }


def pipelined_rate(
    open_source: Callable[[], FrameSource], session: Stream, frames: int, clock: Clock, memory: PeakMemory
) -> dict[str, Any]:
    """The rate of the threaded pipeline, as transform runs it; on a GPU also with the copies in the model's turn."""
    result = _rate(open_source, session, frames, clock, memory, prefetch=True)
    if session.copies is not None:
        in_turn = _rate(open_source, session, frames, clock, memory, prefetch=False)
        result["copies_in_turn_frames_per_second"] = in_turn["frames_per_second"]
    return result


def _rate(
    open_source: Callable[[], FrameSource],
    session: Stream,
    frames: int,
    clock: Clock,
    memory: PeakMemory,
    prefetch: bool,
) -> dict[str, Any]:
    """Frames a second through the pipeline's threads.

    A clip that is too short is played several times; only the time between the first and the last
    frame written in each playing counts, so that opening files does not.
    """
    denoise_ms: list[float] = []
    copies = session.copies if prefetch else None

    def step(frame: Frame) -> np.ndarray | Pending:
        made: np.ndarray | Pending
        made = session.step(frame.rgb) if frame.upload is None else session.step_later(frame.upload)
        denoise_ms.append(session.report.latencies()["denoise"])
        return made

    def send(frame: Frame) -> Frame:
        return frame if copies is None else replace(frame, upload=copies.upload(frame.rgb))

    gaps, seconds = 0, 0.0
    while len(denoise_ms) < frames:
        source = open_source()
        left = frames - len(denoise_ms)
        with closing(source), TemporarySink(source) as sink, causes_raised():
            stamped = _StampedSink(sink, clock)
            run_pipeline(
                Flow(
                    source,
                    step,
                    stamped,
                    Meter(),
                    max_frames=left,
                    clock=clock,
                    prefetch=None if copies is None else send,
                    tick=memory.sample,
                    tick_seconds=0.5,
                )
            )
        if stamped.count < 2 and left > 1:
            raise MediaError(
                f"{source.info.name!r} has {stamped.count} frame(s); bench needs at least 2",
                "Give --input a longer video, or none for the example clip.",
            )
        gaps += stamped.count - 1
        seconds += stamped.last_seconds - stamped.first_seconds
    mean_denoise_ms = sum(denoise_ms) / len(denoise_ms)
    if not gaps or not seconds:
        return {"frames": len(denoise_ms), "frames_per_second": None}
    wall_ms = seconds * 1e3 / gaps
    return {
        "frames": len(denoise_ms),
        "frames_per_second": round(gaps / seconds, 2),
        "wall_ms_per_frame": round(wall_ms, 3),
        "denoise_ms_per_frame": round(mean_denoise_ms, 3),
        "wall_over_denoise": round(wall_ms / mean_denoise_ms, 3) if mean_denoise_ms else None,
    }


class _StampedSink(SinkWrapper):
    """Passes frames on and remembers when the first and the last one went."""

    def __init__(self, sink: FrameSink, clock: Clock) -> None:
        super().__init__(sink)
        self._clock = clock
        self.count = 0
        self.first_seconds = self.last_seconds = 0.0

    def write(self, frame: Frame) -> None:
        self.inner.write(frame)
        self.last_seconds = self._clock()
        if not self.count:
            self.first_seconds = self.last_seconds
        self.count += 1


def fp32_ratio(
    config: BenchConfig,
    engine: Models,
    size: tuple[int, int],
    open_source: Callable[[], FrameSource],
    rows: list[dict[str, float]],
) -> dict[str, Any]:
    """The denoiser in fp32 on plain torch against the one measured, medians of both."""
    options = replace(config.model, dtype="fp32", backend="torch")
    session = engine.session(options, *size, plain=True)
    session.set_look(engine.match(options, config.prompt).weights)
    frames = min(FP32_FRAMES, len(rows))
    warmup = min(3, config.warmup)
    times = []
    with closing(open_source()) as again:
        for number, frame in enumerate(again):
            session.step(frame.rgb)
            if number >= warmup:
                times.append(session.report.latencies()["denoise"])
            if len(times) == frames:
                break
    if not times:
        raise MediaError("the input is too short for the fp32 comparison", "Use a longer --input.")
    ours = exact_percentile([row["denoise"] for row in rows], 50)
    theirs = exact_percentile(times, 50)
    return {
        "frames": len(times),
        "denoise_p50_ms": round(theirs, 3),
        "speed_up": round(theirs / ours, 3) if ours else None,
    }


class DeviceTimer:
    """Time of one call on the device: CUDA events around it, or the wall clock on a CPU."""

    def __init__(self, clock: Clock, on_gpu: bool) -> None:
        self._clock = clock
        self._cuda = None
        self.name = "wall clock around Session.step"
        if on_gpu:
            import torch

            if torch.cuda.is_available():
                self._cuda = torch.cuda
                self.name = "CUDA events around Session.step (upload to download)"

    def time(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """(what ``call`` returns, its milliseconds)."""
        if self._cuda is None:
            begin = self._clock()
            value = call()
            return value, (self._clock() - begin) * 1e3
        begin, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        value = call()
        end.record()
        end.synchronize()
        return value, float(begin.elapsed_time(end))


class TemporarySink:
    """An encoder into a file that is thrown away; nothing where there is no ffmpeg."""

    def __init__(self, source: FrameSource) -> None:
        self._info = source.info

    def __enter__(self) -> FrameSink:
        from mirage_cli.outputs.file import open_output

        self._sink: FrameSink
        self._folder = tempfile.TemporaryDirectory(prefix="mirage-bench-")
        if not has_ffmpeg():
            self._sink = NullSink()
            return self._sink
        try:
            self._sink = open_output(str(Path(self._folder.name) / "bench.mp4"), self._info)
        except BaseException:
            self._folder.cleanup()
            raise
        return self._sink

    def __exit__(self, *_: object) -> None:
        try:
            self._sink.close(commit=False)
        finally:
            self._folder.cleanup()


def has_ffmpeg() -> bool:
    """Whether files can be read and written."""
    from mirage_cli.media.ffmpeg import find_ffmpeg

    try:
        find_ffmpeg()
    except MirageError:
        return False
    return True
