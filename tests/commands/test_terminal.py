"""The command line on a pseudo-terminal: dashboard, colours, questions, typed prompts, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time

import pytest
from helpers import media
from helpers.commands import environment
from helpers.media import probe
from helpers.paths import FAKES

pytestmark = pytest.mark.slow


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, *arguments, **values):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            program = [sys.executable, str(FAKES), *map(str, arguments)]
            os.execve(sys.executable, program, environment(**values))
        self.text = ""

    def read(self, until: str, seconds: float = 15.0) -> str:
        """Everything shown, once ``until`` has been."""
        deadline = time.perf_counter() + seconds
        while until not in self.plain and time.perf_counter() < deadline:
            self._more(0.1)
        assert until in self.plain, self.plain[-2000:]
        return self.text

    @property
    def plain(self) -> str:
        """All that was shown, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)

    def _more(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self, seconds: float = 20.0) -> int:
        deadline = time.perf_counter() + seconds
        while self._more(0.1) and time.perf_counter() < deadline:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")


def test_the_dashboard_on_a_terminal_and_its_colours(clip, tmp_path):
    shown = {}
    for name, values in {"colour": {}, "plain": {"NO_COLOR": "1"}}.items():
        out = tmp_path / f"{name}.mp4"
        terminal = Terminal("transform", clip, "-p", "night", "-o", out, FAKE_MODEL_MS="40", **values)
        assert terminal.end() == 0
        shown[name] = terminal.text
    assert "mirage transform" in shown["colour"] and "frames/s" in shown["colour"]
    assert COLOUR.search(shown["colour"]) and not COLOUR.search(shown["plain"])
    assert "mirage transform" in shown["plain"] and "frames/s" in shown["plain"]
    for text in shown.values():  # the dashboard is erased before the result is printed, not with it
        assert "\x1b[" not in text[text.index("wrote ") :]


def test_no_animation_when_it_is_not_wanted(clip, tmp_path):
    for flags, values in ((["--no-progress"], {}), (["-q"], {}), ([], {"TERM": "dumb"})):
        terminal = Terminal(
            "transform", clip, "-p", "night", "-o", tmp_path / "o.mp4", "-y", *flags, FAKE_MODEL_MS="20", **values
        )
        assert terminal.end() == 0
        assert "╭" not in terminal.text and "\x1b[" not in terminal.text, flags


def test_it_asks_on_a_terminal_before_it_replaces_a_file(clip, tmp_path):
    out = tmp_path / "o.mp4"
    for answer, code in (("n\n", 3), ("y\n", 0)):
        out.write_text("old")
        terminal = Terminal("transform", clip, "-p", "night", "-o", out)
        terminal.read("Replace it?")
        terminal.type(answer)
        assert terminal.end() == code
        assert (out.read_bytes() == b"old") == (code == 3)


def test_live_on_a_terminal_takes_prompts_and_q(tmp_path):
    terminal = Terminal("live", "--input", "test", "-p", "ink wash", "--no-window", FAKE_MODEL_MS="10")
    terminal.read("type a prompt")
    terminal.type("nigx\x7fht")
    terminal.read("> night")
    terminal.type("\n")
    terminal.read('"night" applied at frame')
    terminal.type("q\n")
    assert terminal.end() == 0
    assert re.search(r"\d+ frames of 512x288", terminal.text)


def test_ctrl_c_typed_at_a_terminal_lets_ffmpeg_finish(tmp_path):
    """The key sends SIGINT to the whole foreground group, ffmpeg included."""
    clip = media.clip(tmp_path / "in.mp4", seconds=20, fps=25, sound=None)
    out = tmp_path / "out.mp4"
    terminal = Terminal("transform", clip, "-p", "night", "-o", out, FAKE_MODEL_MS="40")
    terminal.read("p50 4")
    time.sleep(0.5)
    terminal.type("\x03")
    assert terminal.end() == 130
    assert probe(out).frames >= 3
