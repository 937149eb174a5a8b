"""Open what a run writes to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirage_cli import __version__
from mirage_cli.config import LiveConfig, Size, TransformConfig
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import FrameSink, FrameSource, StreamInfo, Ui
from mirage_cli.inputs.open import Opened
from mirage_cli.inputs.pictures import ImageSource
from mirage_cli.inputs.wrappers import ResizedSource
from mirage_cli.media.picture_names import pattern_matches
from mirage_cli.media.place import Kind, Place
from mirage_cli.media.sound_line import SoundCarrier
from mirage_cli.outputs.fan_out import FanOut
from mirage_cli.outputs.job_folder import begun_with, open_job, unfinished
from mirage_cli.outputs.names import check_target
from mirage_cli.outputs.pictures import ImageSink
from mirage_cli.outputs.push import Patient, PushSink
from mirage_cli.outputs.virtual_camera import VirtualCameraSink

if TYPE_CHECKING:
    from mirage_cli.outputs.plan import OutputPlan

PUSH_TIMEOUT_SECONDS = 10.0
"""A connection that takes nothing for this long is opened again."""


def open_live_output(
    target: Place, config: LiveConfig, info: StreamInfo, tell: Callable[[str], None], **options: Any
) -> FrameSink:
    """One output of ``mirage live``.

    Args:
        info: of the frames to come.
        tell: gets sentences about connections.
        options: of ``open_output``.

    Raises:
        MediaError, UsageProblem: it cannot be opened.
    """
    from mirage_cli.outputs.file import open_output

    if target.kind is Kind.VIRTUAL_CAMERA:
        return VirtualCameraSink(target.path, info.width, info.height, config.fps or info.fps or 30.0)
    if target.kind is Kind.PICTURES:
        return _picture_sink(target, config)
    options = {"codec": config.codec, "crf": config.crf, "overwrite": True, **options}
    if target.kind is Kind.PIPE:
        options["form"] = config.format
    if target.is_address:
        return push_output(
            target,
            info,
            tell,
            timeout_seconds=config.timeout_seconds,
            attempts=config.reconnect,
            low_delay=True,
            **options,
        )
    sink = open_output(target, info, low_delay=target.kind is Kind.PLAYLIST, **options)
    sink.end_seconds = config.timeout_seconds
    return sink


def push_output(
    target: Place,
    info: StreamInfo,
    tell: Callable[[str], None],
    *,
    timeout_seconds: float,
    attempts: int,
    patient: Patient | None = None,
    **options: Any,
) -> PushSink:
    """An output to an address, opened again when it breaks.

    Args:
        patient: how a job waits for it; None for a live run, which never waits.
        options: of ``open_output``.

    Raises:
        MediaError, UsageProblem: the address or the options make no sense.
    """
    from mirage_cli.outputs.file import open_output

    return PushSink(
        target.shown,
        lambda again: open_output(target, info, again=again, **options),
        timeout_seconds=timeout_seconds,
        attempts=attempts,
        tell=tell,
        patient=patient,
    )


def live_info(info: StreamInfo, size: tuple[int, int]) -> StreamInfo:
    """What the frames of a live run are: of that size, with gaps where frames are dropped."""
    return replace(
        info,
        width=size[0],
        height=size[1],
        frame_count=None,
        duration_seconds=None,
        variable_rate=True,
        has_audio=False,
    )


def check_output(source: Place, target: Place, overwrite: bool | None, ui: Ui) -> None:
    """Refuse an output before any work is done, asking where a file may be in the way.

    Raises:
        MediaError: see ``names.check_target``.
    """
    if source.on_disk and target.is_numbered:
        pictures = set(map(os.path.realpath, source.pictures()))
        if own := sorted(pictures & set(map(os.path.realpath, pattern_matches(target.path)))):
            raise MediaError(
                f"output {target.path!r} is the input itself: it would replace {own[0]!r}",
                "give the output another name",
            )
    check_target(target, source.on_disk, lambda: ui.confirm_overwrite(target.path) if overwrite is None else overwrite)


def check_unfinished(config: TransformConfig, target: Place) -> None:
    """Refuse to discard the work of a job that was killed.

    Raises:
        MediaError: there is such a job, and neither --resume nor -y was given.
    """
    frames = 0 if config.resume or config.overwrite else unfinished(target.path)
    if frames:
        raise MediaError(
            f"output {target.path!r} has an unfinished job, of which {frames} frames are done",
            "add --resume to go on with it, or -y to start over",
        )


def default_output(source: Place, look: str) -> Place:
    """``films/clip.mov`` and ``ink-wash`` -> ``films/clip.ink-wash.mp4``; a picture gives a PNG."""
    path = Path(source.path)
    if source.kind is Kind.PICTURES and path.is_file():
        name = f"{path.stem}.{look}.png"
    elif path.is_dir():
        name = f"{path.name}.{look}.mp4"
    else:
        stem = path.stem.replace("%", "").strip("*?._- ") or path.parent.name or "pictures"
        name = f"{stem if not path.exists() else path.stem}.{look}.mp4"
    return Place.of_output(str(path.with_name(name)))


def open_sink(
    config: TransformConfig,
    targets: Sequence[Place],
    opened: Opened,
    tell: Callable[[str], None] = lambda text: None,
    stop: threading.Event | None = None,
    weights: Callable[[], dict[str, str]] = dict,
) -> FrameSink:
    """The sink of all outputs; that of one file can be resumed, see ``segments.JobSink``.

    Args:
        tell: gets sentences about connections and outputs that are lost.
        stop: when set, a lost connection is not waited for any more.
        weights: the SHA-256 of the model's files, on which a job's frames depend; slow.

    Raises:
        MediaError, UsageProblem: of the kind that fits; nothing is left behind.
    """
    stop = stop or threading.Event()
    source, width = opened.source, opened.size[0] * (2 if config.compare else 1)
    info = replace(source.info, width=width, height=opened.size[1])
    sinks: list[tuple[str, FrameSink]] = []
    with ExitStack() as stack:
        for target in targets:
            sink: FrameSink
            if target.kind is Kind.ADDRESS:
                sink = _open_push(config, target, source, info, tell, stop)
            elif target.kind is Kind.PICTURES:
                if config.resume:
                    raise UsageProblem("--resume is for videos, not for pictures", "Omit --resume.")
                sink = _picture_sink(target, config)
            else:
                sink = _open_file(config, target, opened, info, None if len(targets) > 1 else weights)
            stack.callback(sink.close, commit=False)
            sinks.append((target.shown, sink))
        stack.pop_all()
    whole: FrameSink = FanOut(sinks, tell)
    if len(sinks) == 1 and not isinstance(sinks[0][1], PushSink):
        whole = sinks[0][1]
    return whole if source.sound is None else SoundCarrier(whole, source.sound)


def _picture_sink(target: Place, config: LiveConfig | TransformConfig) -> ImageSink:
    return ImageSink(target.path, overwrite=bool(config.overwrite) or not target.is_numbered)


def _open_push(
    config: TransformConfig,
    target: Place,
    source: FrameSource,
    info: StreamInfo,
    tell: Callable[[str], None],
    stop: threading.Event,
) -> PushSink:
    """An address: it is waited for when it breaks, and gets no frame before its time."""
    if config.resume:
        raise UsageProblem(f"--resume cannot hold: the output is {target.shown}", "Omit --resume.")
    with_line = source.sound is not None
    if config.sound and not with_line and source.info.has_audio:
        tell(f"{source.info.name}: its sound cannot be sent to {target.shown}")
    return push_output(
        target,
        info,
        tell,
        timeout_seconds=config.timeout_seconds or PUSH_TIMEOUT_SECONDS,
        attempts=config.reconnect,
        patient=Patient(target.is_watched, stop),
        low_delay=target.is_watched,
        codec=config.codec,
        crf=config.crf,
        with_line=with_line,
    )


def _open_file(
    config: TransformConfig,
    target: Place,
    opened: Opened,
    info: StreamInfo,
    weights: Callable[[], dict[str, str]] | None,
) -> FrameSink:
    """A file, written in segments where it can be, so that it can be resumed; else a file or pipe in one piece.

    Args:
        weights: as in ``open_sink``; None where the output cannot be resumed.
    """
    from mirage_cli.inputs.file import FileSource
    from mirage_cli.media.formats import encoder_of
    from mirage_cli.outputs.file import FileSink
    from mirage_cli.outputs.plan import plan_output
    from mirage_cli.outputs.segments import JobSink, can_be_segments

    source = opened.source.inner if isinstance(opened.source, ResizedSource) else opened.source
    if config.resume:
        info = _with_times(info, begun_with(target.path, "times"))
    plan = plan_output(
        target,
        info,
        codec=config.codec,
        crf=config.crf,
        audio_from=source if isinstance(source, FileSource) and config.sound else None,
        overwrite=True,  # asked for, or nothing there, by check_output
        form=config.format if target.kind is Kind.PIPE else None,
    )
    again = not isinstance(source, FileSource) or source.path is not None
    segments = can_be_segments(plan.container, encoder_of(plan.encoder)) and target.kind is Kind.FILE
    if not (again and segments) or weights is None:
        if config.resume:
            why = "the input is a pipe or an address" if not again else f"the output is {target.path}"
            raise UsageProblem(
                f"--resume cannot hold: {why}",
                "It needs one file as input and one .mp4, .mov, .mkv, .webm or .ts file as output.",
            )
        return FileSink(*plan)
    request = _request(config, opened.size, source, plan, weights()) | {"times": _times(info)}
    folder = open_job(target.path, request, config.resume)
    try:
        return JobSink(folder, plan, segment_frames=config.segment_frames)
    except BaseException:
        folder.release() if folder.progress.segments else folder.remove()
        raise


def _times(info: StreamInfo) -> list[Any]:
    """What the times of an output's frames depend on, as JSON holds it."""
    return [info.fps, info.variable_rate, info.duration_seconds]


def _with_times(info: StreamInfo, times: Any) -> StreamInfo:
    """The description of an input with the times that its job was begun with.

    How exactly an input's rate is known depends on how long a look at it took (``probe.scan_packets``): another
    rate would put the later frames on another grid than the segments that are there.
    """
    known = isinstance(times, list) and [type(value) for value in times[:2]] == [float, bool] and len(times) == 3
    if not known or not (times[2] is None or isinstance(times[2], float)):
        return info
    return replace(info, fps=times[0], variable_rate=times[1], duration_seconds=times[2])


def _request(
    config: TransformConfig, size: Size, source: FrameSource, plan: OutputPlan, weights: dict[str, str]
) -> dict[str, Any]:
    """All that the frames of an output depend on, so that only the same job is resumed."""
    paths = source.paths if isinstance(source, ImageSource) else [config.input]
    stats = [os.stat(path) for path in (paths[0], paths[-1])]
    return {
        "version_of_mirage": __version__,
        "ffmpeg": plan.tool.version,
        "input": [os.path.abspath(config.input), len(paths)],
        "content_of_the_input": [[item.st_size, item.st_mtime_ns] for item in stats],
        "prompts": list(config.prompts),
        "model": asdict(config.model),
        "weights": weights,
        "size": list(size),
        "range": [config.start_seconds, config.duration_seconds],
        "fps": config.fps,
        "blend_seconds": config.blend_seconds,
        "encoder": plan.encoder,
        "compare": config.compare,
        "sound": config.sound,
        "piece_frames": config.segment_frames,
    }
