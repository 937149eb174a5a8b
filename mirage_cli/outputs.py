"""Several outputs at once, of which one may fail without taking the others along."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mirage_cli.config import LiveConfig
from mirage_cli.errors import MediaError, MirageError
from mirage_cli.ffmpeg_tools import is_url
from mirage_cli.frames import Frame, FrameSink, StreamInfo
from mirage_cli.image_frames import ImageSink, is_image, is_pattern
from mirage_cli.push_sink import PushSink
from mirage_cli.virtual_camera import VirtualCameraSink, is_virtual_camera

PIPE = "-"


class FanOut:
    """Gives each frame to several sinks, by name; one that fails is left out from then on.

    The run goes on while one of them lives. ``close(commit=True)`` finishes the others and then
    raises the first error.
    """

    def __init__(
        self, sinks: list[tuple[str, FrameSink]], tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self.sinks, self._tell = sinks, tell
        self._alive = list(sinks)
        self._errors: list[MirageError] = []

    @property
    def warnings(self) -> list[str]:
        return [warning for _, sink in self.sinks for warning in sink.warnings]

    def write(self, frame: Frame) -> None:
        for item in list(self._alive):
            name, sink = item
            try:
                sink.write(frame)
            except MirageError as error:
                self._alive.remove(item)
                self._errors.append(error)
                sink.close(commit=False)
                if not self._alive:
                    raise
                self._tell(f"{error.message}; {name} is left out, the other outputs go on")

    def close(self, commit: bool = True) -> None:
        first: Exception | None = self._errors[0] if self._errors else None
        whole = []
        for name, sink in self._alive:
            try:
                sink.close(commit)
                whole.append(name)
            except Exception as error:  # noqa: BLE001  the other sinks are closed all the same
                first = first or error
        self._alive, self._errors = [], []
        if first is not None and commit:
            if isinstance(first, MirageError) and whole:
                first.remedy = f"{', '.join(whole)}: whole. {first.remedy}"
            raise first


def open_live_output(
    target: str, config: LiveConfig, info: StreamInfo, tell: Callable[[str], None], **options: Any
) -> FrameSink:
    """One output of ``mirage live``.

    Args:
        target: a file, pictures, an address, a virtual camera, or ``-``.
        info: of the frames to come.
        tell: gets sentences about connections.
        options: of ``open_output``.

    Raises:
        MediaError, UsageProblem: it cannot be opened.
    """
    from mirage_cli.video_out import open_output

    if is_virtual_camera(target):
        return VirtualCameraSink(target, info.width, info.height, config.fps or info.fps or 30.0)
    if is_image(target):
        return ImageSink(target, overwrite=bool(config.overwrite) or not is_pattern(target))
    options = {"codec": config.codec, "crf": config.crf, "overwrite": True, **options}
    if target == PIPE:
        options["form"] = config.format

    is_playlist = target.lower().endswith(".m3u8")

    def connect() -> Any:
        return open_output(target, info, low_delay=is_url(target) or is_playlist, **options)

    if not is_url(target):
        return connect()
    return PushSink(
        shown_target(target), connect, timeout_seconds=config.timeout_seconds,
        attempts=config.reconnect, tell=tell,
    )  # fmt: skip


def targets_of(config: LiveConfig) -> list[str]:
    """All outputs that were named."""
    return [target for target in (config.output, *config.more_outputs) if target is not None]


def live_info(info: StreamInfo, size: tuple[int, int]) -> StreamInfo:
    """What the frames of a live run are: of that size, with gaps where frames are dropped."""
    return replace(
        info, width=size[0], height=size[1], frame_count=None, duration_seconds=None,
        variable_rate=True, has_audio=False,
    )  # fmt: skip


def shown_target(target: str) -> str:
    """An output for people and logs; the last part of an rtmp address is the stream key."""
    if target == PIPE:
        return "standard output"
    if not is_url(target):
        return target if is_virtual_camera(target) else os.path.basename(target)
    scheme, _, rest = target.partition("://")
    host, slash, path = rest.rpartition("@")[2].partition("?")[0].partition("/")
    if scheme.startswith("rtmp") and path.count("/"):
        path = path.rpartition("/")[0] + "/..."
    return f"{scheme}://{host}{slash}{path}"


def check_targets(targets: list[str], check: Callable[[str], None]) -> None:
    """``check`` each output that is a file.

    Raises:
        MediaError: two names lead to one file, or what ``check`` raises.
    """
    seen: dict[str, str] = {}
    for target in targets:
        if target == PIPE or is_url(target) or is_virtual_camera(target):
            continue
        real = os.path.realpath(target)
        if real in seen:
            raise MediaError(f"{target!r} and {seen[real]!r} are the same file", "Leave one away.")
        seen[real] = target
        check(target)
