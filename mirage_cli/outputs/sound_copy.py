"""Decide what an output takes over from its source besides pictures: sound above all, and subtitles, fonts, tags."""

from __future__ import annotations

from dataclasses import replace

from mirage_cli.inputs.file import FileSource
from mirage_cli.media.addresses import file_url
from mirage_cli.media.ffmpeg import FfmpegTool
from mirage_cli.media.formats import Container
from mirage_cli.media.place import is_url
from mirage_cli.media.probe import Timeline, first_frame_seconds, make_timeline, probe_media
from mirage_cli.media.sound_plan import SoundPlan, plan_subtitles
from mirage_cli.media.tags import read_tags

# Matroska's, where it is written to a pipe; all else is encoded.
STREAMED_SOUND = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "dts", "truehd", "opus", "vorbis", "flac", "alac"}) | {
    f"pcm_{kind}" for kind in ("u8", "s16le", "s24le", "s32le", "f32le", "f64le", "s16be", "s24be", "s32be")
}
# Formats whose AAC has its settings in each packet, where a muxer that wants them in the header finds none.
HEADERLESS = frozenset({"mpegts", "mpeg", "aac", "hls", "rtp", "rtsp", "sdp"})


def plan_sound(
    tool: FfmpegTool,
    source: str | FileSource,
    container: Container,
    *,
    start_seconds: float,
    duration_seconds: float | None,
    in_one_pass: bool = False,
    warnings: list[str],
) -> SoundPlan | None:
    """Decides what is copied and what must be encoded; None where there is nothing to take over.

    Args:
        source: the file or URL, or the open source itself, which spares a second probe.
        in_one_pass: sound is muxed along with the pictures, so that nothing can be tried a second time.
        warnings: takes sentences for the user.

    Raises:
        MediaError: ``source`` cannot be read.
    """
    if isinstance(source, FileSource):
        shift = source.sound_shift_seconds
        if source.probe.subtitle_codecs and (source.sound_url is None or shift):
            warnings.append("subtitles were left out: they are kept from files, not from pipes")
        if source.sound_url is None:
            return None
        probe = source.probe
        url, tracks, timeline = source.sound_url, probe.sound_tracks, source.timeline
        start_seconds, duration_seconds = source.start_seconds, source.duration_seconds
        begin = source.probe.start_seconds + start_seconds
        if shift:  # a file of the decoder's own: its tracks are counted from 0, its times are later
            tracks = [(number, codec) for number, (_, codec) in enumerate(tracks)]
            begin += shift
            timeline = Timeline(timeline.zero_seconds + shift, timeline.first_frame_seconds + shift)
    else:
        shift = 0.0
        url = source if is_url(source) else file_url(source)
        probe = probe_media(tool, url, name=source)
        tracks = probe.sound_tracks
        begin = probe.start_seconds + start_seconds
        first = first_frame_seconds(tool, url, probe, start_seconds) if probe.video else None
        timeline = make_timeline(probe, begin if first is None else first, start_seconds)
    if tracks and not container.sound_encoder:
        warnings.append(f"a {container.muxer} file holds no sound; it was left out")
        tracks = []
    copied = container.sound_copied
    if in_one_pass:
        copied = STREAMED_SOUND if copied is None else copied
        if container.muxer == "matroska" and not HEADERLESS.isdisjoint(probe.container.split(",")):
            copied -= {"aac"}
    codecs = tuple(
        (index, "copy" if copied is None or codec in copied else container.sound_encoder) for index, codec in tracks
    )
    end = None if duration_seconds is None else begin + duration_seconds
    plan = SoundPlan(url, codecs, timeline, start_seconds > 0, end, kept=shift != 0)
    if not plan.kept:
        plan = replace(
            plan, subtitles=plan_subtitles(probe, container, warnings), fonts=probe.has_fonts and container.keeps_fonts
        )
        if container.keeps_tags and not is_url(url):
            tags = read_tags(tool, url)
            plan = replace(plan, tags=tags if tags.lines or tags.chapters else None)
    return plan if plan.codecs or plan.extras else None
