"""Live sources that need no device: the moving test picture, and files played at their own pace."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace

import cv2

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSource, Wrapper
from mirage_cli.media.sound_line import SoundLine

Clock = Callable[[], float]

SLEPT_SECONDS = 1.0
"""A source that is later than this was asleep (a stopped process, a closed lid): it goes on from
where it was instead of catching up."""
LET_GO_SECONDS = 2.0
"""How long the end waits for a source that is just being opened; later it closes by itself."""
AHEAD_SECONDS = 2.0
"""How long before its end a looped file is opened again: more than that takes on a busy machine."""


class PacedSource(Wrapper):
    """Plays another source at its own pace, so that a file behaves like a camera.

    A frame is given when its time has come, never before; when the taker is late the clock is not
    moved, so frames follow at once until the pace is met again; later than ``SLEPT_SECONDS``, it is.

    Args:
        reopen: opens the source again, to begin anew at its end; None plays it once. Called on a
            thread of its own, ``AHEAD_SECONDS`` before the end where the source says how long it
            is, so that the last picture of one pass does not stand until the next is open.
    """

    live = True

    def __init__(
        self, source: FrameSource, *, reopen: Callable[[], FrameSource] | None = None, clock: Clock = time.perf_counter
    ) -> None:
        self.inner, self._reopen, self._clock = source, reopen, clock
        self._closed = threading.Event()
        self._swap = threading.Lock()
        self.sound = SoundLine() if getattr(source, "sound", None) is not None else None
        endless = {"frame_count": None, "duration_seconds": None} if reopen else {}
        self.info = replace(source.info, **endless)
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
                self._open_ahead(frame.pts_seconds)
                yield Frame(frame.rgb, pts, index)
                index += 1
            self._pass_sound(shift)
            if self._reopen is None or empty or self._closed.is_set():
                if self.sound is not None:
                    self.sound.finished = not self._closed.is_set()
                return
            self.inner.close()
            shift = last + 1.0 / max(self.info.fps, 1e-3)
            self._open_ahead(math.inf)
            while not self._closed.is_set() and not wait([self._next], 0.1).done:
                pass  # whoever waits for a frame keeps watch on the time
            with self._swap:
                if self._closed.is_set():
                    return
                opened = self._next.result()
                self._old_warnings += self.inner.warnings
                self.inner, self._next = opened, None

    def _open_ahead(self, pts_seconds: float) -> None:
        """Begins to open the next pass when this one is about to end."""
        if self._reopen is None or self._next is not None:
            return
        length = self.inner.info.duration_seconds
        if pts_seconds >= (math.inf if length is None else length - AHEAD_SECONDS):
            with self._swap:
                if not self._closed.is_set():
                    self._next = _on_a_thread(self._reopen)

    def _pass_sound(self, shift_seconds: float) -> None:
        line = getattr(self.inner, "sound", None)
        if self.sound is not None and line is not None:
            self.sound.move_from(line, shift_seconds)

    def close(self) -> None:
        self._closed.set()
        with self._swap:
            self.inner.close()
            if self._next is not None:
                self._next.add_done_callback(_close_opened)
                wait([self._next], LET_GO_SECONDS)


def _on_a_thread(open_source: Callable[[], FrameSource]) -> Future[FrameSource]:
    """Opens a source on a thread that keeps nobody from ending, as those of an executor would."""
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


class ResizedSource(Wrapper):
    """Gives another source's frames at a given size (for pipes, whose size is known too late)."""

    def __init__(self, source: FrameSource, size: tuple[int, int]) -> None:
        self.inner, self._size = source, size
        self.live = source.live
        self.info = replace(source.info, width=size[0], height=size[1])

    @property
    def sound(self) -> SoundLine | None:
        return getattr(self.inner, "sound", None)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.inner:
            rgb = cv2.resize(frame.rgb, self._size, interpolation=cv2.INTER_AREA)
            yield Frame(rgb, frame.pts_seconds, frame.index)

    def close(self) -> None:
        self.inner.close()


def quiet_opencv() -> None:
    """OpenCV writes its own warnings to stderr, across the dashboard; ours say it better."""
    for place in (getattr(cv2.utils, "logging", None), cv2):  # OpenCV 5, and those before
        if hasattr(place, "setLogLevel"):
            place.setLogLevel(0)
            return


class SkippingSource:
    """Another source without its first frames, which are decoded and let go.

    Decoding from the start is what gives the very same frames again; it is much faster than the
    model.
    """

    def __init__(self, source: FrameSource, frames: int) -> None:
        self.source, self.frames = source, frames
        self.live = source.live
        left = None if source.info.frame_count is None else source.info.frame_count - frames
        self.info = replace(source.info, frame_count=left)
        self.pausing = True

    @property
    def warnings(self) -> list[str]:
        return self.source.warnings

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.source:
            if frame.index >= self.frames:
                self.pausing = getattr(self.source, "pausing", False)
                yield frame

    def close(self) -> None:
        self.source.close()


class LoopedSource:
    """A clip played again and again: a ``FrameSource`` without an end.

    ``rewound`` tells that the last frame was the first after a rewind: opening a file takes long
    and is no part of a steady stream, so such a frame is not counted.
    """

    live = False

    def __init__(self, open_source: Callable[[], FrameSource]) -> None:
        self._open = open_source
        self._source = open_source()
        self.info = replace(self._source.info, frame_count=None, duration_seconds=None)
        self.warnings: list[str] = []
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
        """Let go of the file."""
        self._source.close()
