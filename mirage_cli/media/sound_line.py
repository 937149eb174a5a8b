"""Sound past the model: from a source, in parallel with the frames, to the outputs that take it.

    source thread --> SoundLine --> SoundCarrier (sink thread) --> write_sound of each output

Frames are styled, may be dropped, and come late; sound is left as it is and never dropped. Both carry
times of the same clock, and the container puts each sample under its picture: whatever the model
takes, they stay in step. (Sound that is copied from file to file takes another path: ``outputs.sound_copy``.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mirage_cli.frames import SOUND_RATE as RATE, Frame, FrameSink, SinkWrapper, Sound, SoundLine

CHANNELS = 2
JITTER_SECONDS = 0.015
"""Gaps and overlaps below this are the rounding of time stamps (1 ms in RTMP) and are left alone."""
LATE_SECONDS = 2.0
"""Sound that is later than this behind its pictures is replaced by silence."""
LONGEST_SILENCE_SECONDS = 60.0


class SoundCarrier(SinkWrapper):
    """Another sink that also gets the sound of a line, ahead of each frame."""

    def __init__(self, sink: FrameSink, line: SoundLine) -> None:
        super().__init__(sink)
        self._line = line

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
    """Aligns sound with the pictures of one output, from its first picture on, without gap or overlap.

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
        """The next sound; what lies before the first picture is dropped."""
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
