"""The dashboard and tables: pure functions from data to text."""

from __future__ import annotations

import io
import math
import time

import pytest
from rich.console import Console

from mirage_cli.commands.dashboard import clock_text, looks_text, ms_text, plain_line, render
from mirage_cli.commands.tables import data_tables, doctor_table, models_table
from mirage_cli.measure import Stats

BASE = {
    "source": "clip.mp4",
    "target": "out.mp4",
    "prompt": "van gogh starry night",
    "looks": {"starry-night": 1.0},
    "size": (512, 288),
    "model": "lsd-small",
    "device": "cpu",
    "dtype": "bf16",
    "backend": "torch",
    "frames_in": 58,
    "frames_out": 55,
    "fps_in": 30.0,
    "fps_out": 14.25,
    "p50_ms": 70.31,
    "p95_ms": 81.9,
    "p99_ms": 123.4,
    "model_p50_ms": 66.6,
    "model_p95_ms": 72.5,
    "elapsed_seconds": 4.0,
    "left_seconds": 75.2,
    "position_seconds": 2.2,
}


def drawn(renderable, width=100, colour=False):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    console.print(renderable)
    return out.getvalue()


def test_transform_shows_progress_speed_latency_and_model():
    text = drawn(render(Stats("transform", frames_total=132, **BASE)))
    for part in (
        "mirage transform",
        "clip.mp4 -> out.mp4",
        "42%",
        "frame 55/132",
        "ETA 1:15",
        "van gogh starry night",
        "starry-night",
        "14.2 frames/s",
        "p50 66.6 ms",
        "p95 72.5 ms",
        "with waiting 70.3 ms",
        "lsd-small",
        "cpu",
        "bf16",
        "1 step ",
        "512x288",
    ):
        assert part in text, part
    assert "p99" not in text and "dropped" not in text and "\x1b" not in text


def test_live_shows_rates_drops_and_the_line_being_typed():
    stats = Stats(
        "live", dropped=33, cuts=2, guard_events=1, typed="ink wa", last_event="re-anchored at frame 40", **BASE
    )
    text = drawn(render(stats))
    for part in (
        "in 30.0",
        "out 14.2",
        "dropped 33",
        "p99 123 ms",
        "cuts 2",
        "guard events 1",
        "last: re-anchored at frame 40",
        "> ink wa",
    ):
        assert part in text, part
    idle = drawn(render(Stats("live", typed="", **BASE)))
    assert "type a prompt" in idle
    assert "type a prompt" not in drawn(render(Stats("live", typed=None, **BASE)))


def test_live_shows_strength_recording_pause_and_where_it_is_steered_from():
    text = drawn(
        render(
            Stats(
                "live",
                strength=0.35,
                paused=True,
                control="http://127.0.0.1:8765/",
                recording="/a/very/long/folder/that/would/fill/the/line/mirage-1.mp4",
                **BASE,
            )
        )
    )
    for part in ("strength 0.35", "recording mirage-1.mp4", "paused", "http://127.0.0.1:8765/", "prompt ", "control "):
        assert part in text, part
    assert "not recording" in drawn(render(Stats("live", **BASE)))


def test_a_stream_of_unknown_length_shows_no_eta():
    text = drawn(render(Stats("transform", **BASE)))
    assert "ETA" not in text and "frame 55" in text


def test_before_the_first_frame_nothing_is_invented():
    stats = Stats("transform", "a", "b", "c", {"night": 1.0}, (64, 64))
    text = drawn(render(stats))
    assert "nan" not in text and "p50 -" in text
    assert "nan" not in plain_line(stats)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width):
    stats = Stats("live", typed="x" * 300, message="y" * 300, **{**BASE, "prompt": "z" * 300, "source": "s" * 200})
    lines = drawn(render(stats), width=width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= 12


def test_text_from_outside_is_shown_as_it_is():
    text = drawn(render(Stats("live", typed="[red]x[/]", **{**BASE, "prompt": "[bold]p[/bold]"})))
    assert "[red]x[/]" in text and "[bold]p[/bold]" in text


def test_a_plain_line_has_no_codes_and_one_line():
    line = plain_line(Stats("transform", frames_total=132, **BASE))
    assert line == ("frame 55/132  14.2 frames/s  model p50 66.6 ms p95 72.5 ms  ETA 1:15  starry-night")
    line = plain_line(Stats("live", dropped=3, **BASE))
    assert line == (
        "frame 55  in 30.0 frames/s  out 14.2 frames/s  dropped 3  "
        "latency p50 70.3 ms p95 81.9 ms p99 123 ms  starry-night"
    )


def test_drawing_is_cheap():
    stats = Stats("live", typed="", **BASE)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(render(stats))
    begin = time.process_time()
    for _ in range(40):
        console.print(render(stats))
    assert (time.process_time() - begin) / 40 < 0.015  # at 8 a second: an eighth of one core


def test_numbers_in_words():
    assert [clock_text(s) for s in (0, 59.6, 75.2, 3725, None, math.nan)] == [
        "0:00",
        "1:00",
        "1:15",
        "1:02:05",
        "-",
        "-",
    ]
    assert [ms_text(m) for m in (1.234, 12.34, 123.4, math.nan)] == ["1.23 ms", "12.3 ms", "123 ms", "-"]
    assert looks_text({"a": 0.3, "b": 0.7}) == "b 70% + a 30%"


def test_tables():
    findings = [
        {"name": "python", "status": "ok", "detail": "3.11.7", "fix": "not shown"},
        {"name": "ffmpeg", "status": "fail", "detail": "none [x]", "fix": "install it"},
    ]
    text = drawn(doctor_table(findings))
    assert "not shown" not in text and "fix: install it" in text and "none [x]" in text
    models = [
        {
            "name": "lsd-small",
            "title": "8 MB",
            "looks": [{"name": "night", "prompt": "at night", "names": ["dark", "midnight"]}],
        }
    ]
    text = drawn(models_table(models))
    assert "lsd-small" in text and '"at night"' in text and "dark, midnight" in text
    text = drawn(
        data_tables(
            {
                "frames": 100,
                "ok": True,
                "model": {"device": "cpu"},
                "latency_ms": {"denoise": {"p50": 12.5, "max": 250.0}, "write": {"p50": 1.0, "max": 2.0}},
                "budgets": [{"budget_ms": 40.0, "within": False}],
                "none": None,
            }
        )
    )
    for part in ("frames", "100", "yes", "cpu", "denoise", "12.5", "250", "budget ms", "no"):
        assert part in text, part
