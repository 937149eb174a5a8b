"""Open what a run writes to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mirage_cli import __version__
from mirage_cli.config import PIPE, LiveConfig, Size, TransformConfig
from mirage_cli.errors import MediaError, MirageError, UsageProblem
from mirage_cli.frames import FrameSink, FrameSource, StreamInfo, Ui
from mirage_cli.inputs.pictures import ImageSource, find_images, is_image, is_pattern, pattern_matches
from mirage_cli.inputs.wrappers import ResizedSource
from mirage_cli.media.addresses import is_url
from mirage_cli.media.sound_line import SoundCarrier
from mirage_cli.outputs.fan_out import FanOut
from mirage_cli.outputs.job_folder import begun_with, open_job, unfinished
from mirage_cli.outputs.names import at_its_pace, check_target, is_plain_file, shown_target
from mirage_cli.outputs.pictures import ImageSink
from mirage_cli.outputs.push import Patient, PushSink
from mirage_cli.outputs.virtual_camera import VirtualCameraSink, is_virtual_camera


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
    from mirage_cli.outputs.file import open_output

    if is_virtual_camera(target):
        return VirtualCameraSink(target, info.width, info.height, config.fps or info.fps or 30.0)
    if is_image(target):
        return ImageSink(target, overwrite=bool(config.overwrite) or not is_pattern(target))
    options = {"codec": config.codec, "crf": config.crf, "overwrite": True, **options}
    if target == PIPE:
        options["form"] = config.format
    if is_url(target):
        return push_output(
            target,
            info,
            tell,
            timeout_seconds=config.timeout_seconds,
            attempts=config.reconnect,
            low_delay=True,
            **options,
        )
    sink = open_output(target, info, low_delay=target.lower().endswith(".m3u8"), **options)
    sink.end_seconds = config.timeout_seconds
    return sink


def push_output(
    target: str,
    info: StreamInfo,
    tell: Callable[[str], None],
    *,
    timeout_seconds: float,
    attempts: int,
    patient: Patient | None = None,
    **options: Any,
) -> PushSink:
    """An output to an address, made again when it breaks.

    Args:
        patient: how a job waits for it; None for a live run, which waits for nothing.
        options: of ``open_output``.

    Raises:
        MediaError, UsageProblem: the address or the options make no sense.
    """
    from mirage_cli.outputs.file import open_output

    return PushSink(
        shown_target(target),
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


MODEL_FILES = ("model.safetensors", "looks.json", "looks.safetensors")
"""Of a model's folder, what its pictures depend on."""


PUSH_TIMEOUT_SECONDS = 10.0
"""A connection that takes nothing for so long is made again."""


def check_output(source: str, target: str, overwrite: bool | None, ui: Ui) -> None:
    """Refuse an output before any work is done, asking where a file may be in the way.

    Raises:
        MediaError: see ``output_target.check_target``.
    """
    read_from = None if source == PIPE or is_url(source) else source
    if read_from and is_pattern(target):
        pictures = set(map(os.path.realpath, find_images(read_from)))
        if own := sorted(pictures & set(map(os.path.realpath, pattern_matches(target)))):
            raise MediaError(
                f"output {target!r} is the input itself: it would replace {own[0]!r}", "give the output another name"
            )
    check_target(target, read_from, lambda: ui.confirm_overwrite(target) if overwrite is None else overwrite)


def check_unfinished(config: TransformConfig, target: str) -> None:
    """Refuse to throw away the work of a job that was killed.

    Raises:
        MediaError: there is such a job, and neither --resume nor -y was given.
    """
    frames = 0 if config.resume or config.overwrite else unfinished(target)
    if frames:
        raise MediaError(
            f"output {target!r} has an unfinished job, of which {frames} frames are done",
            "add --resume to go on with it, or -y to begin anew",
        )


def default_output(source: str, look: str) -> str:
    """``films/clip.mov`` and ``ink-wash`` -> ``films/clip.ink-wash.mp4``; a picture gives a PNG."""
    path = Path(source)
    if is_image(source) and path.is_file():
        return str(path.with_name(f"{path.stem}.{look}.png"))
    if path.is_dir():
        return str(path.with_name(f"{path.name}.{look}.mp4"))
    stem = path.stem.replace("%", "").strip("*?._- ") or path.parent.name or "pictures"
    return str(path.with_name(f"{stem if not path.exists() else path.stem}.{look}.mp4"))


def open_sink(
    config: TransformConfig,
    target: str,
    source: FrameSource,
    size: Size,
    tell: Callable[[str], None] = lambda text: None,
    stop: threading.Event | None = None,
) -> FrameSink:
    """The sink of all outputs; that of one file can be taken up again, see ``job_sink``.

    Args:
        tell: gets sentences about connections and outputs that are lost.
        stop: when set, a lost connection is not waited for any more.

    Raises:
        MediaError, UsageProblem: of the kind that fits; nothing is left behind.
    """
    stop = stop or threading.Event()
    sinks: list[tuple[str, FrameSink]] = []
    try:
        for name in (target, *config.more_outputs):
            if is_url(name) and not is_image(name):
                sink: FrameSink = _open_push(config, name, source, size, tell, stop)
            else:
                sink = _open_one(config, name, source, size, resumable=not config.more_outputs)
            sinks.append((shown_target(name), sink))
    except BaseException:
        for _, sink in sinks:
            sink.close(commit=False)
        raise
    all_of_them: FrameSink = FanOut(sinks, tell)
    if len(sinks) == 1 and not isinstance(sinks[0][1], PushSink):
        all_of_them = sinks[0][1]
    return all_of_them if source.sound is None else SoundCarrier(all_of_them, source.sound)


def _open_push(
    config: TransformConfig,
    target: str,
    source: FrameSource,
    size: Size,
    tell: Callable[[str], None],
    stop: threading.Event,
) -> PushSink:
    """An address: it is waited for when it breaks, and gets no frame before its time."""
    if config.resume:
        raise UsageProblem(f"--resume cannot hold: the output is {shown_target(target)}", "Leave --resume away.")
    width = size[0] * (2 if config.compare else 1)
    info = replace(source.info, width=width, height=size[1])
    with_line = source.sound is not None
    if config.sound and not with_line and source.info.has_audio:
        tell(f"{source.info.name}: its sound cannot be sent to {shown_target(target)}")
    return push_output(
        target,
        info,
        tell,
        timeout_seconds=config.timeout_seconds or PUSH_TIMEOUT_SECONDS,
        attempts=config.reconnect,
        patient=Patient(at_its_pace(target), stop),
        low_delay=at_its_pace(target),
        codec=config.codec,
        crf=config.crf,
        with_line=with_line,
    )


def _open_one(config: TransformConfig, target: str, source: FrameSource, size: Size, resumable: bool) -> FrameSink:
    from mirage_cli.inputs.file import FileSource
    from mirage_cli.media.formats import encoder_of
    from mirage_cli.outputs.file import FileSink
    from mirage_cli.outputs.plan import plan_output
    from mirage_cli.outputs.segments import JobSink, can_be_segments

    inner = source.inner if isinstance(source, ResizedSource) else source
    if is_image(target):
        if config.resume:
            raise UsageProblem("--resume is for videos, not for pictures", "Leave --resume away.")
        return ImageSink(target, overwrite=bool(config.overwrite) or not is_pattern(target))
    info = replace(source.info, width=size[0] * (2 if config.compare else 1), height=size[1])
    if config.resume:
        info = _with_times(info, begun_with(target, "times"))
    plan = plan_output(
        target,
        info,
        codec=config.codec,
        crf=config.crf,
        audio_from=inner if isinstance(inner, FileSource) and config.sound else None,
        overwrite=True,  # asked for, or nothing there, by check_output
        form=config.format if target == PIPE else None,
    )
    again = not isinstance(inner, FileSource) or inner.path is not None
    segments = can_be_segments(plan.container, encoder_of(plan.encoder)) and is_plain_file(target)
    if not (again and segments and resumable):
        if config.resume:
            why = "the input is a pipe or an address" if not again else f"the output is {target}"
            raise UsageProblem(
                f"--resume cannot hold: {why}",
                "It needs one file as input and one .mp4, .mov, .mkv, .webm or .ts file as output.",
            )
        return FileSink(*plan)
    request = _request(config, size, inner, plan.encoder, plan.tool.version) | {"times": _times(info)}
    folder = open_job(target, request, config.resume)
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

    How exactly an input's rate is known depends on how long a look at it took (``media_probe.scan_packets``): another
    rate would put the later frames on another grid than the segments that are there.
    """
    known = isinstance(times, list) and [type(value) for value in times[:2]] == [float, bool] and len(times) == 3
    if not known or not (times[2] is None or isinstance(times[2], float)):
        return info
    return replace(info, fps=times[0], variable_rate=times[1], duration_seconds=times[2])


def _request(
    config: TransformConfig, size: Size, source: FrameSource, encoder: dict[str, str], tool: str
) -> dict[str, Any]:
    """All that the frames of an output depend on, so that only the same job is gone on with."""
    paths = source.paths if isinstance(source, ImageSource) else [config.input]
    stats = [os.stat(path) for path in (paths[0], paths[-1])]
    from mirage_cli.models.catalog import file_sha256, model_dir

    try:
        model = Path(model_dir(config.model.model))
        weights = {name: file_sha256(model / name) for name in MODEL_FILES if (model / name).is_file()}
    except (MirageError, OSError):  # a model that is not there is said elsewhere
        weights = {}
    return {
        "version_of_mirage": __version__,
        "ffmpeg": tool,
        "input": [os.path.abspath(config.input), len(paths)],
        "content_of_the_input": [[item.st_size, item.st_mtime_ns] for item in stats],
        "prompts": list(config.prompts),
        "model": asdict(config.model),
        "weights": weights,
        "size": list(size),
        "range": [config.start_seconds, config.duration_seconds],
        "fps": config.fps,
        "blend_seconds": config.blend_seconds,
        "encoder": encoder,
        "compare": config.compare,
        "sound": config.sound,
        "piece_frames": config.segment_frames,
    }
