"""A source and a sink around the threads of the pipeline."""

from __future__ import annotations

import threading
import time

import numpy as np

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSink, FrameSource, StreamInfo


class Source(FrameSource):
    """Frames that carry their number; a pause before each (by ``sleep``, if given); an error in place of one."""

    def __init__(self, count, pause=0.0, fail_at=None, size=(32, 16), sleep=None):
        self.info = StreamInfo(width=size[0], height=size[1], fps=30.0, frame_count=count)
        super().__init__()
        self.count, self.pause, self.fail_at = count, pause, fail_at
        self.sleep = sleep
        self.given = 0
        self.closed = threading.Event()

    def __iter__(self):
        for index in range(self.count):
            if index == self.fail_at:
                raise MediaError("the source broke")
            if self.pause and self.sleep is not None:
                self.sleep(self.pause)
            elif self.pause and self.closed.wait(self.pause):
                return
            self.given += 1
            rgb = np.full((self.info.height, self.info.width, 3), index % 256, np.uint8)
            yield Frame(rgb, index / 30.0, index)

    def close(self):
        self.closed.set()


class Sink(FrameSink):
    def __init__(self, pause=0.0, fail_at=None, sleep=time.sleep):
        super().__init__()
        self.frames: list[Frame] = []
        self.pause, self.fail_at, self.sleep = pause, fail_at, sleep
        self.ended: list[bool] = []

    def write(self, frame):
        if self.fail_at == len(self.frames):
            raise MediaError("the disk is full")
        self.sleep(self.pause)
        self.frames.append(frame)

    def close(self, commit=True):
        self.ended.append(commit)


def same(frame):
    return frame.rgb
