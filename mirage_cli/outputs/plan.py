"""How an output is written: container, encoder, sound; decided, and refused, before anything is opened."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import NamedTuple

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import MEDIA_MAX_SIDE, StreamInfo
from mirage_cli.inputs.file import FileSource, default_threads
from mirage_cli.media.ffmpeg import FfmpegTool, find_ffmpeg
from mirage_cli.media.formats import Container, choose_codec, choose_container, encoder_options, low_delay_options
from mirage_cli.media.place import Kind, Place
from mirage_cli.media.sound_plan import SoundPlan
from mirage_cli.outputs.names import check_target
from mirage_cli.outputs.sound_copy import plan_sound


class OutputPlan(NamedTuple):
    """What a sink is made from: the arguments of ``FileSink``."""

    tool: FfmpegTool
    target: Place
    info: StreamInfo
    container: Container
    encoder: dict[str, str]
    sound: SoundPlan | None
    source: FileSource | None
    warnings: list[str]
    with_line: bool


def plan_output(
    name: str | os.PathLike[str] | Place,
    info: StreamInfo,
    *,
    codec: str | None = None,
    crf: float | None = None,
    audio_from: str | os.PathLike[str] | FileSource | None = None,
    overwrite: bool = False,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    preset: str | None = None,
    threads: int | None = None,
    tool: FfmpegTool | None = None,
    form: str | None = None,
    low_delay: bool = False,
    with_line: bool = False,
    again: bool = False,
) -> OutputPlan:
    """Decides how an output is written; arguments and errors as of ``open_output``."""
    target = name if isinstance(name, Place) else Place.of_output(os.fspath(name))
    tool = tool or find_ffmpeg()
    if not (1 <= info.width <= MEDIA_MAX_SIDE and 1 <= info.height <= MEDIA_MAX_SIDE):
        raise UsageProblem(f"output size {info.width}x{info.height} is not allowed: 1 to {MEDIA_MAX_SIDE} a side", "")
    container = choose_container(target, form)
    codec = choose_codec(tool, container, codec)
    encoder = encoder_options(codec, info.width, info.height, crf, preset, threads or default_threads())
    if container.muxer == "hls" and not low_delay:  # a film, of which all segments are kept
        film = {**container.options, "hls_list_size": "0", "hls_flags": "independent_segments"}
        container = replace(container, options=film)
    if container.muxer == "hls" and again:  # ffmpeg cannot go on with a list that it only PUTs
        flags = container.options["hls_flags"] + "+discont_start"
        numbers = {"hls_flags": flags, "hls_start_number_source": "epoch"}
        container = replace(container, options={**container.options, **numbers})
    if low_delay:
        encoder.update(low_delay_options(codec, info.fps))
    warnings: list[str] = []
    if "yuv444p" in encoder.get("vf", "") and codec in ("libx264", "libx265"):
        warnings.append(
            f"{info.width}x{info.height} is odd and is kept by 4:4:4 colour, which some browsers "
            "and phones do not play; an even --size plays everywhere"
        )
    source, read_from = None, None
    if isinstance(audio_from, FileSource):
        source, read_from = audio_from, audio_from.path
    elif audio_from is not None:
        read_from = os.fspath(audio_from)
    if target.kind is Kind.PIPE:
        if sys.stdout.isatty():
            raise MediaError(
                "output '-' writes video to a pipe, and standard output is a terminal",
                "pipe it on, e.g. mirage transform ... -o - | mpv -",
            )
    else:
        check_target(target, read_from, lambda: overwrite)
    sound = None
    if audio_from is not None:
        sound = plan_sound(
            tool,
            source or str(read_from),
            container,
            start_seconds=start_seconds,
            duration_seconds=duration_seconds,
            in_one_pass=target.kind in (Kind.PIPE, Kind.DEVICE),
            warnings=warnings,
        )
    with_line = with_line and bool(container.sound_encoder)
    return OutputPlan(tool, target, info, container, encoder, sound, source, warnings, with_line)
