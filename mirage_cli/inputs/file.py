"""Frames out of any file, pipe or URL that ffmpeg reads.

One ffmpeg decodes, turns, scales and converts to RGB; the pictures and their exact times come
through a pipe (``raw_pipe``), a frame at a time, however long the clip. Variable frame rates stay
as they are, since every frame carries its own time.
"""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from mirage_cli.errors import MediaError, UsageProblem, plain_text
from mirage_cli.frames import Frame, Sound, StreamInfo
from mirage_cli.inputs.pipe import StdinFeed
from mirage_cli.media.addresses import NameAlias, file_url, is_url, shown_url
from mirage_cli.media.decode import decode_arguments
from mirage_cli.media.ffmpeg import FfmpegProcess, FfmpegTool, find_ffmpeg, rational_rate
from mirage_cli.media.probe import (
    READABLE_REMEDY,
    MediaProbe,
    PacketScan,
    VideoTrack,
    exact_rate,
    make_timeline,
    probe_media,
    scan_packets,
)
from mirage_cli.media.raw_pipe import RawPipeError, RawPipeReader
from mirage_cli.media.sound_line import SoundLine

MAX_SIDE = 16384
MAX_PIXELS = 1 << 27  # 400 MB as RGB; 16K video has as many
# ffmpeg's muxer turns a time that jumps back into the last one plus a tick of 1 us.
STALL_SECONDS = 1e-5


def default_threads() -> int:
    """Threads for one ffmpeg: half of the processors, 1 to 4; the model needs the rest."""
    return min(4, max(1, (os.cpu_count() or 1) // 2))


class FileSource:
    """Frames of one file, pipe or URL, in order; see ``frames.FrameSource``.

    Made by ``open_file``. Iterate once, in one thread; ``close`` may come from any thread.

    Attributes:
        info: known at once; the first frame is decoded already.
        timeline: places the frames among the file's time stamps, for sound.
        finished: the end of the input was reached (and not cut off by ``close``).
        probe, start_seconds, duration_seconds: what was found and what was asked for.
        sound_url: from where sound, subtitles and tags can be copied, as ffmpeg reads it; None
            where they cannot be read again.
        path: the local file, None for pipes and URLs.
        sound: what was decoded of it beside the frames; None unless asked for.
        alias: stands for ``path`` in commands, where its name needs it.
    """

    def __init__(
        self,
        process: FfmpegProcess,
        reader: RawPipeReader,
        info: StreamInfo,
        probe: MediaProbe,
        first: tuple[Fraction, np.ndarray],
        *,
        start_seconds: float,
        duration_seconds: float | None,
        path: str | None,
        sound_url: str | None,
        feed: StdinFeed | None,
        sound_folder: tempfile.TemporaryDirectory[str] | None,
        read_sound: SoundLine | None = None,
    ) -> None:
        self.info = info
        self.sound = SoundLine() if read_sound is not None else None
        self._read_sound = read_sound or SoundLine()  # in the times of the pipe
        self.live = False
        self.warnings: list[str] = []
        self.finished = False
        self.path = path
        self.sound_url = sound_url
        self.timeline = make_timeline(probe, float(first[0]), start_seconds)
        self._process, self._reader, self._first = process, reader, first
        self.probe = probe
        self.start_seconds, self.duration_seconds = start_seconds, duration_seconds
        self._feed, self._sound_folder = feed, sound_folder
        self.alias: NameAlias | None = None
        self._begun = self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        if self._begun:
            raise RuntimeError("a source can be iterated once")
        self._begun = True
        begin, nominal = self._first[0], 1.0 / self.info.fps
        packet: tuple[Fraction, np.ndarray] | None = self._first
        del self._first  # the picture belongs to whoever takes the frame
        last = last_raw = -1.0
        shift, stalled, index = 0.0, 0, 0
        line, read = self.sound, self._read_sound
        while packet is not None:
            raw = float(packet[0] - begin)
            pts = raw + shift
            stalled = stalled + 1 if raw - last_raw < STALL_SECONDS else 0
            if stalled > 1:  # joined files whose times begin anew: go on from here
                pts = last + nominal
                shift = pts - raw
            elif pts - last < STALL_SECONDS:  # two pictures of one time
                pts = last + min(nominal, 0.002)
            last, last_raw = pts, raw
            if line is not None:
                line.move_from(read, shift - float(begin))
            yield Frame(packet[1], pts, index)
            packet = None
            if self._closed:
                return
            index += 1
            try:
                packet = self._reader.read_frame()
            except (ValueError, OSError):
                if not self._closed:  # close() in another thread takes the pipe away
                    raise
            except RawPipeError as problem:
                self.warnings.append(f"{self.info.name}: decoding ended early ({problem})")
        if line is not None:
            line.move_from(read, shift - float(begin))
            line.finished = not self._closed
        self._end(index, last + nominal, shift)

    @property
    def reopens(self) -> bool:
        """Whether the input can be opened again: a pipe can be read only once."""
        return self._feed is None

    def close(self) -> None:
        """Ends the decoder. Sound kept from a pipe stays until the source is no longer used."""
        if self._closed:
            return
        self._closed = True
        # Sound from a pipe is still wanted after this: let ffmpeg finish writing it.
        self._process.stop(grace_s=1.0 if self._sound_folder and not self.finished else 0.0)
        self._process.stdout.close()
        if self._feed is not None and self._sound_folder is None and not self._sound_in_spool():
            self._feed.close()

    def _sound_in_spool(self) -> bool:
        return bool(self._feed and self._feed.spool_path and self.probe.sound_tracks)

    def release(self) -> None:
        """``close``, and removes all temporary files of this source."""
        self.close()
        if self._feed is not None:
            self._feed.close()
        if self._sound_folder is not None:
            self._sound_folder.cleanup()
        if self.alias is not None:
            self.alias.remove()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.release()

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _expected_seconds(self) -> float | None:
        length = self.probe.duration_seconds
        if length is None:
            return None
        length -= self.start_seconds
        return length if self.duration_seconds is None else min(length, self.duration_seconds)

    def _end(self, frames: int, end_seconds: float, jump_seconds: float) -> None:
        """Says what the decoder thought of the input once it is through."""
        if self._closed:
            return
        status = self._process.wait()
        self.finished = True
        name, expected = self.info.name, self._expected_seconds()
        damaged = self._process.error_count
        if jump_seconds > 0.2:
            self.warnings.append(
                f"{name}: its time stamps jump back, as in files joined end to end; pictures "
                "follow one another evenly there, and sound may be out of step"
            )
        if status != 0:
            self.warnings.append(
                f"{name}: decoding stopped after {frames} frames ({self._process.failure()}); what was decoded is used"
            )
        elif damaged and expected and expected - end_seconds > max(0.5, 0.02 * expected):
            # Without an error the sound is just longer than the picture.
            self.warnings.append(
                f"{name} is cut short: {end_seconds:.1f} s of {expected:.1f} s could be decoded "
                f"({self._process.first_error.rstrip('.')})"
            )
        elif damaged:
            self.warnings.append(
                f"{name} is damaged in places ({damaged} decoder messages, the first: "
                f"{self._process.first_error.rstrip('.')}); what could be decoded is used"
            )


def open_file(
    path_or_dash: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    fps: float | None = None,
    threads: int | None = None,
    keep_sound: bool = False,
    with_line: bool = False,
    tool: FfmpegTool | None = None,
) -> FileSource:
    """Opens a video and decodes its first frame.

    Args:
        path_or_dash: a file, "-" for standard input, a named pipe, or a URL that ffmpeg reads.
        size: (width, height) to scale to; the picture is stretched, and ``info.pixel_aspect``
            changes so that it is shown in its own shape.
        start_seconds: skip what is shown before this.
        duration_seconds: stop after this much; None for all.
        fps: resample to this constant rate by dropping and repeating frames; None keeps all.
        threads: for the decoder; see ``default_threads``.
        keep_sound: with "-", keep the sound in a temporary file, so that it can be copied.
        with_line: decode the first track of sound as well, into ``sound``.
        tool: which ffmpeg; ``find_ffmpeg()`` by default.

    Frame times count from the first frame given, which is 0.0.

    Raises:
        UsageProblem: a size, time or rate that is not allowed.
        MediaError: no such file, a folder, not a video, no picture track, no frame in the range.
    """
    name = os.fspath(path_or_dash)
    _check_request(size, start_seconds, duration_seconds, fps)
    tool = tool or find_ffmpeg()
    feed: StdinFeed | None = None
    alias: NameAlias | None = None
    shown, path = name, None
    if name == "-":
        feed, shown = StdinFeed(sys.stdin.fileno()), "standard input"
        url = file_url(feed.spool_path) if feed.spool_path else "pipe:0"
    elif is_url(name):
        url, shown = name, shown_url(name)
    elif _is_fifo(name):
        feed, shown = StdinFeed(os.open(name, os.O_RDONLY), owned=True), plain_text(Path(name).name)
        url = file_url(feed.spool_path) if feed.spool_path else "pipe:0"
    else:
        path = check_local_file(name)
        alias = NameAlias(path) if NameAlias.needed(path) else None
        url, shown = file_url(alias.path if alias else path), plain_text(Path(name).name or name)

    def attempt(with_line: bool) -> FileSource:
        return _open(
            tool,
            url,
            shown,
            path,
            feed,
            size,
            start_seconds,
            duration_seconds,
            fps,
            threads or default_threads(),
            keep_sound,
            with_line,
        )

    try:
        try:
            source = attempt(with_line)
        except MediaError:
            if not with_line or feed is not None:
                raise
            source = attempt(False)  # maybe it is the sound that cannot be decoded
            if source.probe.sound_tracks:
                source.warnings.append(f"{shown}: its sound cannot be decoded and is left out")
    except BaseException:
        if feed is not None:
            feed.close()
        if alias is not None:
            alias.remove()
        raise
    source.alias = alias
    return source


def _is_fifo(name: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def check_local_file(name: str) -> str:
    """Gives ``name`` if it is a file that can be read.

    Raises:
        MediaError: it is missing, a folder, or not readable.
    """
    path = Path(name)
    try:
        if path.is_dir():
            raise MediaError(f"input {name!r} is a folder", "give one video file")
        with open(path, "rb") as file:
            if path.is_file() and not file.read(1):
                raise MediaError(f"input {name!r} is empty (0 bytes)", READABLE_REMEDY)
    except FileNotFoundError:
        raise MediaError(f"input {name!r} does not exist", "check the name and the folder you are in") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise MediaError(f"input {name!r} cannot be read: {reason}", "check its name and permissions") from None
    return name


def _check_request(size: tuple[int, int] | None, start: float, duration: float | None, fps: float | None) -> None:
    if size is not None and not all(1 <= side <= MAX_SIDE for side in size):
        raise UsageProblem(
            f"size {size[0]}x{size[1]} is not allowed: each side is 1 to {MAX_SIDE} pixels",
            "give a size such as 768x432",
        )
    if not 0.0 <= start < 1e7:
        raise UsageProblem(f"start {start:g} s is not allowed: 0 or more", "give --start 1.5")
    if duration is not None and not 0.0 < duration < 1e7:
        raise UsageProblem(f"duration {duration:g} s is not allowed: more than 0", "give --duration 10")
    if fps is not None and not 0.01 <= fps <= 1000.0:
        raise UsageProblem(f"{fps:g} frames a second are not allowed: 0.01 to 1000", "give --fps 30")


def _open(
    tool: FfmpegTool,
    url: str,
    name: str,
    path: str | None,
    feed: StdinFeed | None,
    size: tuple[int, int] | None,
    start: float,
    duration: float | None,
    fps: float | None,
    threads: int,
    keep_sound: bool,
    with_line: bool,
) -> FileSource:
    piped = url == "pipe:0"
    probe = probe_media(tool, url, name=name, feed=feed.head if feed and piped else None)
    video = require_video(probe, name)
    scan = None
    if not piped and not is_url(url):
        end = None if duration is None else start + duration
        scan = scan_packets(tool, url, start_seconds=start, end_seconds=end)
    sound_folder = None
    sound_url = None if piped or (is_url(url) and not probe.sound_tracks) else url
    if piped and keep_sound and probe.sound_tracks:
        sound_folder = tempfile.TemporaryDirectory(prefix="mirage-sound-")
        sound_url = file_url(Path(sound_folder.name) / "sound.nut")
    warnings: list[str] = []
    arguments = decode_arguments(
        tool,
        probe,
        video,
        url,
        size=size,
        start_seconds=start,
        duration_seconds=duration,
        fps=fps,
        threads=threads,
        warnings=warnings,
        sound_to=sound_url if sound_folder else None,
        probe_bytes=max(len(feed.head), 1 << 20) if feed else 0,
        with_line=with_line,
    )
    process = FfmpegProcess(
        tool, arguments, stdin=subprocess.PIPE if piped else subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        if piped and feed is not None:
            feed.start(process.stdin)
        read_sound = SoundLine()
        reader, packet = _first_picture(process, name, start, read_sound)
    except BaseException:
        process.stop()
        process.stdout.close()
        if sound_folder is not None:
            sound_folder.cleanup()
        raise
    if start > 0:
        process.forget_errors()  # pictures before the range lacked what they refer to
    info = _describe(name, probe, video, scan, reader, size, start, duration, fps)
    source = FileSource(
        process,
        reader,
        info,
        probe,
        packet,
        start_seconds=start,
        duration_seconds=duration,
        path=path,
        sound_url=sound_url,
        feed=feed,
        sound_folder=sound_folder,
        read_sound=read_sound if reader.sound_rate else None,
    )
    source.warnings += warnings
    return source


def require_video(probe: MediaProbe, name: str) -> VideoTrack:
    """The picture track.

    Raises:
        MediaError: there is none, its frames are too large, or what ffmpeg takes for one is text.
    """
    video = probe.video
    if video is None and probe.audio_codecs:
        raise MediaError(f"{name} holds sound ({', '.join(probe.audio_codecs)}) but no video", READABLE_REMEDY)
    if video is None:
        raise MediaError(f"{name} holds no video that ffmpeg can decode", READABLE_REMEDY)
    if video.width * video.height > MAX_PIXELS or max(video.width, video.height) > MAX_SIDE:
        raise MediaError(
            f"{name} has frames of {video.width}x{video.height}; allowed: {MAX_SIDE} a side and "
            f"{MAX_PIXELS / 1e6:.0f} million pixels",
            "scale it down first, e.g. with ffmpeg",
        )
    if video.codec in ("ansi", "bintext", "xbin", "idf"):
        raise MediaError(f"{name} is text, not video", READABLE_REMEDY)
    return video


def _first_picture(
    process: FfmpegProcess, name: str, start: float, line: SoundLine
) -> tuple[RawPipeReader, tuple[Fraction, np.ndarray]]:
    packet = None
    try:
        pipe = io.BufferedReader(process.stdout, 1 << 16)  # type: ignore[type-var]
        reader = RawPipeReader(pipe, lambda at, samples: line.put(Sound(samples, float(at))))
        packet = reader.read_frame()
    except RawPipeError:
        pass
    if packet is None:
        process.wait()
        reason = process.first_error or (process.failure() if process.error_count else "")
        if start > 0 and not reason:
            raise MediaError(f"{name} has no frame after {start:g} s", "give a --start inside the clip")
        detail = f" ({reason})" if reason else " (it holds none)"
        raise MediaError(f"no frame of {name} could be decoded{detail}", READABLE_REMEDY)
    return reader, packet


def _describe(
    name: str,
    probe: MediaProbe,
    video: VideoTrack,
    scan: PacketScan | None,
    reader: RawPipeReader,
    size: tuple[int, int] | None,
    start: float,
    duration: float | None,
    fps: float | None,
) -> StreamInfo:
    rate = rational_rate(fps) if fps else exact_rate(video, scan)
    length = probe.duration_seconds
    if length is not None:
        length = max(length - start, 0.0)
    if scan is not None and scan.frame_count:
        length = scan.end_seconds - scan.first_seconds
        if scan.variable_rate and not fps and length > 0:
            rate = Fraction(scan.frame_count / length).limit_denominator(1001)
    if duration is not None:
        length = min(length, duration) if length is not None else None
    count = scan.frame_count if scan and not fps else None
    if count is None and length is not None:
        count = max(1, round(length * rate))
    if scan is not None:
        variable = scan.variable_rate
    else:
        variable = bool(video.fps and video.base_rate and _differ(video.fps, video.base_rate))
    return StreamInfo(
        width=reader.width,
        height=reader.height,
        fps=float(rate) or 25.0,
        frame_count=count,
        duration_seconds=length,
        variable_rate=variable and not fps,
        has_audio=bool(probe.sound_tracks),
        name=name,
        pixel_aspect=_aspect(reader, video, size),
    )


def _differ(fps: Fraction, base: Fraction) -> bool:
    return base < 1000 and abs(fps / base - 1) > 0.005


def _aspect(reader: RawPipeReader, video: VideoTrack, size: tuple[int, int] | None) -> tuple[int, int]:
    """The shape of a pixel; the rounding of a size to whole pixels is no change of shape."""
    num, den = reader.sample_aspect
    if size is None:
        return num, den
    turned = round(video.rotation_degrees / 90.0) % 2 == 1
    width, height = (video.height, video.width) if turned else (video.width, video.height)
    own = Fraction(num, den) * size[0] * height / (size[1] * width)  # before scaling
    for plain in {Fraction(1), own.limit_denominator(100)}:
        if abs(float(own / plain) - 1) > 1e-3:
            continue
        exact_height = size[0] * height * plain / width / plain
        if abs(exact_height - size[1]) <= 1 or abs(Fraction(size[1] * width, height) - size[0]) <= 1:
            return plain.numerator, plain.denominator
    return num, den
