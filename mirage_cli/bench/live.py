"""``mirage bench --live``: how long after a frame came in is its picture seen at the other end?

The source numbers its frames in the picture (``marker``); a reader at the output reads the numbers. No
counter of the pipeline is trusted: a latency is the time between the moment the source handed frame n over
and the moment number n was read, a number never read was dropped, one read twice was doubled.

Where it is read is said in the result. ``sink``: the frame in memory as every output gets it, before a
window, encoder or network adds its own time. ``h264``: behind ffmpeg's libx264 (zerolatency) and decoder,
through pipes on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from mirage_cli import __version__
from mirage_cli.bench.marker import MarkedSource, Sightings, block_pixels, carry
from mirage_cli.bench.run import CPU_SIZE, GPU_SIZE, weights
from mirage_cli.bench.stages import MAX_FRAMES, STAGE_FRAMES
from mirage_cli.config import BenchConfig
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import Frame, FrameSink, FrameSource
from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.inputs.wrappers import PacedSource
from mirage_cli.measure import Meter, PeakMemory
from mirage_cli.media.h264_loop import H264Loop
from mirage_cli.pipeline import Flow, causes_raised, run as run_pipeline
from mirage_cli.prompts.track import LookTrack
from mirage_cli.runs.machine import commit, gpu_memory, hardware, versions
from mirage_cli.styling.loading import Models
from mirage_cli.styling.styler import Styler

Clock = Callable[[], float]
METHOD = (
    "a counter and checksum drawn into each input frame, carried around the model, read from each output picture; "
    "latency is from the source handing the frame over to the number being read"
)


def run(config: BenchConfig, *, engine: Models | None = None, clock: Clock = time.perf_counter) -> dict[str, Any]:
    """Measure.

    Args:
        config: what to measure; ``frames`` are pictures out after ``warmup`` others.
        engine: loads model and prompt; tests pass their own.
        clock: seconds, for the pace and all latencies.

    Returns:
        The document of ``--json``; ``marker`` holds latencies and counts as ``Sightings.summary`` has them.

    Raises:
        UsageProblem: frames too narrow, or a number of frames that is not allowed.
        MirageError: from the input, the model or the device.
    """
    frames = STAGE_FRAMES if config.frames is None else config.frames
    if not 1 <= frames <= MAX_FRAMES or not 0 <= config.warmup <= MAX_FRAMES:
        raise UsageProblem(
            f"frames {frames} and warm-up {config.warmup} are not 1 and 0 to {MAX_FRAMES}",
            "Try: mirage bench --live --frames 300 --warmup 30",
        )
    engine = engine or Models()
    cpu = engine.is_cpu(config.model)
    size = config.size or (CPU_SIZE if cpu else GPU_SIZE)
    block_pixels(size[0])
    match = engine.match(config.model, config.prompt)
    session = engine.session(config.model, *size)
    memory, meter = PeakMemory(), Meter()
    styler = Styler(session, LookTrack(match.weights, 0.0), meter, size)
    with closing(MarkedSource(_open(config, size, clock), clock)) as source:
        seen = Sightings()

        def look(rgb: np.ndarray) -> None:
            seen.add(rgb, clock(), source.born_seconds)

        sink: FrameSink = _H264(size, source.info.fps, look) if config.through == "h264" else _Reader(look)
        try:
            with causes_raised():
                result = run_pipeline(
                    Flow(
                        source,
                        styler.step,
                        sink,
                        meter,
                        newest_wins=True,
                        max_frames=config.warmup + frames,
                        compose=_carried(config.inject_ms),
                        tick=memory.sample,
                        tick_seconds=0.5,
                        timeout_seconds=60.0,
                        clock=clock,
                    )
                )
        finally:
            sink.close()
        about, name = dict(session.describe()), source.info.name
    marker = seen.summary(config.warmup)
    if "latency_ms" not in marker:
        raise MediaError(
            f"no marker came out after the warm-up: {marker['frames_seen']} were read, "
            f"{marker['unreadable']} pictures had none",
            "Measure more frames: --frames 100",
        )
    return {
        "command": "bench",
        "mode": "live",
        "mirage": __version__,
        "commit": commit(),
        "hardware": hardware(on_gpu=not cpu),
        "versions": versions(),
        "model": about,
        "weights": weights(config.model.model),
        "size": list(size),
        "source": name,
        "prompt": config.prompt,
        "look": match.look,
        "steps": config.model.steps,
        "batch": 1,
        "warmup_frames": config.warmup,
        "frames": frames,
        "method": METHOD,
        "read_at": config.through,
        "injected_ms": config.inject_ms,
        "marker": marker,
        "fps_asked": round(source.info.fps, 3),
        "fps_in": round(meter.frames_in / result.seconds, 2),
        "fps_out": round(meter.frames_out / result.seconds, 2),
        "pipeline_latency_ms": meter.latency_summary(),
        "memory_mib": {**memory.megabytes(), **gpu_memory(not cpu)},
    }


def _open(config: BenchConfig, size: tuple[int, int], clock: Clock) -> FrameSource:
    path = config.input
    if path is None:
        return TestPicture(*size, fps=config.fps, clock=clock)
    if path == "-":
        raise UsageProblem("bench plays its input in a loop, which standard input cannot", "Give --input a file.")
    from mirage_cli.inputs.file import open_file

    def reopen() -> FrameSource:
        return open_file(path, size=size)

    return PacedSource(reopen(), reopen=reopen, clock=clock)


def _carried(inject_ms: float) -> Callable[[Frame, np.ndarray], np.ndarray]:
    def compose(frame: Frame, rgb: np.ndarray) -> np.ndarray:
        if inject_ms:
            time.sleep(inject_ms / 1e3)
        return carry(frame.rgb, rgb)

    return compose


class _Reader(FrameSink):
    """Reads the marker of each frame as an output would get it."""

    def __init__(self, look: Callable[[np.ndarray], None]) -> None:
        super().__init__()
        self._look = look

    def write(self, frame: Frame) -> None:
        self._look(frame.rgb)

    def close(self, commit: bool = True) -> None:
        pass


class _H264(FrameSink):
    """Reads the marker of each frame behind an encoder and a decoder."""

    def __init__(self, size: tuple[int, int], fps: float, look: Callable[[np.ndarray], None]) -> None:
        super().__init__()
        self._loop = H264Loop(size, fps, look)

    def write(self, frame: Frame) -> None:
        self._loop.write(frame.rgb)

    def close(self, commit: bool = True) -> None:
        self._loop.close()
