"""What ``mirage live --input`` may be, and how each is opened."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable

from mirage_cli.config import PIPE, LiveConfig, Size, TransformConfig
from mirage_cli.errors import MediaError
from mirage_cli.frames import FrameSource, Ui
from mirage_cli.inputs.camera import CameraSource
from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.inputs.pictures import ImageSource, find_images
from mirage_cli.inputs.size import fit_source
from mirage_cli.inputs.stream import StreamSource
from mirage_cli.inputs.wrappers import PacedSource
from mirage_cli.media.addresses import (
    endless_type,
    is_broadcast,
    is_playlist,
    is_screen,
    is_url,
    screen_address,
    stream_address,
)
from mirage_cli.outputs.names import targets_of
from mirage_cli.styling.loading import ModelLoader

TRANSFORM_CPU_LIMIT: Size = (768, 432)
"""More pixels than this are scaled down by default where the model runs on a CPU."""
LIVE_CPU_LIMIT: Size = (512, 288)
"""More pixels than this are scaled down by default where the model runs on a CPU."""

TEST = "test"
TEST_SIZE: Size = (512, 288)

Clock = Callable[[], float]


def open_source(
    config: LiveConfig, models: ModelLoader, ui: Ui, clock: Clock = time.perf_counter
) -> tuple[FrameSource, Size]:
    """The source and the size of the frames that it gives.

    Raises:
        MediaError: it is not there, gives no picture, or none within ``timeout_seconds``.
        UsageProblem: a name that makes no sense.
    """
    wanted = config.size if isinstance(config.size, tuple) else None
    cpu = models.is_cpu(config.model)
    name = str(config.input)
    if config.input == TEST:
        size = wanted or TEST_SIZE
        return TestPicture(*size, fps=config.fps or 30.0, clock=clock), size
    if config.camera is not None:
        camera = CameraSource(
            config.camera,
            wanted,
            config.fps,
            tell=ui.note,
            clock=clock,
            timeout_seconds=config.timeout_seconds if config.reconnect else 0.0,
        )
        return fit_source(camera, config.size, cpu, LIVE_CPU_LIMIT, ui, None)
    if is_screen(name) or is_broadcast(name) or is_playlist(name):
        return _open_stream(config, name, cpu, ui, clock)
    if (content_type := endless_type(name)) is not None:
        return _open_stream(config, name, cpu, ui, clock, content_type)
    images = find_images(name)
    if images:
        return _open_paced(config, cpu, ui, clock, lambda at: ImageSource(images, size=at, fps=config.fps), True)
    if name == PIPE:
        _wait_for_data(config.timeout_seconds)
    from mirage_cli.inputs.file import open_file

    return _open_paced(
        config,
        cpu,
        ui,
        clock,
        lambda at: open_file(name, size=at, fps=config.fps, with_line=config.sound),
        name != PIPE,
    )


def _open_stream(
    config: LiveConfig, name: str, cpu: bool, ui: Ui, clock: Clock, content_type: str = ""
) -> tuple[FrameSource, Size]:
    """A stream or the screen; one connection, so what is too large is scaled frame by frame."""
    screen = is_screen(name)
    source = StreamSource(
        screen_address(name, config.fps) if screen else stream_address(name, content_type),
        size=config.size if isinstance(config.size, tuple) else None,
        fps=None if screen else config.fps,
        timeout_seconds=config.timeout_seconds,
        attempts=0 if screen else config.reconnect,
        tell=ui.note,
        with_line=config.sound and not screen,
        clock=clock,
    )
    # A playlist gives seconds of video at once: it is shown at the pace of its times.
    paced = PacedSource(source, clock=clock) if is_playlist(name) else source
    try:
        return fit_source(paced, config.size, cpu, LIVE_CPU_LIMIT, ui, None)
    except BaseException:
        source.close()
        raise


def _open_paced(
    config: LiveConfig, cpu: bool, ui: Ui, clock: Clock, open_at: Callable[[Size | None], FrameSource], reopens: bool
) -> tuple[FrameSource, Size]:
    """A file, played at its own pace."""
    opened = open_at(config.size if isinstance(config.size, tuple) else None)
    reopens = reopens and opened.reopens
    source, size = fit_source(opened, config.size, cpu, LIVE_CPU_LIMIT, ui, open_at if reopens else None)
    if config.loop and not reopens:
        ui.warn("--loop has no effect: what comes through a pipe can be read only once")
    reopen = (lambda: open_at(size)) if config.loop and reopens else None
    return PacedSource(source, reopen=reopen, clock=clock), size


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


def open_input(config: TransformConfig, models: ModelLoader, ui: Ui) -> tuple[FrameSource, Size, Size]:
    """The source at the size the model will run at, that size, and the input's own.

    Raises:
        MediaError: it cannot be read; UsageProblem: a range that is not allowed.
    """
    from mirage_cli.inputs.file import FileSource, open_file

    cpu = models.is_cpu(config.model)
    wanted = config.size if isinstance(config.size, tuple) else None
    images = find_images(config.input)
    if images:

        def open_images(size: Size | None) -> ImageSource:
            return ImageSource(
                images,
                size=size,
                fps=config.fps,
                start_seconds=config.start_seconds,
                duration_seconds=config.duration_seconds,
            )

        pictures = open_images(wanted)
        source, size = fit_source(pictures, config.size, cpu, TRANSFORM_CPU_LIMIT, ui, open_images)
        return source, size, pictures.own_size

    def open_at(size: Size | None) -> FileSource:
        return open_file(
            config.input,
            size=size,
            start_seconds=config.start_seconds,
            duration_seconds=config.duration_seconds,
            fps=config.fps,
            keep_sound=config.sound,
            with_line=config.sound and any(map(is_url, targets_of(config))),
        )

    opened = open_at(wanted)
    try:
        reopen = open_at if opened.reopens else None
        source, size = fit_source(opened, config.size, cpu, TRANSFORM_CPU_LIMIT, ui, reopen)
    except BaseException:
        opened.close()
        raise
    video = opened.probe.video
    have = (opened.info.width, opened.info.height)
    return source, size, video.shown_size if video else have
