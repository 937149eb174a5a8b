"""What a media file holds, asked of ffmpeg alone."""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass, replace
from fractions import Fraction

import ffmpeg

from mirage_cli.errors import MediaError
from mirage_cli.media.ffmpeg import FfmpegProcess, FfmpegTool, pick_message, rational_rate, run_ffmpeg

SCAN_LIMIT_S = 1.0
READABLE_REMEDY = "give a video file that ffmpeg reads, e.g. .mp4, .mov, .mkv, .webm or .avi"
# MPEG streams have no index: a seek lands anywhere, so start early enough to meet a key frame.
UNINDEXED = ("mpegts", "mpeg", "h264", "hevc", "mpegvideo", "m4v")
UNINDEXED_LEAD_SECONDS = 15.0
HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
MATRICES = ("bt709", "bt470bg", "smpte170m", "smpte240m", "fcc", "bt2020nc", "bt2020c", "gbr")

# "Stream #0:1[0x2](eng): Audio: aac ...", with more blanks before it where the stream belongs to a group.
STREAM_LINE = re.compile(
    r" +Stream #0:(?P<number>\d+)(?:\[0x[0-9a-f]+\])?(?:\(.*?\))?: "
    r"(?P<kind>Video|Audio|Subtitle|Attachment|Data|Unknown): (?P<rest>.*)"
)
ROTATION_LINE = re.compile(r" +[Dd]isplay ?[Mm]atrix: rotation of (-?\d+(?:\.\d+)?) degrees")


@dataclass(frozen=True, slots=True)
class VideoTrack:
    """The picture track that is used: the first that is not a cover image.

    Attributes:
        codec: e.g. "h264".
        pixel_format: e.g. "yuv420p10le"; "" where unknown.
        width, height: pixels as coded, before rotation.
        rotation_degrees: what a player turns the picture by, from the display matrix.
        fps: average frames a second, None where unknown.
        base_rate: the rate whose ticks hold all frames, as ffmpeg guesses it.
        matrix, transfer: colour tags; "" where the file does not say.
        interlaced: a frame holds two fields, each of another moment.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    rotation_degrees: float
    fps: Fraction | None
    base_rate: Fraction | None
    matrix: str
    transfer: str
    interlaced: bool = False

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) in pixels as a player shows it, after rotation by quarter turns."""
        lies = round(self.rotation_degrees / 90) % 2
        return (self.height, self.width) if lies else (self.width, self.height)

    @property
    def is_hdr(self) -> bool:
        return self.transfer in HDR_TRANSFERS


@dataclass(frozen=True, slots=True)
class MediaProbe:
    """What ``ffmpeg -i`` says of one input.

    Attributes:
        container: ffmpeg's names of the format, comma separated.
        duration_seconds: of the longest track, None where unknown.
        start_seconds: the earliest time stamp of all tracks.
        video: None where there is no picture track.
        audio_codecs: one name for each sound track; "none" where ffmpeg does not know it.
        subtitle_codecs: the same for subtitles.
        has_fonts: files are attached, as Matroska does with the fonts of subtitles.
    """

    container: str
    duration_seconds: float | None
    start_seconds: float
    video: VideoTrack | None
    audio_codecs: tuple[str, ...]
    subtitle_codecs: tuple[str, ...] = ()
    has_fonts: bool = False

    @property
    def sound_tracks(self) -> list[tuple[int, str]]:
        """(index among the sound tracks, codec) of those that ffmpeg knows."""
        return [(i, codec) for i, codec in enumerate(self.audio_codecs) if codec != "none"]


@dataclass(frozen=True, slots=True)
class PacketScan:
    """Times of all picture packets of a file, in order of presentation.

    Attributes:
        frame_count: packets that fall in the range asked for.
        first_seconds, end_seconds: time stamps as in the file; end is that of the last frame plus
            its duration.
        variable_rate: the gaps differ by more than 2 ms.
    """

    frame_count: int
    first_seconds: float
    end_seconds: float
    variable_rate: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where the pictures lie among the time stamps of their file.

    Attributes:
        zero_seconds: the file's time stamp that becomes 0 in an output; the start of the file or,
            where the start was cut, the first picture.
        first_frame_seconds: time stamp of the first picture, never before ``zero_seconds``.
    """

    zero_seconds: float
    first_frame_seconds: float


def make_timeline(probe: MediaProbe, first_seconds: float, start_seconds: float) -> Timeline:
    """The timeline of a range whose first picture has the time stamp ``first_seconds``."""
    zero = first_seconds if start_seconds > 0 else min(probe.start_seconds, first_seconds)
    return Timeline(zero, first_seconds)


def exact_rate(video: VideoTrack, scan: PacketScan | None) -> Fraction:
    """Frames a second; where the two decimals that ffmpeg prints hide a fraction, as counted: 33.33 -> 100/3."""
    rate = video.fps or video.base_rate or Fraction(25)
    length = scan.end_seconds - scan.first_seconds if scan is not None else 0.0
    if scan is None or scan.variable_rate or length <= 0 or rate.denominator in (1, 1001):
        return rate
    counted = Fraction(scan.frame_count / length).limit_denominator(100)
    return counted if abs(counted - rate) <= Fraction(1, 200) else rate


def probe_media(
    tool: FfmpegTool, url: str, *, name: str, feed: bytes | None = None, input_options: list[str] | None = None
) -> MediaProbe:
    """Asks ffmpeg what ``url`` holds.

    Args:
        url: as ffmpeg reads it ("file:...", "rtsp://...", "pipe:0").
        name: how errors name the input.
        feed: the first bytes of a pipe, for url "pipe:0".
        input_options: put before ``-i``.

    Raises:
        MediaError: ffmpeg cannot read it.
    """
    done = run_ffmpeg(tool, [*(input_options or []), "-i", url], feed=feed)
    text = done.stderr.decode("utf-8", "replace")
    if not re.search(r"^Input #0, ", text, re.MULTILINE):
        raise MediaError(f"cannot read {name}: {_reason(text)}", READABLE_REMEDY)
    return parse_probe(text)


def _reason(text: str) -> str:
    message = pick_message([line for line in text.splitlines() if line.strip()])
    opening = re.findall(r"Error opening input: (.+)$", text, re.MULTILINE)
    message = opening[-1] if opening else re.sub(r"^\S.*: (?=Invalid data|No such|Perm)", "", message)
    if "moov atom not found" in text and "low score" not in text:
        return "its index (moov atom) is missing, the file was cut short or never finished"
    if message.startswith("Invalid data found"):
        return "not a media file that ffmpeg knows (Invalid data found when processing input)"
    return message


def parse_probe(text: str) -> MediaProbe:
    """Reads the block that ``ffmpeg -i`` prints on stderr."""
    lines = [line.rstrip("\r") for line in text.split("\n")]  # a title may hold every other line separator
    start = next(i for i, line in enumerate(lines) if line.startswith("Input #0, "))
    container = lines[start][len("Input #0, ") :].partition(", from ")[0]
    duration: float | None = None
    start_seconds = 0.0
    streams: dict[int, tuple[str, str]] = {}
    rotations: dict[int, float] = {}
    number = -1
    for line in lines[start + 1 :]:
        if match := re.match(r"  Duration: (\S+?),(?: start: (-?\d+(?:\.\d+)?),)?", line):
            duration = _clock_seconds(match.group(1))
            start_seconds = float(match.group(2) or 0.0)
        elif match := STREAM_LINE.match(line):
            number = int(match.group("number"))
            streams.setdefault(number, (match.group("kind"), match.group("rest")))
        elif match := ROTATION_LINE.match(line):
            rotations.setdefault(number, -float(match.group(1)))
    # In the order of the file: the streams of a group are printed before the others.
    told = [(number, *streams[number]) for number in sorted(streams)]
    video: VideoTrack | None = None
    for number, kind, rest in told:
        if kind == "Video" and video is None and "(attached pic)" not in rest:
            video = _parse_video(rest)
            if video is not None and rotations.get(number):
                video = replace(video, rotation_degrees=rotations[number] % 360.0)
    audio, subtitles = (
        tuple(rest.split(" ")[0].rstrip(",") for _, kind, rest in told if kind == wanted)
        for wanted in ("Audio", "Subtitle")
    )
    fonts = any(kind == "Attachment" for _, kind, _ in told)
    return MediaProbe(container, duration, start_seconds, video, audio, subtitles, fonts)


def _clock_seconds(text: str) -> float | None:
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    if not match:
        return None
    return int(match.group(1)) * 3600 + int(match.group(2)) * 60 + float(match.group(3))


def _parse_video(text: str) -> VideoTrack | None:
    size = re.search(r", (\d+)x(\d+)(?=[\s,]|$)", text)
    if not size:
        return None
    codec = text.split(" ")[0].rstrip(",")
    pixel = re.search(r", ([a-z][a-z0-9]+)(?:\(([^)]*)\))?, \d+x\d+", text)
    matrix = transfer = ""
    fields = re.search(r"[(,] ?(?:top|bottom) (?:coded )?first\b", text)
    if pixel and pixel.group(2):
        # "tv, bt709, progressive" or "tv, bt2020nc/bt2020/smpte2084, ..."
        for part in pixel.group(2).split(", "):
            tags = part.split("/")
            if tags[0] in MATRICES or len(tags) == 3:
                matrix = tags[0] if tags[0] in MATRICES else ""
                transfer = tags[2] if len(tags) == 3 else tags[0]
    return VideoTrack(
        codec,
        pixel.group(1) if pixel else "",
        int(size.group(1)),
        int(size.group(2)),
        0.0,
        _rate(text, "fps"),
        _rate(text, "tbr"),
        matrix,
        transfer,
        fields is not None,
    )


def _rate(text: str, unit: str) -> Fraction | None:
    match = re.search(rf"(\d+(?:\.\d+)?)(k?) {unit}\b", text)
    if not match:
        return None
    value = float(match.group(1)) * (1000 if match.group(2) else 1)
    return rational_rate(value) if value > 0 else None


def scan_packets(
    tool: FfmpegTool,
    url: str,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    limit_s: float = SCAN_LIMIT_S,
) -> PacketScan | None:
    """Lists the picture packets of a file without decoding them.

    Args:
        start_seconds, end_seconds: count only frames shown in [start, end), counted from the time
            stamp of the first frame.
        limit_s: give up after this long.

    Returns:
        None where the list is not complete: too long a file, packets without times, an error.
    """
    arguments = ["-copyts", "-i", url, "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "pipe:1"]
    child = FfmpegProcess(tool, arguments, read=True, level="error")
    timer = threading.Timer(limit_s, child.stop)
    timer.daemon = True
    timer.start()
    try:
        with child.stdout as pipe:
            text = b"".join(iter(lambda: pipe.read(1 << 16), b"")).decode("ascii", "replace")
    finally:
        timer.cancel()
        status = child.stop() if child.running and not _ends_soon(child) else child.wait()
    base = re.search(r"^#tb 0: (\d+)/(\d+)", text, re.MULTILINE)
    if status != 0 or not base:
        return None
    tick = int(base.group(1)) / int(base.group(2))
    rows = re.findall(r"^0, +(-?\d+), +(-?\d+), +(-?\d+),", text, re.MULTILINE)
    if not rows or len(rows) != len(re.findall(r"^0,", text, re.MULTILINE)):
        return None
    order = [int(dts) for dts, _, _ in rows]
    if sum(b <= a for a, b in zip(order, order[1:])) > 1:
        return None  # files joined end to end: their times jump back
    times = sorted((int(pts) * tick, max(int(span), 0) * tick) for _, pts, span in rows)
    first = times[0][0]
    inside = [
        time
        for time in times
        if time[0] - first >= start_seconds - 1e-4 and (end_seconds is None or time[0] - first < end_seconds - 1e-4)
    ]
    if not inside:
        return PacketScan(0, first, first, False)
    gaps = [b[0] - a[0] for a, b in zip(inside, inside[1:])]
    last_gap = inside[-1][1] or (gaps[-1] if gaps else 0.0)
    variable = bool(gaps) and max(gaps) - min(gaps) > 0.002
    return PacketScan(len(inside), inside[0][0], inside[-1][0] + last_gap, variable)


def _ends_soon(child: FfmpegProcess) -> bool:
    try:
        child.wait(2.0)
    except subprocess.TimeoutExpired:
        return False
    return True


def seek_plan(
    probe: MediaProbe, start_seconds: float, duration_seconds: float | None, *, seekable: bool
) -> tuple[dict[str, object], list[str]]:
    """How to reach a range exactly: (options before ``-i``, filters that cut).

    Time stamps stay those of the file (-copyts), so that pictures and sound that are read by two
    commands can be laid over each other again.
    """
    options: dict[str, object] = {"copyts": None}
    begin = probe.start_seconds + start_seconds
    cuts = []
    if start_seconds > 0:
        lead = 0.0
        if any(kind in UNINDEXED for kind in probe.container.split(",")):
            lead = UNINDEXED_LEAD_SECONDS
        if seekable and start_seconds > lead:
            options.update(ss=f"{begin - lead:.6f}", seek_timestamp=1, noaccurate_seek=None)
        cuts.append(f"start={begin - 0.0005:.6f}")
    if duration_seconds is not None:
        cuts.append(f"end={begin + duration_seconds - 0.0005:.6f}")
    return options, [f"trim={':'.join(cuts)}"] if cuts else []


def first_frame_seconds(tool: FfmpegTool, url: str, probe: MediaProbe, start_seconds: float) -> float | None:
    """Time stamp of the first picture at or after ``start_seconds``; None where there is none."""
    options, cuts = seek_plan(probe, start_seconds, None, seekable=True)
    source = ffmpeg.input(url, threads=1, **options)
    command = ffmpeg.output(
        source["V:0"],
        "pipe:1",
        f="framecrc",
        vf=",".join([*cuts, "scale=16:16"]),
        fps_mode="passthrough",
        enc_time_base="1/1000000",
        **{"frames:v": 1},
    ).get_args()
    text = run_ffmpeg(tool, command).stdout.decode("ascii", "replace")
    match = re.search(r"^0, +-?\d+, +(-?\d+),", text, re.MULTILINE)
    return int(match.group(1)) / 1e6 if match else None
