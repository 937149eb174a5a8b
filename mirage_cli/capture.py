"""Live sources that need no device: the moving test picture, and files played at their own pace."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace

import cv2
import numpy as np

from mirage_cli.frames import Frame, FrameSource, StreamInfo, Wrapper
from mirage_cli.media.sound_line import SoundLine

Clock = Callable[[], float]

SLEPT_SECONDS = 1.0
"""A source that is later than this was asleep (a stopped process, a closed lid): it goes on from
where it was instead of catching up."""
LET_GO_SECONDS = 2.0
"""How long the end waits for a source that is just being opened; later it closes by itself."""
AHEAD_SECONDS = 2.0
"""How long before its end a looped file is opened again: more than that takes on a busy machine."""


class TestPicture:
    """A landscape that scrolls, a sun that wanders and a clock: a live source with no camera.

    The same seed and size give the same frames.

    Args:
        width, height: pixels.
        fps: frames a second, of the pictures and of the pace.
        paced: wait for each frame's time; False gives frames as fast as they are taken.
        frames: end after this many; None for no end.
    """

    __test__ = False  # the name is not a test case's

    def __init__(
        self,
        width: int = 512,
        height: int = 288,
        fps: float = 30.0,
        *,
        paced: bool = True,
        frames: int | None = None,
        seed: int = 0,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.live = self.pausing = paced
        self.warnings: list[str] = []
        self.info = StreamInfo(
            width=width, height=height, fps=fps, frame_count=frames, name="test picture"
        )
        self._frames, self._clock = frames, clock
        self._closed = threading.Event()
        self._layers = _landscape(width, height, np.random.default_rng(seed))

    def __iter__(self) -> Iterator[Frame]:
        begin = self._clock()
        index = 0
        while not self._closed.is_set() and (self._frames is None or index < self._frames):
            pts = index / self.info.fps
            if self.live:
                late = self._clock() - begin - pts
                if late > SLEPT_SECONDS:
                    begin += late
                if self._closed.wait(max(0.0, -late)):
                    return
            yield Frame(self.draw(pts), pts, index)
            index += 1

    def draw(self, time_seconds: float) -> np.ndarray:
        """The picture at a time: uint8 [H, W, 3]."""
        width, height = self.info.width, self.info.height
        rgb = self._layers[0][0].copy()
        sun_x = width * (0.5 + 0.38 * math.sin(0.5 * time_seconds))
        sun_y = height * (0.26 + 0.12 * math.cos(0.9 * time_seconds))
        radius = max(2, int(0.09 * height))
        cv2.circle(rgb, (int(sun_x * 16), int(sun_y * 16)), radius * 16, (255, 236, 170), -1, 16, 4)
        for picture, mask, speed in self._layers[1:]:
            shift = int(speed * time_seconds * width) % picture.shape[1]
            view = picture[:, shift : shift + width]
            cut = mask[:, shift : shift + width]
            if view.shape[1] < width:  # the panorama begins again
                rest = width - view.shape[1]
                view = np.concatenate([view, picture[:, :rest]], axis=1)
                cut = np.concatenate([cut, mask[:, :rest]], axis=1)
            cv2.copyTo(view, cut, rgb)
        if height >= 96 and width >= 160:
            scale = height / 480.0
            thick = max(1, int(2 * scale))
            clock = f"{time_seconds:7.2f} s"
            for shift, tone in ((thick, (20, 20, 20)), (0, (250, 250, 250))):
                place = (int(0.02 * width) + shift, int(0.96 * height) + shift)
                cv2.putText(
                    rgb, clock, place, cv2.FONT_HERSHEY_SIMPLEX, scale, tone, thick, cv2.LINE_AA
                )
        return rgb

    def close(self) -> None:
        self._closed.set()


def _landscape(
    width: int, height: int, random: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Sky, and panoramas (rgb, mask, screens a second) of hills and of a meadow with trees."""
    rows = np.linspace(0.0, 1.0, height)[:, None, None]
    sky = (1 - rows) * np.array([70, 130, 215.0]) + rows * np.array([235, 215, 190.0])
    sky = np.broadcast_to(sky, (height, width, 3)).astype(np.uint8).copy()
    layers = [(sky, np.full((height, width), 255, np.uint8), 0.0)]
    span = 4 * width
    columns = np.arange(span)
    looks = (  # top of the ridge, its swing, colour, screens a second
        (0.52, 0.12, (110, 125, 160), 0.02),
        (0.62, 0.09, (80, 125, 85), 0.06),
        (0.78, 0.05, (95, 150, 60), 0.15),
    )
    for number, (top, swing, colour, speed) in enumerate(looks):
        ridge = np.full(span, top)
        for wave in range(1, 6):  # whole waves a panorama, so that it joins up
            turns = wave * (2 + number)
            phase = random.uniform(0, 2 * math.pi)
            ridge += swing / wave * 0.6 * np.sin(2 * math.pi * turns * columns / span + phase)
        edge = (np.clip(ridge, 0.05, 0.97) * height).astype(int)
        depth = np.arange(height)[:, None] - edge[None, :]
        mask = np.where(depth >= 0, 255, 0).astype(np.uint8)
        shade = np.clip(1.1 - 0.9 * depth / height, 0.5, 1.15)[..., None]
        grain = random.normal(0.0, 7.0, (height, span, 1))
        picture = np.clip(np.array(colour) * shade + grain, 0, 255).astype(np.uint8)
        if number == 2:
            _plant_trees(picture, mask, edge, random)
        layers.append((picture, mask, speed))
    return layers


def _plant_trees(
    picture: np.ndarray, mask: np.ndarray, edge: np.ndarray, random: np.random.Generator
) -> None:
    height, span = mask.shape
    for place in random.uniform(0.05, 0.95, 14):
        x = int(place * span)
        size = int(height * random.uniform(0.07, 0.15))
        base = int(edge[x]) + size // 3
        green = tuple(int(v) for v in random.integers((20, 80, 20), (90, 140, 50)))
        half = max(1, size // 12)
        crown = (x, base - size - size // 3)
        for canvas, bark, leaf in ((picture, (96, 66, 40), green), (mask, 255, 255)):
            cv2.rectangle(canvas, (x - half, base - size), (x + half, base), bark, -1)
            cv2.circle(canvas, crown, int(size * 0.7), leaf, -1, cv2.LINE_AA)


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
        self,
        source: FrameSource,
        *,
        reopen: Callable[[], FrameSource] | None = None,
        clock: Clock = time.perf_counter,
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
