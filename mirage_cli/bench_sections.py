"""The parts of ``mirage bench`` that measure device frames: ladder, race, paced runs, floor."""

from __future__ import annotations

from typing import Any

from mirage_cli.bench_floor import floor, kernel_table
from mirage_cli.bench_ladder import ladder
from mirage_cli.bench_race import host_frame, paced, race
from mirage_cli.bench_subjects import pictures
from mirage_cli.config import BenchConfig

GPU_FRAMES, CPU_FRAMES = 2000, 20
PACES_HERTZ, PACED_SECONDS = (30.0, 60.0), 5


def measure_sections(config: BenchConfig, engine: Any, size: tuple[int, int], cpu: bool) -> dict[str, Any]:
    """The sections that are asked for, and what ran; ``size`` is width and height.

    Raises:
        MirageError: from the model or the device.
    """
    match = engine.match(config.model, config.prompt)
    bundle = engine.bundle(config.model)
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
        "unit": "ms; device frame: uint8 on the device to uint8 on the device" if not cpu else "ms; wall clock of a frame",
        "frames": count,
    }
    if config.ladder:
        document["ladder"] = ladder(bundle, size, steps, weights, frames, count)
    if config.race:
        document["race"] = race(bundle, size, steps, weights, frames, count, backend)
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
