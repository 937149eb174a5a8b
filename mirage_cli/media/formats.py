"""Which container, encoder and options an output gets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.media.ffmpeg import FfmpegTool, encoder_names
from mirage_cli.media.place import Kind, Place

# RGB to BT.709, the one matrix that players assume for untagged HD and that tags name for the rest.
TO_YUV = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp,"
    "format={0},setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
# For MPEG-4 part 2 and y4m, which are written without tags: what players assume of a small picture.
TO_SMALL_YUV = (
    "scale=out_color_matrix=bt601:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp,"
    "format={0},setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=smpte170m"
)
HD_SIDES = (1024, 576)  # longer or shorter side above this: untagged means BT.709
TO_GIF = (
    # One palette a frame: a palette for the whole clip would hold the whole clip in memory.
    "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=bayer"
)
X26X_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass(frozen=True, slots=True)
class Container:
    """One kind of output file.

    Attributes:
        muxer: ffmpeg's name of it.
        codec: the encoder by default.
        sound_copied: codecs of sound that it holds; None for all.
        sound_encoder: what the rest is encoded to; "" where it holds no sound.
        options: for the muxer of a finished file.
        only_codecs: the encoders it allows; None for all.
        constant_rate: it cannot hold a time for each frame.
        picture_muxer: for the pictures before the sound is added, where ``muxer`` would not let
            them begin at 0; "" for ``muxer``.
        subtitles_copied: codecs of subtitles that it holds.
        subtitle_encoder: what other subtitles of text are encoded to; "" where it holds none.
        keeps_tags: it holds title, chapters and the like.
        keeps_fonts: it holds attached fonts.
        in_place: it is written where it is read meanwhile, by ``options``.
    """

    muxer: str
    codec: str
    sound_copied: frozenset[str] | None
    sound_encoder: str
    options: dict[str, str] = field(default_factory=dict)
    only_codecs: frozenset[str] | None = None
    constant_rate: bool = False
    picture_muxer: str = ""
    subtitles_copied: frozenset[str] = frozenset()
    subtitle_encoder: str = ""
    keeps_tags: bool = False
    keeps_fonts: bool = False
    in_place: bool = False


_MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "mp2", "dts"})
_PCM = frozenset({"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8", "pcm_s16be"})
_TS_SOUND = frozenset({"aac", "mp3", "mp2", "ac3", "eac3"})
_WEBM_CODECS = frozenset({"libvpx-vp9", "libvpx", "libsvtav1", "libaom-av1"})
# ffmpeg writes others without an error, and no player can read them.
_TS_CODECS = frozenset({"libx264", "libx265", "h264_nvenc", "hevc_nvenc", "mpeg2video", "mpeg1video", "mpeg4"})
_FAST_START = {"movflags": "+faststart"}
_MOV_TEXT: dict[str, Any] = {
    "subtitles_copied": frozenset({"mov_text"}),
    "subtitle_encoder": "mov_text",
    "keeps_tags": True,
}
TEXT_SUBTITLES = frozenset(
    {
        "subrip",
        "ass",
        "ssa",
        "webvtt",
        "mov_text",
        "text",
        "sami",
        "microdvd",
        "subviewer",
        "stl",
        "mpl2",
        "jacosub",
        "realtext",
        "ttml",
        "vplayer",
        "pjs",
        "subviewer1",
    }
)

# A playlist of the last six segments of two seconds; older ones are deleted.
_HLS = {"hls_time": "2", "hls_list_size": "6", "hls_flags": "delete_segments"}

CONTAINERS: dict[str, Container] = {
    ".mp4": Container("mp4", "libx264", _MP4_SOUND, "aac", _FAST_START, **_MOV_TEXT),
    ".m4v": Container("mp4", "libx264", _MP4_SOUND, "aac", _FAST_START, **_MOV_TEXT),
    ".mov": Container("mov", "libx264", _MP4_SOUND - {"opus", "flac"} | _PCM, "aac", _FAST_START, **_MOV_TEXT),
    ".mkv": Container(
        "matroska",
        "libx264",
        None,
        "aac",
        subtitles_copied=frozenset({"subrip", "ass", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"}),
        subtitle_encoder="subrip",
        keeps_tags=True,
        keeps_fonts=True,
    ),
    ".webm": Container(
        "webm",
        "libvpx-vp9",
        frozenset({"opus", "vorbis"}),
        "libopus",
        {},
        _WEBM_CODECS,
        subtitles_copied=frozenset({"webvtt"}),
        subtitle_encoder="webvtt",
        keeps_tags=True,
    ),
    ".gif": Container("gif", "gif", frozenset(), "", {}, frozenset({"gif"})),
    ".avi": Container(
        "avi", "mpeg4", frozenset({"mp3", "ac3", "mp2"}) | _PCM, "libmp3lame", {}, None, True, keeps_tags=True
    ),
    ".ts": Container("mpegts", "libx264", _TS_SOUND, "aac", {}, _TS_CODECS, picture_muxer="mp4"),
    ".m3u8": Container("hls", "libx264", _TS_SOUND, "aac", _HLS, in_place=True),
}
PIPE_CONTAINER = Container("matroska", "libx264", None, "aac")
PIPE_FORMATS = {
    "matroska": PIPE_CONTAINER,
    "mpegts": Container("mpegts", "libx264", _TS_SOUND, "aac"),
    "y4m": Container("yuv4mpegpipe", "wrapped_avframe", frozenset(), "", constant_rate=True),
    "rawvideo": Container("rawvideo", "rawvideo", frozenset(), ""),
}
URL_CONTAINERS = {
    "rtmp": Container("flv", "libx264", frozenset({"aac", "mp3"}), "aac"),
    "rtmps": Container("flv", "libx264", frozenset({"aac", "mp3"}), "aac"),
    "rtsp": Container("rtsp", "libx264", _TS_SOUND, "aac"),
    "udp": Container("mpegts", "libx264", _TS_SOUND, "aac"),
    "srt": Container("mpegts", "libx264", _TS_SOUND, "aac"),
    "tcp": Container("mpegts", "libx264", _TS_SOUND, "aac"),
    "http": Container("hls", "libx264", _TS_SOUND, "aac", {**_HLS, "method": "PUT"}, in_place=True),
}
URL_CONTAINERS["https"] = URL_CONTAINERS["http"]


@dataclass(frozen=True, slots=True)
class Codec:
    """One video encoder and how it is driven.

    Attributes:
        pixels: pixel format for even sizes.
        odd_pixels: pixel format where width or height is odd.
        quality_flag: the option that ``crf`` sets; "" where quality is fixed.
        quality: (lowest, highest, default).
        options: the rest.
        max_tick_rate: largest time base that the bit stream holds; 0 for no limit.
    """

    pixels: str = "yuv420p"
    odd_pixels: str = "yuv420p"
    quality_flag: str = "crf"
    quality: tuple[float, float, float] = (0, 51, 18)
    options: dict[str, str] = field(default_factory=dict)
    max_tick_rate: int = 0


_VP9 = {"b:v": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
_NVENC = {"preset": "p4", "rc": "vbr", "b:v": "0"}
CODECS: dict[str, Codec] = {
    # 4:2:0 holds even sizes only in H.264 and H.265, so odd ones get 4:4:4 and keep their size.
    "libx264": Codec(odd_pixels="yuv444p", options={"preset": "veryfast"}),
    "libx264rgb": Codec("bgr0", "bgr0", "crf", (0, 51, 0), {"preset": "veryfast"}),
    "libx265": Codec(
        "yuv420p",
        "yuv444p",
        "crf",
        (0, 51, 20),
        {"preset": "veryfast", "tag:v": "hvc1", "x265-params": "log-level=error"},
    ),
    "libvpx-vp9": Codec("yuv420p", "yuv420p", "crf", (0, 63, 24), _VP9),
    "libvpx": Codec("yuv420p", "yuv420p", "crf", (4, 63, 10), {"b:v": "8M", "deadline": "realtime", "cpu-used": "6"}),
    "libsvtav1": Codec("yuv420p", "yuv420p", "crf", (0, 63, 28), {"preset": "10"}),
    "libaom-av1": Codec("yuv420p", "yuv420p", "crf", (0, 63, 26), {"b:v": "0", "cpu-used": "8", "row-mt": "1"}),
    "h264_nvenc": Codec("yuv420p", "yuv444p", "cq", (0, 51, 19), _NVENC),
    "hevc_nvenc": Codec("yuv420p", "yuv444p", "cq", (0, 51, 21), {**_NVENC, "tag:v": "hvc1"}),
    "mpeg4": Codec("yuv420p", "yuv420p", "q:v", (1, 31, 2), {}, 65535),
    "mjpeg": Codec("yuvj420p", "yuvj420p", "q:v", (1, 31, 2)),
    "ffv1": Codec("bgr0", "bgr0", "", options={"level": "3", "g": "1", "slices": "4"}),
    "prores_ks": Codec("yuv422p10le", "yuv444p10le", "", options={"profile:v": "hq"}),
    "gif": Codec("pal8", "pal8", ""),
    "wrapped_avframe": Codec("yuv420p", "yuv444p", ""),
    "rawvideo": Codec("rgb24", "rgb24", ""),
}
ALIASES = {
    "h264": "libx264",
    "avc": "libx264",
    "x264": "libx264",
    "h265": "libx265",
    "hevc": "libx265",
    "x265": "libx265",
    "vp9": "libvpx-vp9",
    "vp8": "libvpx",
    "av1": "libsvtav1",
    "prores": "prores_ks",
}


def low_delay_options(name: str, fps: float) -> dict[str, str]:
    """Options for viewers who watch while it is encoded: no lookahead, a key frame every two seconds, at most
    6 Mbit/s."""
    keys = {
        "g": str(max(1, round(2 * fps))),
        # By time as well: where frames are dropped, that number of them takes longer. A frame's time is not exact.
        "force_key_frames": "expr:isnan(prev_forced_t)+gte(t,prev_forced_t+1.98)",
    }
    options = {**keys, "forced-idr": "1", "bf": "0", "maxrate": "6M", "bufsize": "6M"}
    if name in ("libx264", "libx265"):
        return {**options, "tune": "zerolatency"}
    return {**options, "tune": "ull"} if name.endswith("_nvenc") else keys


def choose_container(target: Place, form: str | None = None) -> Container:
    """The container of an output; ``form`` is that of a pipe, one of ``PIPE_FORMATS``.

    Raises:
        MediaError: no container has that suffix or scheme.
    """
    if target.kind is Kind.PIPE:
        return PIPE_FORMATS[form or "matroska"]
    scheme, colon, _ = target.path.partition("://")
    if colon:
        playlist = not scheme.lower().startswith("http") or ".m3u8" in target.path
        if scheme.lower() in URL_CONTAINERS and playlist:
            return URL_CONTAINERS[scheme.lower()]
        raise MediaError(
            f"cannot write to {scheme}:// addresses; allowed: {', '.join(URL_CONTAINERS)}",
            "give a file name such as out.mp4",
        )
    suffix = os.path.splitext(target.path)[1].lower()
    if suffix in CONTAINERS:
        return CONTAINERS[suffix]
    if target.kind is Kind.DEVICE:
        return PIPE_CONTAINER
    seen = f"ends in {suffix!r}" if suffix else "has no suffix"
    raise MediaError(
        f"output {target.path!r} {seen}; allowed: {', '.join(CONTAINERS)}",
        "give a file name such as out.mp4, or '-' for a pipe",
    )


def encoder_of(options: dict[str, str]) -> str:
    """The encoder's name in options made by ``encoder_options``."""
    return options["c:v"]


def choose_codec(tool: FfmpegTool, container: Container, wanted: str | None) -> str:
    """The encoder's name.

    Raises:
        UsageProblem: ffmpeg has no such encoder, or the container does not hold it.
    """
    name = ALIASES.get((wanted or container.codec).lower(), wanted or container.codec)
    if name not in encoder_names(tool):
        raise UsageProblem(
            f"ffmpeg {tool.version} has no video encoder {name!r}",
            f"use one of: {', '.join(sorted({*ALIASES} | {'ffv1', 'mpeg4'}))}",
        )
    if name == "gif" and container.muxer != "gif":  # in another file it comes out empty
        raise UsageProblem(f"a {container.muxer} file does not hold gif", "write to .gif, or leave --codec out")
    if container.only_codecs is not None and name not in container.only_codecs:
        raise UsageProblem(
            f"a {container.muxer} file does not hold {name}; allowed: {', '.join(sorted(container.only_codecs))}",
            "leave --codec out, or write to .mkv",
        )
    return name


def encoder_options(
    name: str, width: int, height: int, crf: float | None, preset: str | None, threads: int
) -> dict[str, str]:
    """Options of the output that choose, feed and drive the encoder.

    Raises:
        UsageProblem: a crf or preset that the encoder does not have.
    """
    codec = CODECS.get(name, Codec(quality_flag="", odd_pixels="yuv420p"))
    odd = width % 2 == 1 or height % 2 == 1
    pixels = codec.odd_pixels if odd else codec.pixels
    options = {"c:v": name, "threads": str(threads), **codec.options}
    if preset is not None:
        if name not in ("libx264", "libx264rgb", "libx265") or preset not in X26X_PRESETS:
            raise UsageProblem(
                f"preset {preset!r} is not one of {name}'s", f"presets of h264 and h265: {', '.join(X26X_PRESETS)}"
            )
        options["preset"] = preset
    low, high, default = codec.quality
    if crf is not None and not codec.quality_flag:
        raise UsageProblem(f"{name} takes no crf", "leave --crf out, or use --codec h264")
    if crf is not None and not low <= crf <= high:
        raise UsageProblem(f"crf {crf:g} is not allowed for {name}: {low:g} to {high:g}", "")
    if codec.quality_flag:
        options[codec.quality_flag] = f"{default if crf is None else crf:g}"
    if name == "gif":
        options["filter_complex"] = TO_GIF
    elif pixels in ("bgr0", "rgb24"):
        options["vf"] = f"format={pixels}"
    elif pixels == "yuvj420p":
        options["vf"] = "scale=out_range=pc:out_color_matrix=bt601,format=yuvj420p"
    elif name in ("mpeg4", "wrapped_avframe") and not is_hd(width, height):
        options["vf"] = TO_SMALL_YUV.format(pixels)
        options.update(colorspace="smpte170m", color_range="tv")
    else:
        options["vf"] = TO_YUV.format(pixels)
        options.update(colorspace="bt709", color_primaries="bt709", color_trc="bt709", color_range="tv")
    return options


def is_hd(width: int, height: int) -> bool:
    """Whether untagged colours of this size are taken for BT.709; smaller ones are BT.601."""
    return max(width, height) > HD_SIDES[0] or min(width, height) > HD_SIDES[1]


def tick_rate(codec_name: str, rate_num: int | None) -> int:
    """Ticks a second of which the frame rate's own grid is a part: 30000/1001 -> 90000.

    Args:
        rate_num: numerator of the frame rate; None where frames keep to no grid.
    """
    limit = CODECS.get(codec_name, Codec()).max_tick_rate
    goal = min(limit, 60000) if limit else 90000
    if rate_num is None:
        return goal
    if rate_num > goal:
        return goal if limit else rate_num
    return rate_num * (goal // rate_num)
