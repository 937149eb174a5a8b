"""The ffmpeg command that turns a video into RGB24 pictures with their times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ffmpeg

from mirage_cli.media.ffmpeg import FfmpegTool, filter_names, rational_rate
from mirage_cli.media.formats import is_hd
from mirage_cli.media.probe import MediaProbe, VideoTrack, seek_plan
from mirage_cli.media.raw_pipe import raw_pipe_url
from mirage_cli.media.sound_line import CHANNELS, RATE

TICKS_PER_SECOND = 1_000_000
# Kept sound is NUT, which holds no negative times, and files may begin before zero.
NUT_SHIFT_SECONDS = 3600
SCALER = "bicubic+accurate_rnd+full_chroma_int"
# Reference white of 203 nits (ITU-R BT.2408), highlights up to 1000 nits folded in.
TONE_MAP = (
    "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,"
    "tonemap=tonemap=mobius:param=0.3:peak=4.926:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv444p"
)


def decode_arguments(
    tool: FfmpegTool,
    probe: MediaProbe,
    video: VideoTrack,
    url: str,
    *,
    size: tuple[int, int] | None,
    start_seconds: float,
    duration_seconds: float | None,
    fps: float | None,
    threads: int,
    warnings: list[str],
    sound_to: str | None,
    probe_bytes: int = 0,
    with_line: bool = False,
) -> list[str]:
    """The command that decodes ``url`` to RGB24 on standard output, for ``RawPipeReader``.

    Args:
        sound_to: a file to copy all sound to.
        with_line: decode the first track of sound as well, into the same pipe.
    """
    options, filters = seek_plan(probe, start_seconds, duration_seconds, seekable=url != "pipe:0")
    if video.interlaced and min(video.width, video.height) >= 4:
        # One picture a frame, with the frame's own time; frames that are not marked as interlaced pass unchanged.
        filters.append("bwdif=mode=send_frame:deint=interlaced")
    if fps is not None:
        rate = rational_rate(fps)
        filters.append(f"fps={rate.numerator}/{rate.denominator}")
    scale = [f"w={size[0]}:h={size[1]}" if size else "w=iw:h=ih", f"flags={SCALER}"]
    if not video.matrix and _is_yuv(video.pixel_format):
        # Untagged: the matrix that players assume for this size, as cameras and discs do.
        hd = is_hd(video.width, video.height)
        scale.append(f"in_color_matrix={'bt709' if hd else 'bt601'}")
    if video.is_hdr and {"zscale", "tonemap"} <= filter_names(tool):
        warnings.append(f"the input is HDR ({video.transfer}); it is tone-mapped to standard range (BT.709)")
        if size:
            filters.append(f"scale=w={size[0]}:h={size[1]}:flags={SCALER}")
        filters.append(TONE_MAP)
    elif video.is_hdr:
        warnings.append("HDR video is shown without tone mapping: this ffmpeg lacks zscale")
    filters += [f"scale={':'.join(scale)}", "format=rgb24"]
    options.update(threads=threads)
    if url == "pipe:0":
        options.update(probesize=probe_bytes)  # start as soon as a slow sender allows
    source = ffmpeg.input(url, reinit_filter=0, **options)
    tracks, sound_options = [source["V:0"]], {}
    if with_line and probe.sound_tracks:
        tracks.append(source[f"a:{probe.sound_tracks[0][0]}"])
        cuts = ["a" + cut for cut in filters if cut.startswith("trim=")]
        sound_options = {**line_options(), **({"af": ",".join(cuts)} if cuts else {})}
    picture = _pictures(tracks, filters, {"pix_fmt": "rgb24", "map_metadata": -1, "map_chapters": -1, **sound_options})
    if sound_to is None:
        return picture.get_args()
    tracks = [source[f"a:{index}"] for index, _ in probe.sound_tracks]
    sound = ffmpeg.output(
        *tracks,
        sound_to,
        f="nut",
        c="copy",
        copypriorss=0,
        write_index=0,
        output_ts_offset=NUT_SHIFT_SECONDS,
        avoid_negative_ts="disabled",
        flush_packets=1,
    )
    return ffmpeg.merge_outputs(picture, sound).get_args()


def stream_arguments(
    url: str, options: Mapping[str, object], *, size: tuple[int, int] | None, fps: float | None, with_line: bool
) -> list[str]:
    """The command that decodes a stream, which is opened once and not probed, in the same way.

    Args:
        options: input options of its address.
        fps: resample to this rate, unless the options ask the source for one.
        with_line: decode sound, where there is some, into the same NUT.
    """
    filters = [f"fps={fps:g}"] if fps and "framerate" not in options else []
    scale = f"w={size[0]}:h={size[1]}" if size else "w=iw:h=ih"
    filters += [f"scale={scale}:flags={SCALER}", "format=rgb24"]
    source = ffmpeg.input(url, reinit_filter=0, threads=2, **options)
    if not with_line:
        return _pictures([source["V:0"]], filters, {}).get_args()
    # A picture waits for the next packet of sound at most, some 20 ms.
    return _pictures([source["V:0"], source["a:0?"]], filters, line_options(most_wait_seconds=0.0)).get_args()


def _pictures(tracks: list[Any], filters: list[str], more: dict[str, object]) -> Any:
    """The ffmpeg-python output of RGB24 pictures on standard output, each written at once with its time."""
    return ffmpeg.output(
        *tracks,
        raw_pipe_url(with_sound=len(tracks) > 1),
        f="tee",
        vf=",".join(filters),
        fps_mode="passthrough",
        avoid_negative_ts="disabled",
        threads=1,  # in threads the rawvideo encoder holds a frame back
        **{"c:v": "rawvideo", "enc_time_base:v": f"1/{TICKS_PER_SECOND}"},
        **more,
    )


def line_options(most_wait_seconds: float = 0.5) -> dict[str, object]:
    """Output options for sound in the format of a ``SoundLine``.

    Args:
        most_wait_seconds: a picture is held back at most this long for the sound that belongs before it.
    """
    return {
        "c:a": "pcm_s16le",
        "ar": RATE,
        "ac": CHANNELS,
        "max_interleave_delta": max(1, round(most_wait_seconds * 1e6)),
    }


def _is_yuv(pixel_format: str) -> bool:
    return pixel_format.startswith(("yuv", "nv", "p0", "p2", "p4", "y2", "uyvy"))
