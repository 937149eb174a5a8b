"""Frames out of any file, pipe or URL that ffmpeg reads.

One ffmpeg decodes, rotates, scales and converts to RGB; the pictures and their exact times come
through a pipe (``media.raw_pipe``), a frame at a time, however long the clip. Variable frame rates stay
as they are, since every frame carries its own time.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSource, Sound, SoundLine, StreamInfo
from mirage_cli.inputs.checks import check_local_file, require_video
from mirage_cli.inputs.file_info import FileRequest, describe
from mirage_cli.inputs.pipe import StdinFeed
from mirage_cli.media.addresses import NameAlias, file_url
from mirage_cli.media.decode import NUT_SHIFT_SECONDS, decode_arguments
from mirage_cli.media.ffmpeg import FfmpegProcess, FfmpegTool, find_ffmpeg
from mirage_cli.media.place import Kind, Place
from mirage_cli.media.probe import READABLE_REMEDY, MediaProbe, make_timeline, probe_media, scan_packets
from mirage_cli.media.raw_pipe import RawPipeError, RawPipeReader

# ffmpeg's muxer turns a time that jumps back into the last one plus a tick of 1 us.
STALL_SECONDS = 1e-5


def default_threads() -> int:
    """Threads for one ffmpeg: half of the processors, 1 to 4; the model needs the rest."""
    return min(4, max(1, (os.cpu_count() or 1) // 2))


class FileSource(FrameSource):
    """Frames of one file, pipe or URL, in order.

    Made by ``open_file``. Iterate once, in one thread; ``close`` may come from any thread.

    Attributes:
        info: known at once; the first frame is decoded already.
        timeline: places the frames among the file's time stamps, for sound.
        finished: the end of the input was reached (and not cut off by ``close``).
        probe, start_seconds, duration_seconds: what was found and what was asked for.
        sound_url: from where sound, subtitles and tags can be copied, as ffmpeg reads it; None
            where they cannot be read again.
        sound_shift_seconds: how much later the sound lies in ``sound_url`` than in the input, where the decoder keeps
            the sound of a pipe in a file of its own; else 0.
        path: the local file, None for pipes and URLs.
        sound: decoded along with the frames; None unless asked for.
        alias: stands for ``path`` in commands, where its name needs it.
    """

    sound: SoundLine | None = None
    alias: NameAlias | None = None
    # What ``release`` asks for, which also runs for a source that was not made whole.
    _closed = True
    _feed: StdinFeed | None = None
    _sound_folder: tempfile.TemporaryDirectory[str] | None = None

    def __init__(
        self,
        process: FfmpegProcess,
        reader: RawPipeReader,
        info: StreamInfo,
        probe: MediaProbe,
        first: tuple[Fraction, np.ndarray],
        request: FileRequest,
        *,
        path: str | None,
        sound_url: str | None,
        feed: StdinFeed | None,
        sound_folder: tempfile.TemporaryDirectory[str] | None,
        read_sound: SoundLine | None = None,
    ) -> None:
        super().__init__()
        self.info = info
        self.sound = SoundLine() if read_sound is not None else None
        self._read_sound = read_sound or SoundLine()  # in the times of the pipe
        self.finished = False
        self.path = path
        self.sound_url = sound_url
        self.sound_shift_seconds = float(NUT_SHIFT_SECONDS) if sound_folder is not None else 0.0
        self.timeline = make_timeline(probe, float(first[0]), request.start_seconds)
        self._process, self._reader, self._first = process, reader, first
        self.probe = probe
        self.start_seconds, self.duration_seconds = request.start_seconds, request.duration_seconds
        self._feed, self._sound_folder = feed, sound_folder
        self._begun = self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        if self._begun:
            raise RuntimeError("a source can be iterated once")
        self._begun = True
        begin, nominal = self._first[0], 1.0 / self.info.fps
        packet: tuple[Fraction, np.ndarray] | None = self._first
        del self._first  # it must not be held here while the consumer has the frame
        last = last_raw = -1.0
        shift, stalled, index = 0.0, 0, 0
        line, read = self.sound, self._read_sound
        while packet is not None:
            raw = float(packet[0] - begin)
            pts = raw + shift
            stalled = stalled + 1 if raw - last_raw < STALL_SECONDS else 0
            if stalled > 1:  # joined files whose times jump back: continue from here
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
        return self._feed is None

    @property
    def own_size(self) -> tuple[int, int]:
        video = self.probe.video
        return video.shown_size if video else super().own_size

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
    name: str | os.PathLike[str] | Place,
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
        name: a file, "-" for standard input, a named pipe, or a URL that ffmpeg reads.
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
    place = name if isinstance(name, Place) else Place.of_input(os.fspath(name))
    request = FileRequest(size, start_seconds, duration_seconds, fps)
    request.check()
    tool = tool or find_ffmpeg()
    feed: StdinFeed | None = None
    alias: NameAlias | None = None
    path: str | None = None
    if place.kind is Kind.PIPE:
        feed = StdinFeed(sys.stdin.fileno())
    elif place.kind is Kind.DEVICE:
        feed = StdinFeed(os.open(place.path, os.O_RDONLY), owned=True)
    elif not place.is_address:
        path = check_local_file(place.path)
        alias = NameAlias(path) if NameAlias.needed(path) else None
    if feed is not None:
        url = file_url(feed.spool_path) if feed.spool_path else "pipe:0"
    else:
        url = place.path if path is None else file_url(alias.path if alias else path)

    def attempt(with_line: bool) -> FileSource:
        return _open(tool, place, url, path, feed, request, threads or default_threads(), keep_sound, with_line)

    try:
        try:
            source = attempt(with_line)
        except MediaError:
            if not with_line or feed is not None:
                raise
            source = attempt(False)  # it may be the sound that cannot be decoded
            if source.probe.sound_tracks:
                source.warnings.append(f"{place.shown}: its sound cannot be decoded and is left out")
    except BaseException:
        if feed is not None:
            feed.close()
        if alias is not None:
            alias.remove()
        raise
    source.alias = alias
    return source


def _open(
    tool: FfmpegTool,
    place: Place,
    url: str,
    path: str | None,
    feed: StdinFeed | None,
    request: FileRequest,
    threads: int,
    keep_sound: bool,
    with_line: bool,
) -> FileSource:
    name, piped = place.shown, url == "pipe:0"
    probe = probe_media(tool, url, name=name, feed=feed.head if feed and piped else None)
    video = require_video(probe, name)
    scan = None
    if not piped and not place.is_address:
        scan = scan_packets(tool, url, start_seconds=request.start_seconds, end_seconds=request.end_seconds)
    sound_folder = None
    sound_url = None if piped or (place.is_address and not probe.sound_tracks) else url
    if piped and keep_sound and probe.sound_tracks:
        sound_folder = tempfile.TemporaryDirectory(prefix="mirage-sound-")
        sound_url = file_url(Path(sound_folder.name) / "sound.nut")
    warnings: list[str] = []
    arguments = decode_arguments(
        tool,
        probe,
        video,
        url,
        size=request.size,
        start_seconds=request.start_seconds,
        duration_seconds=request.duration_seconds,
        fps=request.fps,
        threads=threads,
        warnings=warnings,
        sound_to=sound_url if sound_folder else None,
        probe_bytes=max(len(feed.head), 1 << 20) if feed else 0,
        with_line=with_line,
    )
    process = FfmpegProcess(tool, arguments, feed=piped, read=True)
    try:
        if piped and feed is not None:
            feed.start(process.stdin)
        read_sound = SoundLine()
        reader, packet = _first_picture(process, name, request.start_seconds, read_sound)
    except BaseException:
        process.stop()
        process.stdout.close()
        if sound_folder is not None:
            sound_folder.cleanup()
        raise
    if request.start_seconds > 0:
        process.forget_errors()  # pictures before the range lacked what they refer to
    info = describe(
        name, probe, video, scan, request, size=(reader.width, reader.height), sample_aspect=reader.sample_aspect
    )
    source = FileSource(
        process,
        reader,
        info,
        probe,
        packet,
        request,
        path=path,
        sound_url=sound_url,
        feed=feed,
        sound_folder=sound_folder,
        read_sound=read_sound if reader.sound_rate else None,
    )
    source.warnings.extend(warnings)
    return source


def _first_picture(
    process: FfmpegProcess, name: str, start: float, line: SoundLine
) -> tuple[RawPipeReader, tuple[Fraction, np.ndarray]]:
    packet = None
    try:
        pipe = io.BufferedReader(process.stdout, 1 << 16)  # type: ignore[type-var]  # an IO[bytes] has what it needs
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
