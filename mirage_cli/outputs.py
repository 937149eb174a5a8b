"""Several outputs at once, of which one may fail without taking the others along."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mirage_cli.config import LiveConfig, TransformConfig
from mirage_cli.errors import MediaError, MirageError
from mirage_cli.frames import Frame, FrameSink, Sound, StreamInfo
from mirage_cli.inputs.pictures import ImageSink, is_image, is_pattern
from mirage_cli.media.addresses import is_url
from mirage_cli.push_sink import Patient, PushSink
from mirage_cli.virtual_camera import VirtualCameraSink, is_virtual_camera

PIPE = "-"
SETTLE_SECONDS = 0.5
"""A sink that has a frame in hand for longer than this when all are closed is stuck."""


class FanOut:
    """Gives each frame to several sinks, by name; one that fails is left out from then on.

    The run goes on while one of them lives. ``close(commit=True)`` finishes the others, files first,
    and then raises the first error. One that is stuck in a ``write`` meanwhile is discarded.

    Args:
        sinks: by name.
        tell: gets a sentence when one is left out.
        goes_on: whether the run goes on when none is left: for a preview, say.

    Attributes:
        whole: names of those that ``close`` has finished.
    """

    def __init__(
        self, sinks: list[tuple[str, FrameSink]], tell: Callable[[str], None] = lambda text: None,
        goes_on: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sinks, self._tell, self._goes_on = sinks, tell, goes_on
        self.whole: list[str] = []
        self._alive = list(sinks)
        self._errors: list[MirageError] = []
        self._turn = threading.Condition()
        self._inside: tuple[str, FrameSink] | None = None
        self._ended = False

    @property
    def warnings(self) -> list[str]:
        return [warning for _, sink in self.sinks for warning in sink.warnings]

    @property
    def pausing(self) -> bool:
        return any(getattr(sink, "pausing", False) for _, sink in self._alive)

    @property
    def inside(self) -> str:
        """The name of the sink that has a frame in hand; "" where none has."""
        inside = self._inside
        return inside[0] if inside else ""

    @property
    def state(self) -> str:
        """What is being done about connections that are lost; "" where none is."""
        states = [(name, getattr(sink, "state", "")) for name, sink in list(self._alive)]
        return "; ".join(f"{name}: {state}" for name, state in states if state not in ("", "connected"))

    def write(self, frame: Frame) -> None:
        self._each(lambda sink: sink.write(frame))

    def write_sound(self, sound: Sound) -> None:
        """For those that take it."""
        self._each(lambda sink: sink.write_sound(sound) if hasattr(sink, "write_sound") else None)

    def _each(self, work: Callable[[Any], None]) -> None:
        for item in list(self._alive):
            name, sink = item
            with self._turn:
                if self._ended:
                    return
                self._inside = item
            try:
                work(sink)
            except MirageError as error:
                if self._ended:  # it was stuck, and is being discarded by ``close``
                    return
                self._alive.remove(item)
                self._errors.append(error)
                sink.close(commit=False)
                if self._alive or self._goes_on():
                    self._tell(f"{error.message}; {name} is left out, the other outputs go on")
            finally:
                with self._turn:
                    self._inside = None
                    self._turn.notify_all()
        if not self._alive and self._errors and not self._goes_on():
            raise self._errors[-1]

    def close(self, commit: bool = True) -> None:
        with self._turn:
            self._ended = True
            if commit:
                self._turn.wait_for(lambda: self._inside is None, SETTLE_SECONDS)
            stuck = self._inside
        first: Exception | None = self._errors[0] if self._errors else None
        alive, self._alive, self._errors, self.whole = self._alive, [], [], []
        for item in sorted(alive, key=lambda item: (item is stuck, getattr(item[1], "waits", False))):
            name, sink = item
            try:
                sink.close(commit and item is not stuck)
                if commit and item is not stuck:
                    self.whole.append(name)
            except Exception as error:  # noqa: BLE001  the other sinks are closed all the same
                first = first or error
        if first is not None and commit:
            if isinstance(first, MirageError) and self.whole:
                first.remedy = f"{', '.join(self.whole)}: whole. {first.remedy}"
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
    if is_url(target):
        return push_output(
            target, info, tell, timeout_seconds=config.timeout_seconds, attempts=config.reconnect,
            low_delay=True, **options,
        )  # fmt: skip
    sink = open_output(target, info, low_delay=target.lower().endswith(".m3u8"), **options)
    sink.end_seconds = config.timeout_seconds
    return sink


def push_output(
    target: str, info: StreamInfo, tell: Callable[[str], None], *, timeout_seconds: float,
    attempts: int, patient: Patient | None = None, **options: Any,
) -> PushSink:
    """An output to an address, made again when it breaks.

    Args:
        patient: how a job waits for it; None for a live run, which waits for nothing.
        options: of ``open_output``.

    Raises:
        MediaError, UsageProblem: the address or the options make no sense.
    """
    from mirage_cli.video_out import open_output

    return PushSink(
        shown_target(target), lambda again: open_output(target, info, again=again, **options),
        timeout_seconds=timeout_seconds, attempts=attempts, tell=tell, patient=patient,
    )  # fmt: skip


def at_its_pace(target: str) -> bool:
    """Whether viewers watch an address while it is written, and a file must not come faster."""
    return target.partition("://")[0].lower() in ("rtmp", "rtmps", "rtsp", "srt", "udp")


def targets_of(config: LiveConfig | TransformConfig) -> list[str]:
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


def without_secrets(target: str) -> str:
    """An input or output as it was named, but for what an address must not show."""
    return shown_target(target) if is_url(target) else target


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
