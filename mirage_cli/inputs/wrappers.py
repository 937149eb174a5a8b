"""Sources around other sources: played at their own pace, scaled, without their first frames, looped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace

import cv2

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSource, SoundLine, SourceWrapper

Clock = Callable[[], float]

SLEPT_SECONDS = 1.0
"""A source that is later than this was suspended (a stopped process, a closed lid): it continues from
where it was instead of catching up."""
CLOSE_SECONDS = 2.0
"""How long ``close`` waits for a source that is just being opened; after that it closes by itself."""
REOPEN_SECONDS = 2.0
"""How long before its end a looped file is opened again: more than that takes on a busy machine."""


class PacedSource(SourceWrapper):
    """Plays another source at its own pace, so that a file behaves like a camera.

    A frame is given at its time, never before. When the consumer is late, frames follow without a pause until the
    pace is met again; when it is later than ``SLEPT_SECONDS``, the clock is set back instead.

    Args:
        reopen: opens the source again, to loop it; None plays it once. Called on a separate thread,
            ``REOPEN_SECONDS`` before the end where the length is known, so that the picture does not freeze
            until the next pass is open.
    """

    sound: SoundLine | None = None

    def __init__(
        self, source: FrameSource, *, reopen: Callable[[], FrameSource] | None = None, clock: Clock = time.perf_counter
    ) -> None:
        super().__init__(source)
        self.live = True
        self._reopen, self._clock = reopen, clock
        self._closed = threading.Event()
        self._swap = threading.Lock()
        self.sound = None if source.sound is None else SoundLine()
        if reopen is not None:
            self.info = replace(source.info, frame_count=None, duration_seconds=None)
        self._old_warnings: list[str] = []
        self._waiting = False
        self._next: Future[FrameSource] | None = None

    @property
    def pausing(self) -> bool:
        """It waits for a frame's time, or for a stream that keeps its own watch."""
        return self._waiting or super().pausing

    @property
    def warnings(self) -> list[str]:
        """Of all passes, each once."""
        return list(dict.fromkeys(self._old_warnings + list(self.inner.warnings)))

    def __iter__(self) -> Iterator[Frame]:
        begin: float | None = None
        index, shift = 0, 0.0
        while True:
            last, empty = 0.0, True
            for frame in self.inner:
                if begin is None:
                    begin = self._clock()
                empty = False
                pts = last = frame.pts_seconds + shift
                late = self._clock() - begin - pts
                if late > SLEPT_SECONDS:
                    begin += late
                self._waiting = True
                if self._closed.wait(max(0.0, -late)):
                    return
                self._waiting = False
                self._pass_sound(shift)
                self._open_next(frame.pts_seconds)
                yield Frame(frame.rgb, pts, index)
                index += 1
            self._pass_sound(shift)
            if self._reopen is None or empty or self._closed.is_set():
                if self.sound is not None:
                    self.sound.finished = not self._closed.is_set()
                return
            self.inner.close()
            shift = last + 1.0 / max(self.info.fps, 1e-3)
            self._open_next(math.inf)
            opening = self._next
            while not self._closed.is_set() and opening is not None and not wait([opening], 0.1).done:
                pass  # the pipeline's watchdog limits this wait
            with self._swap:
                if self._closed.is_set() or opening is None:
                    return
                opened = opening.result()
                self._old_warnings += self.inner.warnings
                self.inner, self._next = opened, None

    def _open_next(self, pts_seconds: float) -> None:
        """Begins to open the next pass when this one is about to end."""
        if self._reopen is None or self._next is not None:
            return
        length = self.inner.info.duration_seconds
        if pts_seconds >= (math.inf if length is None else length - REOPEN_SECONDS):
            with self._swap:
                if not self._closed.is_set():
                    self._next = _on_a_thread(self._reopen)

    def _pass_sound(self, shift_seconds: float) -> None:
        if self.sound is not None and self.inner.sound is not None:
            self.sound.move_from(self.inner.sound, shift_seconds)

    def close(self) -> None:
        self._closed.set()
        with self._swap:
            self.inner.close()
            if self._next is not None:
                self._next.add_done_callback(_close_opened)
                wait([self._next], CLOSE_SECONDS)


def _on_a_thread(open_source: Callable[[], FrameSource]) -> Future[FrameSource]:
    """Opens a source on a daemon thread: unlike those of an executor it does not keep the process from ending."""
    future: Future[FrameSource] = Future()

    def run() -> None:
        try:
            future.set_result(open_source())
        except BaseException as problem:
            future.set_exception(problem)

    threading.Thread(target=run, name="mirage-opening", daemon=True).start()
    return future


def _close_opened(future: Future[FrameSource]) -> None:
    if future.exception() is None:
        future.result().close()


class ResizedSource(SourceWrapper):
    """Gives another source's frames at a given size, for pipes: their own is known only once the decoder runs."""

    def __init__(self, source: FrameSource, size: tuple[int, int]) -> None:
        super().__init__(source)
        self._size = size
        self.info = replace(source.info, width=size[0], height=size[1])

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.inner:
            rgb = cv2.resize(frame.rgb, self._size, interpolation=cv2.INTER_AREA)
            yield Frame(rgb, frame.pts_seconds, frame.index)


class SkippingSource(SourceWrapper):
    """Another source without its first frames, which are decoded and dropped.

    Only decoding from the start gives exactly the same frames again; it is much faster than the model.
    """

    def __init__(self, source: FrameSource, frames: int) -> None:
        super().__init__(source)
        self.frames = frames
        left = None if source.info.frame_count is None else source.info.frame_count - frames
        self.info = replace(source.info, frame_count=left)
        self._skipping = True

    @property
    def pausing(self) -> bool:
        """It may take long to come to its first frame."""
        return self._skipping or super().pausing

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.inner:
            if frame.index >= self.frames:
                self._skipping = False
                yield frame


class LoopedSource(FrameSource):
    """A clip played again and again, without an end.

    Attributes:
        rewound: the last frame was the first after a rewind. Opening a file takes long and is not part of a
            steady stream, so such a frame is not counted.
    """

    def __init__(self, open_source: Callable[[], FrameSource]) -> None:
        super().__init__()
        self._open = open_source
        self._source = open_source()
        self.info = replace(self._source.info, frame_count=None, duration_seconds=None)
        self.rewound = False

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            self.rewound = index > 0
            before = index
            for frame in self._source:
                yield Frame(frame.rgb, index / self.info.fps, index)
                index += 1
                self.rewound = False
            self._source.close()
            if index == before:
                raise MediaError(
                    f"no frame could be decoded from {self.info.name!r}",
                    "Give --input a video file, or none for the example clip.",
                )
            self._source = self._open()

    def close(self) -> None:
        self._source.close()
