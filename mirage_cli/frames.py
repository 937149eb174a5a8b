"""The frame, and what gives and takes frames.

This module imports nothing of the project, so everyone may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mirage_cli.measure import Stats


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
        samples: int16 [samples, 2], 48,000 a second.
        pts_seconds: of the first sample, on the clock of the same source's frames.
    """

    samples: np.ndarray
    pts_seconds: float


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


@runtime_checkable
class FrameSource(Protocol):
    """Gives frames in order. Iterate once; ``close`` is idempotent and may be called early.

    ``warnings`` collects plain sentences for the user (a truncated file, say); read it at the end.
    ``live`` is True when frames come at their own pace and may be dropped (cameras, streams).
    A source may have ``pausing``, True while it waits on purpose or watches its own time limits,
    ``state``, a few words for the user about its connection, and ``sound``, a ``sound_line.SoundLine``
    that it fills while it is iterated.
    """

    info: StreamInfo
    live: bool
    warnings: list[str]

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


@runtime_checkable
class FrameSink(Protocol):
    """Takes frames in order.

    ``close(commit=True)`` finishes the output and puts it in its final place; with
    ``commit=False`` it is discarded and nothing is left behind. Idempotent.

    ``warnings`` collects plain sentences for the user (sound that could not be kept, say); read it
    after ``close``. A sink that takes sound beside the frames has ``write_sound(sound: Sound)``; one
    that may have a connection to wait for has ``pausing`` and ``state`` as a source does.
    """

    warnings: list[str]

    def write(self, frame: Frame) -> None: ...

    def close(self, commit: bool = True) -> None: ...


class Wrapper:
    """What a source or sink around another one, ``inner``, says as that one says it.

    A wrapper that has something to add overrides it.
    """

    inner: Any

    @property
    def warnings(self) -> list[str]:
        return self.inner.warnings

    @property
    def pausing(self) -> bool:
        return getattr(self.inner, "pausing", False)

    @property
    def state(self) -> str:
        return getattr(self.inner, "state", "")


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
