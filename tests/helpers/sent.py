"""What is sent to outputs, and the check of what arrived."""

from __future__ import annotations

import time

import numpy as np

from helpers.pictures import pictures, still_info
from mirage_cli.config import LiveConfig
from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSink
from mirage_cli.inputs.file import open_file
from mirage_cli.media.place import Place
from mirage_cli.outputs.open import live_info, open_live_output

RGB = pictures(30)
INFO = live_info(still_info(fps=25.0), (64, 48))


def send(sink, count, fps=25.0, begin=0):
    """Frames at their pace."""
    started = time.perf_counter()
    for n in range(count):
        time.sleep(max(0.0, started + n / fps - time.perf_counter()))
        sink.write(Frame(RGB[(begin + n) % 30], (begin + n) / fps, begin + n))


def output(target, tell=lambda text: None, **values):
    config = LiveConfig(input="test", **{"timeout_seconds": 8.0, **values})
    return open_live_output(Place.of_output(str(target)), config, INFO, tell)


def check_received(path, least, most=30):
    with open_file(path) as source:
        frames = list(source)
    assert least <= len(frames) <= most, len(frames)
    assert frames[0].rgb.shape == (48, 64, 3)
    # They are the frames that were sent: near to one of them, and the first to an early one.
    off = [np.abs(frames[0].rgb.astype(int) - rgb).mean() for rgb in RGB]
    assert min(off) < 8.0


class Fails(FrameSink):
    def __init__(self, at=3):
        super().__init__()
        self.at, self.ended = at, []

    def write(self, frame):
        if frame.index == self.at:
            raise MediaError("the disk is full", "Free some.")

    def close(self, commit=True):
        self.ended.append(commit)
