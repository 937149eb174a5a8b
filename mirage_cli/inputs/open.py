"""Open what a run reads: ``open_live`` at its own pace, ``open_whole`` for all of its frames."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from mirage_cli.config import LiveConfig, Size, TransformConfig
from mirage_cli.errors import MediaError
from mirage_cli.frames import FrameSource, Ui
from mirage_cli.inputs.camera import CameraSource
from mirage_cli.inputs.file import open_file
from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.inputs.pictures import ImageSource
from mirage_cli.inputs.size import Sizing, fit_source
from mirage_cli.inputs.stream import StreamSource
from mirage_cli.inputs.wrappers import Clock, PacedSource
from mirage_cli.media.addresses import endless_type, screen_address, stream_address
from mirage_cli.media.place import Kind, Place

TRANSFORM_CPU_LIMIT: Size = (768, 432)
"""Where the model runs on a CPU, larger frames are scaled down to this many pixels by default."""
LIVE_CPU_LIMIT: Size = (512, 288)
"""The same for a live run, which cannot take seconds a frame."""
TEST_SIZE: Size = (512, 288)


@dataclass(frozen=True)
class Opened:
    """An input that is open.

    Attributes:
        source: gives frames of ``size``.
        size: width and height in pixels that the model runs at.
        input_size: those of the input itself.
    """

    source: FrameSource
    size: Size
    input_size: Size


OpenAt = Callable[[Size | None], FrameSource]
"""Opens an input with its frames scaled to a size; None keeps the input's own."""


def open_whole(place: Place, config: TransformConfig, ui: Ui, *, on_cpu: bool, with_line: bool) -> Opened:
    """An input of which every frame is taken.

    Args:
        on_cpu: the model runs on a CPU.
        with_line: decode the sound as well, for an output that gets it by ``write_sound``.

    Raises:
        MediaError: it cannot be read. UsageProblem: a range that is not allowed.
    """
    sizing = Sizing(config.size, on_cpu, TRANSFORM_CPU_LIMIT, ui.note)
    start, duration, fps = config.start_seconds, config.duration_seconds, config.fps
    pictures = place.pictures()

    def open_at(size: Size | None) -> FrameSource:
        if pictures:
            return ImageSource(pictures, size=size, fps=fps, start_seconds=start, duration_seconds=duration)
        return open_file(
            place,
            size=size,
            start_seconds=start,
            duration_seconds=duration,
            fps=fps,
            keep_sound=config.sound,
            with_line=with_line,
        )

    source = _open_fitting(open_at, sizing)
    return Opened(source, _size(source), source.own_size)


def open_live(place: Place, config: LiveConfig, ui: Ui, *, on_cpu: bool, clock: Clock = time.perf_counter) -> Opened:
    """An input at its own pace.

    Args:
        on_cpu: the model runs on a CPU.

    Raises:
        MediaError: it is not there, gives no picture, or none within ``timeout_seconds``.
        UsageProblem: a name that makes no sense.
    """
    sizing = Sizing(config.size, on_cpu, LIVE_CPU_LIMIT, ui.note)
    source: FrameSource
    match place.kind:
        case Kind.TEST:
            source = TestPicture(*(sizing.exact or TEST_SIZE), fps=config.fps or 30.0, clock=clock)
        case Kind.CAMERA:
            source = fit_source(_open_camera(place, config, ui, clock), sizing, None)
        case Kind.SCREEN | Kind.STREAM | Kind.PLAYLIST:
            source = _open_stream(place, "", config, sizing, ui, clock)
        case Kind.ADDRESS if (content_type := endless_type(place.path)) is not None:
            source = _open_stream(place, content_type, config, sizing, ui, clock)
        case _:
            source = _open_paced(place, config, sizing, ui, clock)
    return Opened(source, _size(source), source.own_size)


def _open_camera(place: Place, config: LiveConfig, ui: Ui, clock: Clock) -> FrameSource:
    timeout = config.timeout_seconds if config.reconnect else 0.0
    size = config.size if isinstance(config.size, tuple) else None
    return CameraSource(place.path, size, config.fps, tell=ui.note, clock=clock, timeout_seconds=timeout)


def _open_stream(
    place: Place, content_type: str, config: LiveConfig, sizing: Sizing, ui: Ui, clock: Clock
) -> FrameSource:
    """A stream or the screen; there is one connection, so frames that are too large are scaled one by one."""
    screen = place.kind is Kind.SCREEN
    source: FrameSource = StreamSource(
        screen_address(place.path, config.fps) if screen else stream_address(place.path, content_type),
        size=sizing.exact,
        fps=None if screen else config.fps,
        timeout_seconds=config.timeout_seconds,
        attempts=0 if screen else config.reconnect,
        tell=ui.note,
        with_line=config.sound and not screen,
        clock=clock,
    )
    if place.kind is Kind.PLAYLIST:  # gives seconds of video at once: it is shown at the pace of its times
        source = PacedSource(source, clock=clock)
    return fit_source(source, sizing, None)


def _open_paced(place: Place, config: LiveConfig, sizing: Sizing, ui: Ui, clock: Clock) -> FrameSource:
    """A file, a pipe or pictures, played at the pace of their times."""
    pictures = place.pictures()

    def open_at(size: Size | None) -> FrameSource:
        if pictures:
            return ImageSource(pictures, size=size, fps=config.fps)
        return open_file(place, size=size, fps=config.fps, with_line=config.sound)

    if place.kind is Kind.PIPE:
        _wait_for_data(config.timeout_seconds)
    source = _open_fitting(open_at, sizing)
    if config.loop and not source.reopens:
        ui.warn("--loop has no effect: what comes through a pipe can be read only once")
    size = _size(source)
    return PacedSource(source, reopen=(lambda: open_at(size)) if config.loop and source.reopens else None, clock=clock)


def _open_fitting(open_at: OpenAt, sizing: Sizing) -> FrameSource:
    """An input at the size to run at; opened again for another size than its own, or scaled where it cannot be."""
    source = open_at(sizing.exact)
    return fit_source(source, sizing, open_at if source.reopens else None)


def _size(source: FrameSource) -> Size:
    return source.info.width, source.info.height


def _wait_for_data(timeout_seconds: float) -> None:
    """Raises:
    MediaError: nothing comes through standard input.
    """
    descriptor = sys.stdin.fileno()
    if os.isatty(descriptor) or os.name == "nt":
        return
    if not select.select([descriptor], [], [], timeout_seconds)[0]:
        raise MediaError(
            f"standard input gave nothing within {timeout_seconds:g} s",
            "Check the program that writes to the pipe, or wait longer: --timeout 60",
        )
