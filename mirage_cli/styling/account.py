"""A run in numbers: for ``--json`` and for the dashboard."""

from __future__ import annotations

from typing import Any

from mirage_cli.config import ModelOptions
from mirage_cli.errors import plain_text
from mirage_cli.measure import PeakMemory, Stats, percentiles
from mirage_cli.styling.styler import Styler


def account(
    styler: Styler, options: ModelOptions, warnings: list[str], memory: PeakMemory, seconds: float, begun_seconds: float
) -> dict[str, Any]:
    """The part of a ``--json`` document that transform and live share.

    ``frames`` left for the sink and ``dropped`` never began; ``fps`` is frames over ``seconds``. A
    latency in ``latency_ms`` is one frame's: ``model`` the session's step (prepare + denoise +
    compose), ``end_to_end`` from decoded to written, waiting in the channels included.

    Args:
        warnings: of the source and the sink.
        seconds: how long frames flowed.
        begun_seconds: when the program started, on the meter's clock.
    """
    meter = styler.meter
    first = meter.first_out_seconds
    return {
        "size": list(styler.size),
        "frames": meter.frames_out,
        "frames_in": meter.frames_in,
        "dropped": meter.dropped,
        "seconds": round(seconds, 3),
        "fps": round(meter.frames_out / seconds, 2) if seconds else 0.0,
        "first_frame_seconds": None if first is None else round(first - begun_seconds, 3),
        "latency_ms": meter.latency_summary(),
        "strength": options.strength,
        "seed": options.seed,
        **styler.document(),
        "warnings": warnings,
        "peak_memory_mb": memory.megabytes(),
    }


def stats_of(
    styler: Styler,
    about: dict[str, Any],
    now_seconds: float,
    begin_seconds: float,
    *,
    command: str,
    source: str,
    target: str,
    prompt: str,
    frames_total: int | None = None,
    **more: Any,
) -> Stats:
    """Read the counters of a run into a ``Stats``.

    Args:
        about: the session's ``describe()``.
        now_seconds, begin_seconds: of the meter's clock; when frames began to flow.
        command, source, target, prompt, frames_total, more: as in ``Stats``.
    """
    meter = styler.meter
    end_to_end, model = percentiles(meter.recent()), percentiles(meter.recent(model=True))
    fps_in, fps_out = meter.rates(now_seconds)
    left = None
    if frames_total and fps_out > 0:
        left = max(0, frames_total - meter.frames_out) / fps_out
    return Stats(
        command=command,
        source=plain_text(source),
        target=plain_text(target),
        prompt=plain_text(prompt),
        looks=dict(styler.looks or styler.track.at(0.0)),
        size=styler.size,
        model=str(about.get("model", "")),
        device=str(about.get("device", "")),
        dtype=str(about.get("dtype", "")),
        backend=str(about.get("backend", "")),
        steps=int(about.get("steps", 1)),
        frames_in=meter.frames_in,
        frames_out=meter.frames_out,
        dropped=meter.dropped,
        frames_total=frames_total,
        fps_in=fps_in,
        fps_out=fps_out,
        p50_ms=end_to_end["p50"],
        p95_ms=end_to_end["p95"],
        p99_ms=end_to_end["p99"],
        model_p50_ms=model["p50"],
        model_p95_ms=model["p95"],
        elapsed_seconds=now_seconds - begin_seconds,
        left_seconds=left,
        position_seconds=meter.last_out_pts_seconds,
        cuts=styler.cuts,
        guard_events=styler.guard_count,
        last_event=styler.last_event,
        **more,
    )
