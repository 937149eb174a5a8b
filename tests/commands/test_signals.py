"""Signals: the file is finished or nothing is left."""

from __future__ import annotations

import json
import signal
import time

import pytest
from helpers import media
from helpers.commands import start, wait_for
from helpers.media import probe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_file_so_that_it_plays(tmp_path, number):
    clip = media.clip(tmp_path / "in.mp4", seconds=20, fps=25, sound="aac")
    out = tmp_path / "out.mp4"
    process = start("transform", clip, "-p", "night", "-o", out, "--json", FAKE_MODEL_MS="40")
    part = tmp_path / "out.mp4.part"
    wait_for(part)
    time.sleep(1.0)
    assert not out.exists()  # the name is taken only when the file is whole
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    document = json.loads(stdout)
    assert document["interrupted"] is True and 5 <= document["frames"] < 400
    made = probe(out)
    assert made.frames == document["frames"]
    assert made.seconds == pytest.approx(document["frames"] / 25, abs=0.3)  # the sound ends too
    assert b"interrupted" in stderr and b"Traceback" not in stderr and not part.exists()


def test_a_second_interrupt_gives_up_at_once_and_leaves_nothing(tmp_path):
    clip = media.clip(tmp_path / "in.mp4", seconds=4, fps=25, sound=None)
    out = tmp_path / "out.mp4"
    process = start("transform", clip, "-p", "night", "-o", out, FAKE_MODEL_MS="5000")
    wait_for(tmp_path / "out.mp4.part")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130 and b"Traceback" not in stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_live_ends_with_130_on_ctrl_c_and_its_file_plays(tmp_path):
    out = tmp_path / "out.mp4"
    process = start("live", "--input", "test", "-p", "night", "-o", out, "--size", "64x48")
    wait_for(tmp_path / "out.mp4.part")
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert probe(out).frames >= 5 and b"wrote" in stdout
