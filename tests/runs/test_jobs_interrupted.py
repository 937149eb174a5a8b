"""Jobs that survive: killed at any moment, a full disk, a dead encoder; and then gone on with."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import media
from helpers.fakes import FakeModels
from helpers.jobs import SEGMENT, Dies, config, do
from helpers.paths import FAKES

from mirage_cli.errors import MediaError
from mirage_cli.outputs.job_folder import job_path, unfinished
from mirage_cli.styling.stopping import StopSwitch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("echo")]


def test_killed_at_any_moment_and_gone_on_with(clip, golden, tmp_path):
    """kill -9 three times, at a moment that differs with every run of this test; then to the end."""
    out = tmp_path / "out.mp4"
    command = [sys.executable, str(FAKES), "transform", str(clip), "-p", "night", "-o", str(out), "--resume", "-q"]
    env = {**os.environ, "FAKE_ECHO": "1", "FAKE_SEGMENT_FRAMES": str(SEGMENT), "FAKE_MODEL_MS": "15"}
    reached = []
    for number in range(3):
        begun = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        goal = unfinished(out) + (1 if number else 0)  # the first may die before any segment is whole
        while unfinished(out) < goal and begun.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.25))
        begun.send_signal(signal.SIGKILL)
        begun.communicate()
        reached.append(unfinished(out))
        assert not out.exists()
    assert reached == sorted(reached) and reached[-1] >= SEGMENT
    document, ui = do(config(clip, out, resume=True))
    assert document["resumed_at_frame"] == reached[-1] == 60 - document["frames"]
    assert any(f"going on at frame {reached[-1]}" in note for note in ui.notes)
    assert out.read_bytes() == golden  # frames, times and sound, bit for bit
    assert os.listdir(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("fail_at, kept", [(5, 0), (14, 10), (37, 30), (59, 50)])
def test_a_model_that_fails_loses_no_whole_segment(clip, golden, tmp_path, fail_at, kept):
    out = tmp_path / "out.mp4"
    with pytest.raises(ValueError, match="the model broke"):
        do(config(clip, out), Dies(fail_at=fail_at))
    assert unfinished(out) == kept
    assert os.listdir(tmp_path) == (["out.mp4.part"] if kept else [])
    do(config(clip, out, resume=True))
    assert out.read_bytes() == golden


def test_a_disk_that_fills_while_the_segments_are_joined(clip, small_disk):
    """They fit once, not twice; what is done is kept, and the half-joined file is not."""
    folder = small_disk(1_600_000)
    source = folder.parent / "noise.mkv"
    media.ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=30:d=2,noise=alls=90:allf=t", "-c:v", "ffv1", source)
    out = folder / "out.mkv"
    with pytest.raises(MediaError, match="the disk is full") as caught:
        do(config(source, out, codec="ffv1"))
    assert "60 frames are kept" in caught.value.remedy and not out.exists()
    assert not list(job_path(out).glob("whole*"))
    subprocess.run(["mount", "-o", "remount,size=20000000", folder], check=True)
    document, _ = do(config(source, out, codec="ffv1", resume=True))
    assert document["frames"] == 0 and media.probe(out).frames == 60


@pytest.mark.parametrize("resume", [False, True])
def test_ctrl_c_finishes_the_file_and_keeps_the_job_where_that_was_asked(clip, golden, tmp_path, resume, monkeypatch):
    monkeypatch.setenv("FAKE_MODEL_MS", "10")
    out, stop = tmp_path / "out.mp4", StopSwitch()

    class Stops(FakeModels):
        def session(self, *arguments):
            made = super().session(*arguments)
            step = made.step
            made.step = lambda rgb: (stop.stop("SIGINT") if made.frames == 33 else None, step(rgb))[1]
            return made

    document, ui = do(config(clip, out, resume=resume), Stops(), stop)
    assert document["interrupted"] and 34 <= media.probe(out).frames == document["frames"] < 60
    kept = document["frames"] // SEGMENT * SEGMENT
    assert unfinished(out) == (kept if resume else 0)
    assert job_path(out).exists() == resume
    if resume:
        assert any(f"{kept} frames are kept" in note for note in ui.notes)
        do(config(clip, out, resume=True, overwrite=True))
        assert out.read_bytes() == golden


def test_the_disk_is_full_and_then_it_is_not(clip, small_disk):
    noise = media.ffmpeg
    folder = small_disk(700_000)
    source = folder.parent / "noise.mkv"
    noise("-f", "lavfi", "-i", "testsrc2=s=96x64:r=30:d=2,noise=alls=90:allf=t", "-c:v", "ffv1", source)
    out = folder / "out.mkv"
    wanted = config(source, out, codec="ffv1")
    with pytest.raises(MediaError, match="the disk is full") as caught:
        do(wanted)
    kept = unfinished(out)
    assert caught.value.exit_code == 3 and not out.exists()
    assert kept >= SEGMENT and f"{kept} frames are kept: add --resume" in caught.value.remedy
    subprocess.run(["mount", "-o", "remount,size=20000000", folder], check=True)
    document, _ = do(replace(wanted, resume=True))
    assert document["resumed_at_frame"] == kept and media.probe(out).frames == 60


def test_an_encoder_that_is_killed(clip, golden, tmp_path):
    out = tmp_path / "out.mp4"

    class Kills(FakeModels):
        def session(self, *arguments):
            made = super().session(*arguments)
            step = made.step

            def kill(rgb):
                if made.frames == 24:
                    time.sleep(0.2)  # the segment before is whole by now
                    (encoder,) = [pid for pid in children() if "piece-00002" in command_of(pid)]
                    os.kill(encoder, signal.SIGKILL)
                return step(rgb)

            made.step = kill
            return made

    with pytest.raises(MediaError, match=r"could not write .*out.mp4: .*SIGKILL") as caught:
        do(config(clip, out), Kills())
    assert caught.value.exit_code == 3 and unfinished(out) == 20 and not out.exists()
    do(config(clip, out, resume=True))
    assert out.read_bytes() == golden


def children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
