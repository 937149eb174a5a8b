"""The frame and its sound, and the base classes of what gives and takes them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mirage_cli.measure import Stats

MEDIA_MAX_SIDE = 16384
"""Pixels a side of the largest frame that is read or written."""
SOUND_RATE = 48_000
"""Samples a second of all sound that passes through."""
SOUND_KEPT_SECONDS = 30.0
"""Sound that no output has taken for this long is dropped: sources without a listener cost no memory."""


class Upload(Protocol):
    """A picture on its way to the GPU: ``stream.copies.Upload``."""

    @property
    def picture(self) -> np.ndarray:
        """The same on the host: uint8 [H, W, 3]."""
        ...


class Pending(Protocol):
    """A finished picture whose copy from the GPU may still be under way: ``stream.copies.Pending``."""

    def picture(self) -> np.ndarray:
        """uint8 [H, W, 3] on the host; waits for the copy the first time."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture with its time.

    Attributes:
        rgb: uint8 [H, W, 3], RGB, C-contiguous, full range, upright (rotation already applied).
        pts_seconds: presentation time from the first frame of the source, which is 0.0 for a
            file read from its start.
        index: 0, 1, 2, ... in source order; gaps are dropped frames.
        upload: the same picture on its way to the GPU, or None.
    """

    rgb: np.ndarray
    pts_seconds: float
    index: int
    upload: Upload | None = None


@dataclass(frozen=True, slots=True)
class Sound:
    """Some sound with its time.

    Attributes:
        samples: int16 [samples, 2], ``SOUND_RATE`` a second.
        pts_seconds: of the first sample, on the clock of the same source's frames.
    """

    samples: np.ndarray
    pts_seconds: float

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / SOUND_RATE


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a source before its first frame.

    Attributes:
        width, height: pixels of the frames that the source gives, after rotation and scaling.
        fps: average frames a second; for cameras the nominal rate.
        frame_count: frames expected, None where nobody knows (streams, pipes).
        duration_seconds: None where nobody knows.
        variable_rate: the gaps between frames differ; keep pts_seconds when writing.
        has_audio: the source carries at least one audio track.
        name: what to show the user.
        pixel_aspect: sample aspect ratio as (num, den); (1, 1) is square.
    """

    width: int
    height: int
    fps: float
    frame_count: int | None = None
    duration_seconds: float | None = None
    variable_rate: bool = False
    has_audio: bool = False
    name: str = ""
    pixel_aspect: tuple[int, int] = (1, 1)


class SoundLine:
    """What a source has read of its sound and no output has taken yet; for any threads.

    Attributes:
        finished: the source has come to its end; what is left belongs to the end of the output.
    """

    def __init__(self) -> None:
        self.finished = False
        self._items: deque[Sound] = deque()
        self._held_seconds = 0.0
        self._lock = threading.Lock()

    def put(self, sound: Sound) -> None:
        """Add sound; the oldest is dropped where more than ``SOUND_KEPT_SECONDS`` are held."""
        with self._lock:
            self._items.append(sound)
            self._held_seconds += sound.seconds
            while self._held_seconds > SOUND_KEPT_SECONDS:
                self._held_seconds -= self._items.popleft().seconds

    def take(self) -> list[Sound]:
        """All there is, oldest first."""
        with self._lock:
            taken = list(self._items)
            self._items.clear()
            self._held_seconds = 0.0
        return taken

    def move_from(self, other: SoundLine, later_seconds: float) -> None:
        """Take what another line holds, ``later_seconds`` later."""
        for sound in other.take():
            self.put(replace(sound, pts_seconds=sound.pts_seconds + later_seconds))


class FrameSource(ABC):
    """Gives frames in order; the base of every source. Iterate once, in one thread.

    A source overrides what differs from the defaults here, by an attribute or a property of its class.

    Attributes:
        info: known before the first frame.
        live: frames come at their own pace and may be dropped (cameras, streams).
    """

    info: StreamInfo
    live: bool = False

    def __init__(self) -> None:
        self._warnings: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """Plain sentences for the user (a truncated file, say); read them at the end."""
        return self._warnings

    @property
    def pausing(self) -> bool:
        """It waits on purpose, or watches its own time limits: no watchdog is needed."""
        return False

    @property
    def state(self) -> str:
        """A few words for the user about its connection; "" where it has none."""
        return ""

    @property
    def sound(self) -> SoundLine | None:
        """Filled while the frames are iterated; None where there is no sound to pass on."""
        return None

    @property
    def reopens(self) -> bool:
        """Whether the input can be opened again: a pipe can be read only once."""
        return True

    @property
    def own_size(self) -> tuple[int, int]:
        """Width and height of the input itself in pixels, before it is scaled."""
        return self.info.width, self.info.height

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    @abstractmethod
    def close(self) -> None:
        """End early, or after the last frame. Idempotent; may come from any thread."""


class FrameSink(ABC):
    """Takes frames in order; the base of every sink.

    A sink overrides what differs from the defaults here, by an attribute or a property of its class.

    Args:
        warnings: a list to add to; a new one by default.
    """

    def __init__(self, warnings: list[str] | None = None) -> None:
        self._warnings: list[str] = [] if warnings is None else warnings

    @property
    def warnings(self) -> list[str]:
        """Plain sentences for the user (sound that could not be kept, say); read them after ``close``."""
        return self._warnings

    @property
    def pausing(self) -> bool:
        """``write`` may wait, and watches its own time limits: no watchdog is needed."""
        return False

    @property
    def state(self) -> str:
        """A few words for the user about its connection; "" where it has none."""
        return ""

    @property
    def waits(self) -> bool:
        """Whether ``close`` returns only when somebody else has taken all: a pipe or a connection."""
        return False

    @abstractmethod
    def write(self, frame: Frame) -> None: ...

    def write_sound(self, sound: Sound) -> None:
        """Take sound that belongs to the frames. Most sinks have no use for it."""
        return

    @abstractmethod
    def close(self, commit: bool = True) -> None:
        """Finish the output and put it in its final place; with ``commit=False`` discard it. Idempotent."""


class SourceWrapper(FrameSource):
    """Base of a source around another one, ``inner``: what it does not override is forwarded."""

    def __init__(self, inner: FrameSource) -> None:
        super().__init__()
        self.inner, self.info, self.live = inner, inner.info, inner.live

    @property
    def warnings(self) -> list[str]:
        return self.inner.warnings

    @property
    def pausing(self) -> bool:
        return self.inner.pausing

    @property
    def state(self) -> str:
        return self.inner.state

    @property
    def sound(self) -> SoundLine | None:
        return self.inner.sound

    @property
    def reopens(self) -> bool:
        return self.inner.reopens

    @property
    def own_size(self) -> tuple[int, int]:
        return self.inner.own_size

    def close(self) -> None:
        self.inner.close()


class SinkWrapper(FrameSink):
    """Base of a sink around another one, ``inner``: what it does not override is forwarded."""

    def __init__(self, inner: FrameSink) -> None:
        super().__init__()
        self.inner = inner

    @property
    def warnings(self) -> list[str]:
        return self.inner.warnings

    @property
    def pausing(self) -> bool:
        return self.inner.pausing

    @property
    def state(self) -> str:
        return self.inner.state

    @property
    def waits(self) -> bool:
        return self.inner.waits

    def write(self, frame: Frame) -> None:
        self.inner.write(frame)

    def write_sound(self, sound: Sound) -> None:
        self.inner.write_sound(sound)

    def close(self, commit: bool = True) -> None:
        self.inner.close(commit)


class Ui(Protocol):
    """Where a run tells what it does; ``cli.py`` has the terminal's, tests have their own."""

    def note(self, text: str) -> None:
        """Something the user may want to know."""

    def warn(self, text: str) -> None:
        """Something that is not as asked for."""

    def tick(self, stats: Callable[[], Stats]) -> None:
        """Called many times a second; calls ``stats`` when it wants to draw."""

    def confirm_overwrite(self, path: str) -> bool:
        """May the file at ``path`` be replaced?"""
