"""Patience of a live run: sources that hang, silence on standard input, a stopped process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import media, senders
from helpers.fakes import FakeModels, RecordingUi
from helpers.paths import FAKES

from mirage_cli.config import LiveConfig
from mirage_cli.errors import MediaError
from mirage_cli.runs import live

pytestmark = pytest.mark.slow


def test_a_source_that_hangs_ends_with_what_it_gave(tmp_path, monkeypatch):
    """A named pipe whose writer stops in the middle."""
    monkeypatch.setattr("mirage_cli.inputs.pipe.HEAD_PAUSE_S", 0.1)
    clip = media.clip(tmp_path / "in.mkv", seconds=1.0, sound=None)
    data = clip.read_bytes()
    fifo, out, held = tmp_path / "fifo", tmp_path / "out.mp4", threading.Event()
    os.mkfifo(fifo)

    def feed():
        with open(fifo, "wb") as pipe:
            pipe.write(data[: int(len(data) * 0.7)])
            pipe.flush()
            held.wait(20)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    ui = RecordingUi()
    with pytest.raises(MediaError, match="fifo has given no frame for 0.7 s") as caught:
        live.run(
            LiveConfig(input=str(fifo), output=str(out), prompts=("night",), window=False, timeout_seconds=0.7),
            ui,
            models=FakeModels(),
            keys=False,
        )
    held.set()
    assert caught.value.exit_code == 3 and media.probe(out).frames >= 10
    assert any("what came before the source failed" in note for note in ui.notes)


def test_standard_input_that_gives_nothing(monkeypatch):
    read, write = os.pipe()
    with os.fdopen(read) as silent:
        monkeypatch.setattr("sys.stdin", silent)
        with pytest.raises(MediaError, match="standard input gave nothing within 0.3 s"):
            live.run(
                LiveConfig(input="-", prompts=("night",), window=False, timeout_seconds=0.3),
                RecordingUi(),
                models=FakeModels(),
                keys=False,
            )
    os.close(write)


def test_a_stopped_process_goes_on_and_blames_nobody(tmp_path):
    """A second and a half of SIGSTOP, as under a closed lid, with a patience of one."""
    program = [sys.executable, str(FAKES), "live", "--input", "test"]
    done = subprocess.Popen(
        [
            *program,
            "-p",
            "night",
            "--no-window",
            "--size",
            "64x48",
            "--fps",
            "50",
            "--frames",
            "60",
            "--timeout",
            "1",
            "--json",
            "-o",
            str(tmp_path / "o.mkv"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    senders.wait_for((tmp_path / "o.mkv.part").exists, 30.0)  # the run begins
    time.sleep(0.3)
    done.send_signal(signal.SIGSTOP)
    time.sleep(1.6)
    done.send_signal(signal.SIGCONT)
    out, err = done.communicate(timeout=20)
    document = json.loads(out)
    assert done.returncode == 0, err
    assert document["frames"] == 60 and document["seconds"] > 1.5
    # Nothing is caught up: were the missed 75 frames given at once, most would have been dropped.
    assert document["dropped"] < 20 and document["latency_ms"]["end_to_end"]["p50"] < 40
