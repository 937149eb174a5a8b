"""The ffmpeg command that encodes pictures, and joins segments that are encoded already."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from mirage_cli.media.addresses import file_url
from mirage_cli.media.ffmpeg import FfmpegTool, pick_message, run_ffmpeg
from mirage_cli.media.formats import Container
from mirage_cli.media.sound_plan import SOUND_BITRATE, SoundPlan, picture_offset, with_sound


def encode_arguments(
    container: Container,
    encoder: dict[str, str],
    target: str,
    *,
    rate: Fraction,
    ticks_per_second: int,
    in_two_passes: bool,
    sound: SoundPlan | None,
    with_line: bool,
) -> list[str]:
    """The command that encodes NUT on standard input.

    Args:
        encoder: options of the encoder, ``c:v`` among them.
        target: where to, as ffmpeg names it.
        rate: frames a second, for containers of a constant rate.
        in_two_passes: ``sound`` is put to the pictures afterwards, by ``add_sound``; else in the same pass.
        with_line: sound comes through the same NUT.
    """
    settings: dict[str, Any] = dict(encoder, map_metadata=-1)
    if container.constant_rate:
        settings.update(fps_mode="cfr", r=f"{rate.numerator}/{rate.denominator}")
    else:
        settings["fps_mode"] = "passthrough"
        settings["enc_time_base:v"] = f"1/{ticks_per_second}"
    # One frame is all that must be seen before the stream is known.
    options: dict[str, Any] = {"f": "nut", "probesize": 32, "analyzeduration": 0, "threads": 1}
    if in_two_passes:
        if sound is None:
            settings.update(f=container.muxer, **container.options)
        else:
            settings.update(f=container.picture_muxer or container.muxer)
    else:
        settings.update(f=container.muxer, flush_packets=1)
        if container.in_place:
            settings.update(container.options)
        if sound is not None:
            pictures = ffmpeg.input("pipe:0", **options, **picture_offset(sound))
            return ["-y", *with_sound(pictures["v:0"], sound, target, settings)]
    pictures = ffmpeg.input("pipe:0", **options)
    tracks = [pictures["v:0"]]
    if with_line:
        tracks.append(pictures["a:0"])
        settings.update({"c:a": container.sound_encoder, "b:a": SOUND_BITRATE})
    elif "filter_complex" in settings:
        tracks = [pictures]
    return ["-y", *ffmpeg.output(*tracks, target, **settings).get_args()]


def segment_list(segments: Sequence[tuple[str, float | None]]) -> str:
    """Names and lengths (seconds; None for the last) as ffmpeg's concat demuxer reads them."""
    lines = ["ffconcat version 1.0"]
    for name, seconds in segments:
        lines.append(f"file {name}")
        if seconds is not None:
            lines.append(f"duration {seconds:.9f}")
    return "\n".join(lines) + "\n"


SEGMENTS_INPUT = {"f": "concat", "safe": 0}
"""Input options under which a ``segment_list`` is read as one track of pictures."""


def join_segments(tool: FfmpegTool, listed: Path, whole: Path, container: Container) -> str | None:
    """Write ``whole`` from the segments of a list, without encoding them again; why it failed, or None."""
    source = ffmpeg.input(file_url(listed), **SEGMENTS_INPUT)
    settings = {"c:v": "copy", "f": container.muxer, **container.options, "map_metadata": -1}
    command = ffmpeg.output(source["v:0"], file_url(whole), **settings).get_args()
    done = run_ffmpeg(tool, ["-y", "-nostats", "-loglevel", "warning", *command], timeout_s=None)
    if done.returncode == 0:
        return None
    return pick_message(done.stderr.decode("utf-8", "replace").splitlines())
