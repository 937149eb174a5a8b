"""``mirage live``: its sources, limits, typed prompts, window and file, with a stand-in model."""

from __future__ import annotations

import os
import pty
import threading
import time

import pytest
from helpers import media
from helpers.fakes import FakeModels, RecordingUi
from helpers.live import config
from helpers.media import probe

from mirage_cli.config import ModelOptions
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import Frame
from mirage_cli.outputs.window import NullSink, WindowSink
from mirage_cli.runs import live
from mirage_cli.runs.typing_lines import LineReader
from mirage_cli.styling.stopping import StopSwitch

pytestmark = pytest.mark.slow


def test_it_ends_after_so_many_frames():
    models, ui = FakeModels(), RecordingUi()
    document = live.run(config(frames=12, fps=100.0), ui, models=models, keys=False)
    assert document["frames"] == 12 and document["ended_by"] == "frames"
    assert models.sessions[0].frames == 12 and models.sessions[0].looks == [{"ink-wash": 1.0}]
    assert document["frames_in"] >= 12 and document["interrupted"] is False
    assert {"read", "model", "write", "end_to_end"} <= set(document["latency_ms"])


def test_it_ends_after_so_much_time(monkeypatch):
    monkeypatch.setenv("FAKE_MODEL_MS", "40")
    ui = RecordingUi()
    begin = time.perf_counter()
    document = live.run(config(duration_seconds=1.0, fps=100.0), ui, models=FakeModels(), keys=False)
    assert document["ended_by"] == "duration" and time.perf_counter() - begin < 2.5
    # 100 frames a second come, 25 are done: the rest is dropped, and nothing runs late.
    assert 12 <= document["frames"] <= 26
    assert document["dropped"] >= 40
    assert document["latency_ms"]["end_to_end"]["p95"] < 120
    last = ui.stats[-1]
    assert last.fps_in > last.fps_out and last.dropped > 0 and last.command == "live"


def test_a_typed_prompt_is_applied_at_a_stated_frame():
    models, ui, stop = FakeModels(), RecordingUi(), StopSwitch()
    read, write = os.pipe()

    def type_lines():
        time.sleep(0.3)
        os.write(write, b"night\n/strength 0.25\n\n/strange 1\n")
        time.sleep(0.3)
        os.write(write, b"q\n")

    threading.Thread(target=type_lines).start()
    saved = live.LineReader
    live.LineReader = lambda on_line: saved(on_line, read)
    try:
        document = live.run(config(fps=50.0, blend_seconds=0.0, duration_seconds=5.0), ui, models=models, stop=stop)
    finally:
        live.LineReader = saved
        os.close(read)
        os.close(write)
    assert document["ended_by"] == "quit" and not stop.by_signal
    session = models.sessions[0]
    assert [(c["kind"], c["text"]) for c in document["changes"]] == [("look", "night"), ("strength", "/strength 0.25")]
    for change in document["changes"]:
        told = f'"{change["text"]}" applied at frame {change["frame"]}'
        assert any(note.startswith(told) for note in ui.notes), told
    assert session.looks == [{"ink-wash": 1.0}, {"night": 1.0}] and session.strengths == [0.25]
    assert any("'/strange 1' is not a command" in text for text in ui.warnings)


def test_a_change_takes_effect_on_the_frame_that_is_named():
    models, ui = FakeModels(), RecordingUi()
    begun: list[live.LiveRun] = []

    class Ui(RecordingUi):
        def tick(self, stats):
            super().tick(stats)
            frames = models.sessions[0].frames
            if frames >= 5 and not self.asked:
                self.asked.append("night")
                begun[0].steering.line("night")

    ui = Ui()
    asked = config(fps=100.0, frames=30, blend_seconds=0.0)
    document = live.run(asked, ui, models=models, keys=False, started=begun.append)
    (change,) = document["changes"]
    assert change["text"] == "night" and 5 <= change["frame"] < 30
    assert models.sessions[0].looks == [{"ink-wash": 1.0}, {"night": 1.0}]
    assert any(f"applied at frame {change['frame']}" in note for note in ui.notes)
    assert ui.stats[-1].prompt == "night"


@pytest.mark.parametrize(
    ("values", "telling"),
    [
        ({"input": None}, "needs one source"),
        ({"camera": 0}, "needs one source"),
        ({"prompts": ()}, "no prompt"),
        ({"prompts": ("",)}, "prompt is empty"),
    ],
)
def test_bad_use_is_refused(values, telling):
    with pytest.raises(UsageProblem, match=telling):
        live.run(config(**values), RecordingUi(), models=FakeModels())


def test_a_camera_that_is_not_there():
    with pytest.raises(MediaError, match="no camera 7; cameras found") as caught:
        live.run(config(camera=7, input=None), RecordingUi(), models=FakeModels())
    assert "--input test" in caught.value.remedy and caught.value.exit_code == 3


def test_a_window_without_a_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MediaError, match="no display") as caught:
        live.run(config(window=True), RecordingUi(), models=FakeModels())
    assert "--no-window" in caught.value.remedy


def test_a_window_where_no_toolkit_works(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(MediaError, match="no window can be shown"):
        WindowSink("x", 64, 48)
    # The windowed build of OpenCV would end the process here.
    monkeypatch.setattr("mirage_cli.outputs.window.opencv_gui", lambda cv2: "QT5")
    with pytest.raises(MediaError, match="display ':987' cannot be opened"):
        WindowSink("x", 64, 48)


class Toolkit:
    name = "stand-in"

    def __init__(self, *_):
        self.shown, self.keys, self.closed, self.destroyed = [], [], False, False

    def show(self, rgb):
        self.shown.append(rgb.copy())
        if len(self.shown) == 8:
            self.keys.append("q")

    def key(self):
        return self.keys.pop(0) if self.keys else ""

    def gone(self):
        return self.closed

    def destroy(self):
        self.destroyed = True


def test_q_in_the_window_ends_the_run(monkeypatch):
    kits = []
    monkeypatch.setattr("mirage_cli.outputs.window._open_toolkit", lambda *a: kits.append(Toolkit(*a)) or kits[0])
    document = live.run(
        config(window=True, fps=60.0, compare=True, duration_seconds=10.0),
        RecordingUi(),
        models=FakeModels(),
        keys=False,
    )
    assert document["ended_by"] == "window" and document["window"] == "stand-in"
    assert kits[0].shown[0].shape == (48, 128, 3) and kits[0].destroyed


def test_a_closed_window_ends_the_run_and_shows_the_newest_only(monkeypatch):
    import numpy as np

    monkeypatch.setattr("mirage_cli.outputs.window._open_toolkit", lambda *a: Toolkit(*a))
    window = WindowSink("x", 4, 4)
    for value in (1, 2, 3):
        window.write(Frame(np.full((4, 4, 3), value, np.uint8), 0.0, value))
    assert window.pump() and window.pump()
    assert [int(rgb[0, 0, 0]) for rgb in window._toolkit.shown] == [3]
    window._toolkit.closed = True
    assert not window.pump()
    window.close()
    assert not window.pump() and window._toolkit.destroyed
    NullSink().close()


def test_a_file_is_played_at_its_own_pace_and_written_with_its_times(tmp_path):
    clip = media.clip(tmp_path / "in.mp4", seconds=1.0, fps=20, sound=None)
    out = tmp_path / "out.mp4"
    begin = time.perf_counter()
    document = live.run(
        config(input=str(clip), output=str(out), size=None), RecordingUi(), models=FakeModels(), keys=False
    )
    assert time.perf_counter() - begin > 0.9
    assert document["ended_by"] == "source"
    assert document["frames"] + document["dropped"] == document["frames_in"] == 20
    made = probe(out)
    assert made.frames == document["frames"]
    assert made.size == (96, 64) and made.seconds == pytest.approx(1.0, abs=0.15)


def test_a_looped_file_goes_on(tmp_path):
    clip = media.clip(tmp_path / "in.mp4", seconds=0.5, fps=20, sound=None)
    document = live.run(config(input=str(clip), loop=True, frames=25), RecordingUi(), models=FakeModels(), keys=False)
    assert document["frames"] == 25 and document["ended_by"] == "frames"


def test_a_big_file_is_scaled_down_on_a_cpu(tmp_path):
    clip = media.clip(tmp_path / "in.mp4", seconds=0.2, fps=20, size=(1280, 720), sound=None)
    ui = RecordingUi()
    document = live.run(config(input=str(clip), size=None), ui, models=FakeModels(), keys=False)
    assert document["size"] == [512, 288]
    assert any("--size native" in note for note in ui.notes)


@pytest.mark.parametrize("fail_at, least", [(0, 0), (20, 10)])
def test_an_error_of_the_model_keeps_what_came_before(tmp_path, fail_at, least):
    out, ui = tmp_path / "out.mp4", RecordingUi()
    with pytest.raises(ValueError, match="the model broke"):
        live.run(config(output=str(out), fps=60.0), ui, models=FakeModels(fail_at=fail_at), keys=False)
    assert list(tmp_path.iterdir()) == ([out] if least else [])
    assert (f"wrote {out}: what came before the model failed" in ui.notes) == bool(least)
    if least:
        assert least <= probe(out).frames <= fail_at


def test_the_model_and_seed_asked_for_reach_the_session():
    models = FakeModels()
    options = ModelOptions(model="other", seed=7, steps=2)
    live.run(config(model=options, frames=2), RecordingUi(), models=models, keys=False)
    assert models.sessions[0].options == options


def type_at(keys: bytes, wait: float = 0.4):
    """What a LineReader on a real pseudo-terminal makes of keys: its lines and the rest."""
    master, slave = pty.openpty()
    lines: list[str] = []
    reader = LineReader(lines.append, slave)
    reader._in_foreground = lambda: True  # the terminal is not this process's own
    reader.start()
    try:
        assert reader.terminal
        os.write(master, keys)
        deadline = time.perf_counter() + wait
        while time.perf_counter() < deadline:
            time.sleep(0.02)
        return lines, reader.typed
    finally:
        reader.stop()
        import termios

        flags = termios.tcgetattr(slave)[3]
        assert flags & termios.ICANON and flags & termios.ECHO  # given back as it was
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize(
    ("keys", "lines", "rest"),
    [
        (b"ink wash\r", ["ink wash"], ""),
        (b"ink wasg\x7fh\nnig", ["ink wash"], "nig"),
        (b"one two\x17three\n", ["one three"], ""),
        (b"nonsense\x15night\n", ["night"], ""),
        (b"nonsense\x1bnight\n", ["night"], ""),
        (b"a\x1b[A\x1b[1;5C\x1bOPb\n", ["b"], ""),
        ("café 日本\n".encode(), ["café 日本"], ""),
        (b"q\n", ["q"], ""),
        (b"\x04", ["q"], ""),
    ],
)
def test_lines_typed_at_a_terminal(keys, lines, rest):
    assert type_at(keys) == (lines, rest)


def test_a_closed_standard_input_is_no_error():
    read, write = os.pipe()
    os.close(write)
    os.close(read)
    reader = LineReader(print, read).start()
    reader.stop()
    assert reader.typed is None
