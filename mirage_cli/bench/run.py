"""``mirage bench``: a run of the product's own stages, or the parts that measure device frames alone (ladder, race,
paced runs, floor)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirage_cli import __version__
from mirage_cli.bench import report as bench_report
from mirage_cli.bench.floor import floor, kernel_table
from mirage_cli.bench.ladder import ladder
from mirage_cli.bench.race import host_frame, paced, race
from mirage_cli.bench.stages import (
    MAX_FRAMES,
    STAGE_FRAMES,
    Clock,
    DeviceTimer,
    TemporarySink,
    fp32_ratio,
    frame_by_frame,
    has_ffmpeg,
    pipelined_rate,
    stage_summary,
)
from mirage_cli.bench.subjects import pictures
from mirage_cli.config import BenchConfig, Size
from mirage_cli.errors import MirageError, UsageProblem
from mirage_cli.frames import FrameSource
from mirage_cli.inputs.wrappers import LoopedSource
from mirage_cli.measure import PeakMemory
from mirage_cli.models import catalog
from mirage_cli.runs.machine import commit, gpu_memory, hardware, versions
from mirage_cli.styling.loading import Models

GPU_FRAMES, CPU_FRAMES = 2000, 20
PACES_HERTZ, PACED_SECONDS = (30.0, 60.0), 5
CPU_SIZE, GPU_SIZE = (512, 288), (512, 512)
_CLONE = Path(__file__).resolve().parents[2]
EXAMPLE_CLIP = _CLONE / "examples" / "bunny.mp4"


def run(
    config: BenchConfig,
    *,
    engine: Models | None = None,
    against_fp32: bool = False,
    clock: Clock = time.perf_counter,
    begun_seconds: float | None = None,
) -> dict[str, Any]:
    """Measure.

    Args:
        config: what to measure.
        engine: loads model and prompt; tests pass their own.
        against_fp32: also run a few frames in fp32 on plain torch, for the ratio.
        clock: seconds, for all wall times.
        begun_seconds: when the program started on that clock, for the time to the first frame.

    Returns:
        The document of ``--json``: hardware, versions, settings, ``latency_ms`` (stage -> p50, p95,
        p99, max, mean), ``budgets``, ``pipelined`` and memory.

    Raises:
        UsageProblem: a number of frames that is not allowed.
        MirageError: from the input, the model or the device.
    """
    if config.frames is not None and not 1 <= config.frames <= MAX_FRAMES or not 0 <= config.warmup <= MAX_FRAMES:
        raise UsageProblem(
            f"frames {config.frames} and warm-up {config.warmup} are not 1 and 0 to {MAX_FRAMES}",
            "Try: mirage bench --frames 100 --warmup 10",
        )
    if config.report is not None:
        bench_report.check(config.report)
    begun = clock() if begun_seconds is None else begun_seconds
    engine = engine or Models()
    cpu = engine.is_cpu(config.model)
    size = config.size or (CPU_SIZE if cpu else GPU_SIZE)
    if config.ladder or config.race or config.paced or config.floor:
        document = {**_head(config, cpu, size), **measure_sections(config, engine, size, cpu)}
        if config.report is not None:
            bench_report.write(config.report, document)
        return document
    count = config.frames or STAGE_FRAMES
    config = replace(config, frames=count)
    memory = PeakMemory()
    open_source = _opener(config.input, size)
    with closing(LoopedSource(open_source)) as source:
        match = engine.match(config.model, config.prompt)
        session = engine.session(config.model, *size)
        session.set_look(match.weights)
        timer = DeviceTimer(clock, on_gpu=not cpu)
        with TemporarySink(source) as sink:
            rows, first_seconds = frame_by_frame(source, session, sink, config.warmup, count, timer, clock)
            memory.sample()
        about = dict(session.describe())
        source_name = source.info.name
    pipelined = pipelined_rate(open_source, session, count, clock, memory)
    ratio = fp32_ratio(config, engine, size, open_source, rows) if against_fp32 else None
    document = {
        **_head(config, cpu, size),
        "model": about,
        "source": source_name,
        "look": match.look,
        "warmup_frames": config.warmup,
        "frames": len(rows),
        "device_clock": timer.name,
        "first_frame_seconds": round(first_seconds - begun, 3),
        **stage_summary(rows),
        "pipelined": pipelined,
        "memory_mib": {**memory.megabytes(), **gpu_memory(not cpu)},
    }
    if ratio is not None:
        document["fp32_eager"] = ratio
    if config.report is not None:
        bench_report.write(config.report, document)
    return document


def measure_sections(config: BenchConfig, engine: Models, size: Size, cpu: bool) -> dict[str, Any]:
    """The sections that are asked for, and what ran; ``size`` is width and height.

    Raises:
        MirageError: from the model or the device.
    """
    match = engine.match(config.model, config.prompt)
    model = engine.model(config.model)
    frames = pictures(*size)
    count = config.frames or (CPU_FRAMES if cpu else GPU_FRAMES)
    steps, weights, backend = config.model.steps, match.weights, config.model.backend
    session = engine.session(config.model, *size)
    session.set_look(weights)
    for frame in frames[:4]:
        session.step(frame)
    document: dict[str, Any] = {
        "model": dict(session.describe()),
        "source": "test picture",
        "look": match.look,
        "unit": "ms; device frame: uint8 on the device to uint8 on the device"
        if not cpu
        else "ms; wall clock of a frame",
        "frames": count,
    }
    if config.ladder:
        document["ladder"] = ladder(model, size, steps, weights, frames, count)
    if config.race:
        document["race"] = race(model, size, steps, weights, frames, count, backend)
    if config.paced:
        document["paced"] = [
            paced(session, frames, hertz, min(count, int(hertz * PACED_SECONDS))) for hertz in PACES_HERTZ
        ]
        host = host_frame(session, frames, count)
        if host is not None:
            document["host"] = host
    if config.floor:
        document["floor"] = floor(session, frames)
        kernels = kernel_table(session)
        if kernels is not None:
            document["kernels"] = kernels
    return document


def intention(config: BenchConfig) -> str:
    """What will be measured, in words."""
    sections = [name for name in ("ladder", "race", "paced", "floor") if getattr(config, name)]
    if sections:
        return f"measuring {', '.join(sections)}"
    return f"measuring {config.frames or STAGE_FRAMES} frames after {config.warmup} of warm-up"


def _head(config: BenchConfig, cpu: bool, size: Size) -> dict[str, Any]:
    """What every document says of the measurement."""
    return {
        "command": "bench",
        "mirage": __version__,
        "commit": commit(),
        "hardware": hardware(on_gpu=not cpu),
        "versions": versions(),
        "weights": weights(config.model.model),
        "size": list(size),
        "prompt": config.prompt,
        "steps": config.model.steps,
        "batch": 1,
    }


def _opener(path: str | None, size: Size) -> Callable[[], FrameSource]:
    """How to open what is measured: the file asked for, the example clip, else the test picture."""
    if path == "-":
        raise UsageProblem(
            "bench plays its input in a loop, which standard input cannot",
            "Give --input a file, or none for the example clip.",
        )
    if path is None and not (EXAMPLE_CLIP.is_file() and has_ffmpeg()):
        from mirage_cli.inputs.landscape import TestPicture

        return lambda: TestPicture(*size, paced=False)
    from mirage_cli.inputs.file import open_file

    return lambda: open_file(path or str(EXAMPLE_CLIP), size=size)


def weights(model: str) -> dict[str, Any]:
    """Which weights ran, and whether they are the recorded ones or somebody's own."""
    folder = catalog.model_dir(model)
    try:
        catalog.verify(model)
        recorded = "as recorded in the model's manifest"
    except MirageError as error:
        recorded = f"not as recorded: {error.message}"
    return {
        "sha256": catalog.file_sha256(folder / catalog.WEIGHTS),
        "files": recorded,
        **catalog.weight_summary(folder),
    }
