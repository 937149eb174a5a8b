"""Standard input and output, named pipes, readers that go away, and memory that stays level."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading

import pytest
from helpers import media
from helpers.commands import environment, mirage
from helpers.fakes import main
from helpers.media import probe
from helpers.paths import FAKES

from mirage_cli.commands.ui import TerminalUi

pytestmark = pytest.mark.slow


def test_video_through_pipes_and_nothing_else_on_standard_output(clip, tmp_path):
    done = mirage("transform", "-", "-p", "night", "-o", "-", stdin=clip.read_bytes())
    assert done.returncode == 0, done.stderr
    piped = tmp_path / "piped.bin"
    piped.write_bytes(done.stdout)
    made = probe(piped)
    assert (made.frames, made.size, made.sound) == (20, (96, 64), True)
    assert b"20 frames" in done.stderr and b"20 frames" not in done.stdout


def test_sound_from_a_pipe_is_kept(clip, tmp_path):
    out = tmp_path / "out.mp4"
    done = mirage("transform", "-", "-p", "night", "-o", out, stdin=clip.read_bytes())
    assert done.returncode == 0, done.stderr
    assert probe(out).sound and probe(out).frames == 20


def test_a_named_pipe_is_read_once_and_scaled_down(tmp_path, capsys):
    big = media.clip(tmp_path / "big.mkv", seconds=0.4, fps=10, size=(1280, 720), sound="aac")
    pipe, out = tmp_path / "pipe", tmp_path / "out.mp4"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(big.read_bytes()))
    writer.start()
    assert main(["transform", str(pipe), "-p", "night", "-o", str(out)]) == 0
    writer.join()
    assert "size 768x432: the input is 1280x720" in capsys.readouterr().err
    made = probe(out)
    assert (made.frames, made.size, made.sound) == (4, (768, 432), True)


def test_what_the_output_cannot_keep_is_said(clip, tmp_path, capsys):
    command = ["transform", str(clip), "-p", "night", "-o"]
    assert main([*command, str(tmp_path / "out.gif"), "--json"]) == 0
    streams = capsys.readouterr()
    (warning,) = json.loads(streams.out)["warnings"]
    assert "holds no sound" in warning and f"warning: {warning}" in streams.err


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    clip = media.clip(tmp_path / "long.mp4", seconds=4, fps=25, size=(320, 240), sound=None)
    shell = f'"{sys.executable}" "{FAKES}" transform "{clip}" -p night -o -'
    done = subprocess.run(
        ["bash", "-c", f"{shell} | head -c 100 >/dev/null; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        timeout=60,
        env=environment(),
    )
    assert done.returncode in (0, 3) and b"Traceback" not in done.stderr


def test_a_slow_run_without_a_terminal_gives_plain_lines(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TerminalUi, "LINE_SECONDS", 0.1)
    monkeypatch.setenv("FAKE_MODEL_MS", "30")
    out = str(tmp_path / "o.mp4")
    assert main(["transform", str(clip), "-p", "night", "-o", out]) == 0
    err = capsys.readouterr().err
    assert len(re.findall(r"^frame \d+/20  [\d.]+ frames/s  model p50 .* ms", err, re.M)) >= 2
    assert "\x1b" not in err and "\r" not in err
    assert main(["transform", str(clip), "-p", "night", "-o", out, "-y", "--no-progress"]) == 0
    assert "frames/s" not in capsys.readouterr().err


def test_memory_does_not_grow_with_the_clip(tmp_path):
    peaks = []
    for seconds in (3, 24):
        clip = media.clip(tmp_path / f"{seconds}.mp4", seconds=seconds, fps=25, size=(320, 240), sound=None)
        done = mirage(
            "transform", clip, "-p", "night", "-o", tmp_path / f"{seconds}.out.mp4", "--json", FAKE_MODEL_MS="0"
        )
        document = json.loads(done.stdout)
        assert document["frames"] == seconds * 25
        peaks.append(document["peak_memory_mb"]["process"])
    assert peaks[1] <= 1.05 * peaks[0], peaks
