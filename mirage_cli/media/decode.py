"""The ffmpeg command that turns a video into RGB24 pictures with their times."""

from __future__ import annotations

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
        # One picture a frame, its own time kept; frames that are not marked pass as they are.
        filters.append("bwdif=mode=send_frame:deint=interlaced")
    if fps is not None:
        rate = rational_rate(fps)
        filters.append(f"fps={rate.numerator}/{rate.denominator}")
    scale = [f"w={size[0]}:h={size[1]}" if size else "w=iw:h=ih", f"flags={SCALER}"]
    if not video.matrix and _is_yuv(video.pixel_format):
        # Untagged: what cameras and discs mean by it, by size, as players assume.
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
    picture = ffmpeg.output(
        *tracks,
        raw_pipe_url(with_sound=len(tracks) > 1),
        f="tee",
        vf=",".join(filters),
        pix_fmt="rgb24",
        fps_mode="passthrough",
        avoid_negative_ts="disabled",
        map_metadata=-1,
        map_chapters=-1,
        threads=1,  # in threads the rawvideo encoder holds a frame back
        **{"c:v": "rawvideo", "enc_time_base:v": f"1/{TICKS_PER_SECOND}"},
        **sound_options,
    )
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


def line_options(most_wait_seconds: float = 0.5) -> dict[str, object]:
    """Output options that send sound along as a ``SoundLine`` takes it.

    Args:
        most_wait_seconds: a picture waits no longer for the sound that belongs before it.
    """
    return {
        "c:a": "pcm_s16le",
        "ar": RATE,
        "ac": CHANNELS,
        "max_interleave_delta": max(1, round(most_wait_seconds * 1e6)),
    }


def _is_yuv(pixel_format: str) -> bool:
    return pixel_format.startswith(("yuv", "nv", "p0", "p2", "p4", "y2", "uyvy"))
