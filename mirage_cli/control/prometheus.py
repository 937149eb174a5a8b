"""``/metrics``: the counters of a running stream in Prometheus' text form (version 0.0.4)."""

from __future__ import annotations

from typing import Any

from mirage_cli import __version__
from mirage_cli.measure import Meter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_MS = (1, 2.5, 5, 10, 16, 25, 40, 60, 80, 100, 150, 250, 500, 1000, 2500, 5000)
STAGES = ("read", "model", "write", "end_to_end")


def metrics_text(meter: Meter, state: dict[str, Any], changes: int, refused: int) -> str:
    """All metrics.

    Args:
        meter: frames and latencies; a bucket is right to 1%.
        state: ``Controls.state()``.
        changes, refused: control messages applied and refused.
    """
    lines: list[str] = []

    def add(name: str, kind: str, about: str, value: float | None, labels: str = "") -> None:
        if value is None:
            return
        lines.extend((f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name}{labels} {value:.10g}"))

    model = _label(str(state.get("model", "")))
    add("mirage_info", "gauge", "What runs; always 1.", 1, f'{{version="{__version__}",model="{model}"}}')
    add("mirage_frames_in_total", "counter", "Frames that came from the source.", meter.frames_in)
    add("mirage_frames_out_total", "counter", "Frames that left for the outputs.", meter.frames_out)
    add("mirage_frames_dropped_total", "counter", "Frames passed over for newer ones.", meter.dropped)
    add("mirage_guard_events_total", "counter", "Times the drift guard re-anchored.", state["guard_events"])
    add("mirage_cuts_total", "counter", "Cuts found in the input.", state["cuts"])
    add("mirage_control_changes_total", "counter", "Control changes applied.", changes)
    add("mirage_control_refused_total", "counter", "Control changes refused.", refused)
    add("mirage_fps_in", "gauge", "Frames a second from the source, lately.", state.get("fps_in"))
    add("mirage_fps_out", "gauge", "Frames a second to the outputs, lately.", state.get("fps_out"))
    add("mirage_strength", "gauge", "How much of the look, 0 to 1.", state["strength"])
    add("mirage_paused", "gauge", "1 while paused.", float(state["pause"]))
    add("mirage_recording", "gauge", "1 while recording.", float(state["record"]))
    name = "mirage_latency_seconds"
    lines += [f"# HELP {name} Latency of a frame by stage.", f"# TYPE {name} histogram"]
    for stage in STAGES:
        counts, total, total_ms = meter.histogram(stage, BOUNDS_MS)
        for bound, count in zip(BOUNDS_MS, counts):
            lines.append(f'{name}_bucket{{stage="{stage}",le="{bound / 1e3:g}"}} {count}')
        lines.append(f'{name}_bucket{{stage="{stage}",le="+Inf"}} {total}')
        lines.append(f'{name}_sum{{stage="{stage}"}} {total_ms / 1e3:.9g}')
        lines.append(f'{name}_count{{stage="{stage}"}} {total}')
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
