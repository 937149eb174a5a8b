"""Sound on its way past the model: from a source, beside the frames, to the outputs that take it.

    source thread --> SoundLine --> SoundCarrier (sink thread) --> write_sound of each output

Frames are styled, may be dropped, and come late; sound is left as it is and never dropped. Both carry
times of the same clock, and the container puts each sample under its picture: whatever the model
takes, they stay in step. (Sound that is copied from file to file goes another way: ``sound``.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mirage_cli.frames import Frame, FrameSink, Sound, Wrapper

RATE, CHANNELS = 48_000, 2
KEPT_SECONDS = 30.0
"""What nobody takes for so long is let go: sources that nobody listens to cost no memory."""
JITTER_SECONDS = 0.015
"""Gaps and overlaps below this are the rounding of time stamps (1 ms in RTMP) and are left alone."""
LATE_SECONDS = 2.0
"""Sound that is later than this behind its pictures keeps nobody waiting: silence takes its place."""
LONGEST_SILENCE_SECONDS = 60.0


def sound_seconds(sound: Sound) -> float:
    """How long it lasts."""
    return len(sound.samples) / RATE


class SoundLine:
    """What a source has read of its sound and no output has taken yet; for any threads.

    Attributes:
        finished: the source has come to its end; what is left belongs to the end of the output.
    """

    def __init__(self) -> None:
        self.finished = False
        self._items: deque[Sound] = deque()
        self._held = 0.0
        self._lock = threading.Lock()

    def put(self, sound: Sound) -> None:
        with self._lock:
            self._items.append(sound)
            self._held += sound_seconds(sound)
            while self._held > KEPT_SECONDS:
                self._held -= sound_seconds(self._items.popleft())

    def take(self) -> list[Sound]:
        """All there is, oldest first."""
        with self._lock:
            taken = list(self._items)
            self._items.clear()
            self._held = 0.0
        return taken

    def move_from(self, other: SoundLine, later_seconds: float) -> None:
        """Takes what another line holds, ``later_seconds`` later."""
        for sound in other.take():
            self.put(replace(sound, pts_seconds=sound.pts_seconds + later_seconds))


class SoundCarrier(Wrapper):
    """Another sink that also gets the sound of a line, ahead of each frame; see ``frames.FrameSink``."""

    def __init__(self, sink: FrameSink, line: SoundLine) -> None:
        self.inner, self._line = sink, line

    def write(self, frame: Frame) -> None:
        self.carry()
        self.inner.write(frame)

    def carry(self) -> None:
        """Gives the sink what has come."""
        for sound in self._line.take():
            self.inner.write_sound(sound)

    def close(self, commit: bool = True) -> None:
        if commit and self._line.finished:  # the last picture may end before the sound does
            self.carry()
        self.inner.close(commit)


class SoundFeed:
    """Lays sound beside the pictures of one output, from its first picture on, without gap or overlap.

    Args:
        write: gets (number of the first sample, int16 [samples, 2]), in order and without gaps.
    """

    def __init__(self, write: Callable[[int, np.ndarray], None]) -> None:
        self._write = write
        self._begin: float | None = None
        self._end = 0  # samples laid so far
        self._early = SoundLine()

    def picture(self, pts_seconds: float) -> None:
        """A picture of this time is about to be written."""
        if self._begin is None:
            self._begin = pts_seconds
            for sound in self._early.take():
                self.take(sound)
        due = round((pts_seconds - self._begin - LATE_SECONDS) * RATE)
        if due > self._end:
            self._silence(due - self._end)

    def take(self, sound: Sound) -> None:
        """The next piece; what lies before the first picture is left out."""
        if self._begin is None:
            self._early.put(sound)
            return
        samples = sound.samples
        gap = round((sound.pts_seconds - self._begin) * RATE) - self._end
        if abs(gap) <= JITTER_SECONDS * RATE and self._end:
            gap = 0
        if gap > 0:
            self._silence(gap)
        samples = samples[max(0, -gap) :]
        if len(samples):
            self._write(self._end, samples)
            self._end += len(samples)

    def _silence(self, count: int) -> None:
        skipped = max(0, count - round(LONGEST_SILENCE_SECONDS * RATE))
        self._end += skipped  # a jump in time says the same
        count -= skipped
        while count:
            part = min(count, RATE)
            self._write(self._end, np.zeros((part, CHANNELS), np.int16))
            self._end += part
            count -= part
