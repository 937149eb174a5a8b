"""Pictures in text: the dashboard of a running stream, and of training.

Every function here is pure: data in, a Rich renderable (or a string) out. ``ui.py`` decides where
and how often it is drawn.
"""

from __future__ import annotations

import math
import os

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mirage_cli.measure import Stats, TrainStats


def clock_text(seconds: float | None) -> str:
    """75.2 -> ``1:15``; None or NaN -> ``-``."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = int(seconds + 0.5)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def ms_text(latency_ms: float) -> str:
    """A latency with three figures: ``7.25 ms``, ``72.5 ms``, ``725 ms``; ``-`` for NaN."""
    if not math.isfinite(latency_ms):
        return "-"
    digits = 2 if latency_ms < 10 else 1 if latency_ms < 100 else 0
    return f"{latency_ms:.{digits}f} ms"


def looks_text(looks: dict[str, float]) -> str:
    """{"ink-wash": 1.0} -> ``ink-wash``; a mix -> ``ink-wash 70% + night 30%``."""
    if len(looks) == 1:
        return next(iter(looks))
    order = sorted(looks.items(), key=lambda item: -item[1])
    return " + ".join(f"{look} {weight:.0%}" for look, weight in order)


def plain_line(stats: Stats | TrainStats) -> str:
    """One line for logs and pipes: no colour, no cursor movement."""
    if isinstance(stats, TrainStats):
        return _training_line(stats)
    total = f"/{stats.frames_total}" if stats.frames_total else ""
    parts = [f"frame {stats.frames_out}{total}", f"{stats.fps_out:.1f} frames/s"]
    if stats.command == "live":
        parts.insert(1, f"in {stats.fps_in:.1f} frames/s")
        parts[2] = f"out {parts[2]}"
        parts.append(f"dropped {stats.dropped}")
        parts.append(f"latency p50 {ms_text(stats.p50_ms)} p95 {ms_text(stats.p95_ms)} p99 {ms_text(stats.p99_ms)}")
    else:
        parts.append(f"model p50 {ms_text(stats.model_p50_ms)} p95 {ms_text(stats.model_p95_ms)}")
        if stats.left_seconds is not None:
            parts.append(f"ETA {clock_text(stats.left_seconds)}")
    parts.append(looks_text(stats.looks))
    return "  ".join(parts)


def render(stats: Stats | TrainStats) -> RenderableType:
    """The dashboard: what runs, how fast, how late, and what happened."""
    if isinstance(stats, TrainStats):
        return _training(stats)
    live = stats.command == "live"
    rows: list[RenderableType] = []
    if not live:
        rows.append(_progress(stats))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=7)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    speed = Text(f"{stats.fps_out:.1f} frames/s", style="bold green")
    if live:
        speed = Text.assemble(
            "in ",
            (f"{stats.fps_in:.1f}", "bold"),
            "  out ",
            (f"{stats.fps_out:.1f}", "bold green"),
            " frames/s  dropped ",
            (str(stats.dropped), "bold" if stats.dropped else "none"),
        )
    latency = _latency(stats, live)
    looks = looks_text(stats.looks)
    prompt = Text.assemble((stats.prompt, "bold cyan"), ("  -> " + looks, "dim"))
    if stats.strength is not None:
        prompt.append(f"  strength {stats.strength:g}")
    model = f"{stats.model}  {stats.device}  {stats.dtype}  {stats.backend}"
    model += f"  {stats.steps} step{'s' if stats.steps != 1 else ''}"
    grid.add_row("prompt", prompt)
    grid.add_row("speed", speed)
    grid.add_row("latency", latency)
    grid.add_row("model", f"{model}  {stats.size[0]}x{stats.size[1]}")
    grid.add_row("stream", _events(stats, live))
    rows.append(grid)
    if live:
        grid.add_row("control", _control(stats))
    if stats.message:
        rows.append(Text(stats.message, style="yellow", overflow="ellipsis", no_wrap=True))
    if stats.typed is not None:
        hint = "" if stats.typed else "  type a prompt; /strength 0.5  /pause  /record  /snapshot  q quits"
        rows.append(
            Text.assemble(
                ("> ", "bold"),
                (stats.typed, "bold cyan"),
                ("▏", "bold"),
                (hint, "dim"),
                no_wrap=True,
                overflow="ellipsis",
            )
        )
    title = Text(f" mirage {stats.command}  {stats.source} -> {stats.target} ", overflow="ellipsis")
    return Panel(Group(*rows), title=title, title_align="left", border_style="cyan", width=88)


def _progress(stats: Stats) -> RenderableType:
    line = Table.grid(padding=(0, 2))
    line.add_column(width=44)
    line.add_column(no_wrap=True)
    if stats.frames_total:
        done = min(stats.frames_out, stats.frames_total)
        bar: RenderableType = ProgressBar(total=stats.frames_total, completed=done, width=44)
        text = (
            f"{done / stats.frames_total:4.0%}  frame {stats.frames_out}/{stats.frames_total}"
            f"  ETA {clock_text(stats.left_seconds)}"
        )
    else:
        bar = Text(f"{clock_text(stats.position_seconds)} of the stream done")
        text = f"frame {stats.frames_out}  running {clock_text(stats.elapsed_seconds)}"
    line.add_row(bar, text)
    return line


def _latency(stats: Stats, live: bool) -> Text:
    """A live frame's age when it leaves; for files the model's time, as the rest is waiting."""
    pairs: tuple[tuple[str, float], ...]
    if live:
        pairs = (("p50", stats.p50_ms), ("p95", stats.p95_ms), ("p99", stats.p99_ms))
        rest = f"(model alone {ms_text(stats.model_p50_ms)})"
    else:
        pairs = (("p50", stats.model_p50_ms), ("p95", stats.model_p95_ms))
        rest = f"a frame in the model (with waiting {ms_text(stats.p50_ms)})"
    text = Text()
    for name, value in pairs:
        text.append(f"{name} ").append(ms_text(value), style="bold").append("  ")
    return text.append(rest, style="dim")


def _control(stats: Stats) -> Text:
    """Whether it records or is paused, and where else it can be steered from."""
    text = Text(overflow="ellipsis", no_wrap=True)
    if stats.recording:
        text.append("● recording ", style="bold red").append(f"{os.path.basename(stats.recording)}  ")
    else:
        text.append("not recording  ", style="dim")
    if stats.paused:
        text.append("paused  ", style="bold yellow")
    return text.append(stats.control, style="cyan")


def _events(stats: Stats, live: bool) -> Text:
    text = f"at {clock_text(stats.position_seconds)}  cuts {stats.cuts}"
    text += f"  guard events {stats.guard_events}"
    if live:
        text = f"frame {stats.frames_out}  " + text
    if stats.last_event:
        text += f"  (last: {stats.last_event})"
    return Text(text, overflow="ellipsis", no_wrap=True)


def _training_line(stats: TrainStats) -> str:
    total = f"/{stats.steps_total}" if stats.steps_total else ""
    parts = [f"step {stats.step}{total}", *(f"{name} {value:.4g}" for name, value in stats.terms.items())]
    parts.append(f"{stats.images_per_second:.0f} images/s")
    parts.append(f"learning rate {stats.learning_rate:.2e}")
    parts.append(f"memory {stats.memory_mib:.0f} MiB")
    parts.append(f"ETA {clock_text(stats.left_seconds)}")
    return "  ".join(parts)


def _training(stats: TrainStats) -> RenderableType:
    """A training run: how far, how fast, and the loss by terms."""
    line = Table.grid(padding=(0, 2))
    line.add_column(width=44)
    line.add_column(no_wrap=True)
    total = f"/{stats.steps_total}" if stats.steps_total else ""
    line.add_row(
        ProgressBar(total=1.0, completed=stats.share, width=44),
        f"{stats.share:4.0%}  step {stats.step}{total}  ETA {clock_text(stats.left_seconds)}",
    )
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True, min_width=7)
    facts.add_column(overflow="ellipsis", no_wrap=True)
    images = Text(f"{stats.images_per_second:.0f} images/s", style="bold green")
    facts.add_row("speed", images.append(f"  trained {clock_text(stats.seconds)}", style="not bold default"))
    facts.add_row("rate", f"{stats.learning_rate:.2e}")
    facts.add_row("memory", f"{stats.memory_mib:.0f} MiB at most")
    processes = f", {stats.processes} processes" if stats.processes > 1 else ""
    facts.add_row("model", f"{stats.parameters / 1e6:.2f} M parameters  {stats.device}{processes}")
    losses = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    losses.add_column("term", style="cyan", no_wrap=True)
    losses.add_column("running mean", justify="right")
    losses.add_column("first step", justify="right", style="dim")
    for name, value in stats.terms.items():
        first = stats.first_terms.get(name)
        losses.add_row(
            name, f"{value:.4g}", "-" if first is None else f"{first:.4g}", style="bold" if name == "loss" else ""
        )
    title = Text(f" mirage train  {stats.run} ", overflow="ellipsis")
    return Panel(Group(line, facts, Text(""), losses), title=title, title_align="left", border_style="cyan", width=88)
