"""Frames into a file, a pipe or a stream.

Pictures go to one ffmpeg through a pipe, each with its own time (``media.nut_writer``), so that variable
frame rates survive. A file is written as NAME.part; sound is copied from the source in a second,
quick pass once it is known how long the pictures are; only a whole file gets its final name.
Pipes and streams are written in one pass.

H.264 and H.265 in the usual 4:2:0 hold even sizes only. An odd size is kept by taking 4:4:4, which
some browsers and phones do not play; a warning says so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mirage_cli.errors import MediaError, plain_text
from mirage_cli.frames import Frame, FrameSink, Sound, StreamInfo
from mirage_cli.inputs.file import FileSource
from mirage_cli.media.addresses import file_url
from mirage_cli.media.encode import encode_arguments
from mirage_cli.media.ffmpeg import FfmpegProcess, FfmpegTool, StillRunning, rational_rate
from mirage_cli.media.formats import Container, encoder_of, tick_rate
from mirage_cli.media.messages import disk_is_full, output_is_open, reader_is_gone
from mirage_cli.media.nut_writer import NutWriter
from mirage_cli.media.place import Kind, Place
from mirage_cli.media.sound_line import CHANNELS, RATE, SoundFeed
from mirage_cli.media.sound_plan import SoundPlan, add_sound
from mirage_cli.outputs.ending import not_written, reaches_the_end
from mirage_cli.outputs.part_names import new_part_file
from mirage_cli.outputs.plan import plan_output

# Times nearer to the frame rate's grid than this are put on it: Matroska rounds to 1 ms.
GRID_TOLERANCE_SECONDS = 0.0006
STREAM_GRACE_S = 3.0


class FileSink(FrameSink):
    """Writes frames. Made by ``open_output``; use from one thread.

    Attributes:
        frames_written: so far.
        target: where the output goes.
        ticks_per_second: the output's time base.
        end_seconds: at the end, how long the reader of a pipe may take nothing; None waits without limit.
    """

    _closed = True  # until its encoder runs: there is nothing to discard

    def __init__(
        self,
        tool: FfmpegTool,
        target: Place,
        info: StreamInfo,
        container: Container,
        encoder: dict[str, str],
        sound: SoundPlan | None,
        source: FileSource | None,
        warnings: list[str],
        with_line: bool = False,
        shown: str | None = None,
    ) -> None:
        super().__init__(warnings)
        self.target, self._place, self.frames_written = target.path, target, 0
        self.end_seconds: float | None = None
        self._shown = target.shown if target.kind is Kind.PIPE else plain_text(shown or target.path)
        self._tool, self._info, self._container = tool, info, container
        self._sound, self._source, self._with_line = sound, source, with_line
        self._rate = rational_rate(info.fps)
        grid = None if info.variable_rate else self._rate.numerator
        self.ticks_per_second = tick_rate(encoder_of(encoder), grid)
        self._first_pts = self._last_pts = 0.0
        self._last_ticks = -1
        self._problem: MediaError | None = None
        self._final = Path(os.path.realpath(target.path)) if target.kind is Kind.FILE else None
        self._parts: list[Path] = []
        if self._final is not None:
            self._add_part()
        arguments, stdout = self._encode_command(encoder)
        try:
            self._process = FfmpegProcess(
                tool, arguments, feed=True, stdout=stdout, level="info" if target.is_address else "warning"
            )
            self._closed = False
            self._pipe = NutWriter(
                self._process.stdin.fileno(),
                info.width,
                info.height,
                self.ticks_per_second,
                self._rate,
                info.pixel_aspect,
                (RATE, CHANNELS) if with_line else None,
            )
        except BaseException:
            self._remove_parts()
            raise
        self._feed = SoundFeed(self._pipe.write_sound)
        self._begun = False

    def write(self, frame: Frame) -> None:
        """Takes one frame.

        Raises:
            MediaError: ffmpeg has ended (disk full, encoder failed); nothing is left behind.
            ValueError: the frame has another size than ``info``, or the sink is closed.
        """
        if self._problem is not None:
            raise self._problem
        if self._closed:
            raise ValueError("the output is closed")
        if not self.frames_written:
            self._first_pts = frame.pts_seconds
        pts = max(0.0, frame.pts_seconds - self._first_pts)
        ticks = max(self.to_ticks(pts), self._last_ticks + 1)
        try:
            if self._with_line:
                self._feed.picture(frame.pts_seconds)
            self._pipe.write(ticks, frame.rgb)
        except OSError:
            self._fail()
        self._last_ticks, self._last_pts = ticks, pts
        self.frames_written += 1

    def write_sound(self, sound: Sound) -> None:
        """Takes sound that belongs to the frames; only a sink made with ``with_line`` keeps it.

        Raises:
            MediaError: as of ``write``.
        """
        if not self._with_line or self._closed:
            return
        try:
            self._feed.take(sound)
        except OSError:
            self._fail()

    def close(self, commit: bool = True) -> None:
        """Finishes the output, or with ``commit=False`` discards it. Idempotent.

        Raises:
            MediaError: the output cannot be finished; nothing is left behind.
        """
        if self._closed:
            if commit and self._problem is not None:
                raise self._problem
            return
        self._closed = True
        if not commit:
            self._discard()
            return
        try:
            if not self.frames_written:
                raise MediaError(f"no frame was written to {self._shown}", "check the input")
            self._finish_pictures()
            if self._final is not None:
                self._finish_file(self._final)
        except BaseException:
            self._discard()
            raise

    @property
    def begun(self) -> bool:
        """Whether an address was reached and is being written to."""
        self._begun = self._begun or output_is_open(self._process.messages())
        return self._begun

    @property
    def waits(self) -> bool:
        return self._final is None

    @property
    def running(self) -> bool:
        return self._process.running

    def kill(self) -> None:
        """End ffmpeg at once; a ``write`` that waits in another thread fails then."""
        self._process.stop()

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(commit=kind is None)

    def __del__(self) -> None:
        if not self._closed:
            self._closed = True
            self._discard()

    @property
    def name(self) -> str:
        """Of the file, without its folder."""
        return os.path.basename(self.target)

    # Times

    def to_ticks(self, pts_seconds: float) -> int:
        """A time in ticks of the output, on the frame rate's grid where it is near to it."""
        if self._info.variable_rate:
            return round(pts_seconds * self.ticks_per_second)
        slot = round(pts_seconds * self._rate)
        on_grid = slot / self._rate
        if abs(float(on_grid) - pts_seconds) < GRID_TOLERANCE_SECONDS:
            return round(on_grid * self.ticks_per_second)
        return round(pts_seconds * self.ticks_per_second)

    @property
    def _length_seconds(self) -> float:
        return self._last_pts + float(1 / self._rate)

    def _all_written(self) -> bool:
        return reaches_the_end(self._source, self._info, self._length_seconds, 1.0 / float(self._rate))

    # Commands

    def _encode_command(self, encoder: dict[str, str]) -> tuple[list[str], int | None]:
        """The arguments, and the descriptor that ffmpeg writes to if it is not ours."""
        target, stdout = self.target, None
        if self._final is not None:
            target = file_url(self._parts[0])
        elif self._place.kind is Kind.PIPE:
            target, stdout = "pipe:1", sys.stdout.fileno()
        elif not self._place.is_address:
            target = file_url(target)
        arguments = encode_arguments(
            self._container,
            encoder,
            target,
            rate=self._rate,
            ticks_per_second=self.ticks_per_second,
            in_two_passes=self._final is not None,
            sound=self._sound,
            with_line=self._with_line,
        )
        return arguments, stdout

    def _finish_pictures(self) -> None:
        try:
            self._process.stdin.close()
        except OSError:
            pass
        if self._final is None and self._sound is not None and not self._all_written():
            # The sound's own end may be far off, and ffmpeg would copy all of it.
            try:
                self._process.wait(STREAM_GRACE_S)
            except StillRunning:
                self._process.stop(grace_s=STREAM_GRACE_S)
                return
        if self._wait_for_reader() != 0:
            raise self._explain(self._process.failure())

    def _wait_for_reader(self) -> int:
        """Waits until all is written, while it is read; gives ffmpeg's exit status."""
        if self._final is not None or self.end_seconds is None:
            return self._process.wait()
        try:
            return self._process.wait_while_writing(self.end_seconds)
        except StillRunning:
            raise MediaError(
                f"{self._shown} has taken no frame for {self.end_seconds:g} s",
                "Check it, or wait longer with --timeout SECONDS.",
            ) from None

    def _finish_file(self, final: Path) -> None:
        done = self._parts[0]
        if self._sound is not None:
            done = self._add_sound(self._sound, done)
        try:
            os.replace(done, final)
        except OSError as problem:
            raise self._explain(problem.strerror or str(problem)) from None
        self._parts = [part for part in self._parts if part != done]
        self._remove_parts()

    def _add_sound(self, plan: SoundPlan, pictures: Path) -> Path:
        plan = plan.later(self._first_pts)
        if not self._all_written():
            plan = plan.ending_at(self._length_seconds)
        if self._source is not None and plan.kept:
            self._source.close()  # completes the file that the sound is kept in
        whole = self._add_part(".sound")
        pictures_input: tuple[str, dict[str, Any]] = (file_url(pictures), {})
        added = add_sound(self._tool, plan, pictures_input, whole, self._container, self.warnings, self._explain)
        return whole if added else pictures

    # Ends

    def _fail(self) -> None:
        try:
            self._process.wait(10.0)
        except StillRunning:
            self._process.stop()
        self._closed = True
        self._problem = self._explain(self._process.failure())
        self._discard()
        raise self._problem

    def _explain(self, message: str) -> MediaError:
        lines = self._process.messages()
        if self._place.kind is Kind.PIPE and reader_is_gone(message) and not disk_is_full([*lines, message]):
            return MediaError("the program that reads the output has ended (Broken pipe)", "")
        return not_written(self._shown, self._final, message, lines)

    def _discard(self) -> None:
        self._process.stop()
        try:
            self._process.stdin.close()
        except OSError:
            pass
        self._remove_parts()

    def _add_part(self, label: str = "") -> Path:
        assert self._final is not None
        try:
            part = new_part_file(self._final, label)
        except OSError as problem:
            self._remove_parts()
            raise MediaError(
                f"output {self.target!r} cannot be written: {problem.strerror}",
                "choose a folder that exists and that you may write to",
            ) from None
        self._parts.append(part)
        return part

    def _remove_parts(self) -> None:
        for part in self._parts:
            part.unlink(missing_ok=True)
        self._parts = []


def open_output(
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
) -> FileSink:
    """Opens an output; nothing of the final name is touched before ``close(commit=True)``.

    Args:
        name: a file whose suffix names the container (.mp4 .m4v .mov .mkv .webm .gif .avi
            .ts), "-" for Matroska on standard output, a device or fifo, or an rtmp, rtsp, udp, srt
            or tcp URL.
        info: size, rate and pixel aspect of the frames to come; ``duration_seconds`` tells a whole
            run from one that was stopped early, whose sound is cut to the pictures.
        codec: h264, h265, vp9, av1, ffv1, prores, ... or an encoder of ffmpeg; None for the
            container's own (libx264, libvpx-vp9, gif, mpeg4).
        crf: quality in the encoder's own scale; None for near transparent (18 for h264).
        audio_from: where the sound is copied from, the input's path or its open ``FileSource``;
            None for no sound. Tracks that the container cannot hold are encoded.
        overwrite: replace an existing file.
        start_seconds, duration_seconds: the range that was read of ``audio_from``; a
            ``FileSource`` knows its own.
        preset: speed of libx264 and libx265; veryfast by default.
        threads: for the encoder; see ``inputs.file.default_threads``.
        form: what goes through a pipe, one of ``formats.PIPE_FORMATS``.
        low_delay: encode for viewers who watch it now; see ``formats.low_delay_options``.
        with_line: it will get sound by ``write_sound``; not together with ``audio_from``.
        again: the connection was lost: the segments of a playlist get new, higher numbers.

    Raises:
        UsageProblem: a codec, crf, preset or size that is not allowed.
        MediaError: an unknown suffix, an existing file, the input itself, a folder that is not
            there or not writable.
    """
    plan = plan_output(
        name,
        info,
        codec=codec,
        crf=crf,
        audio_from=audio_from,
        overwrite=overwrite,
        start_seconds=start_seconds,
        duration_seconds=duration_seconds,
        preset=preset,
        threads=threads,
        tool=tool,
        form=form,
        low_delay=low_delay,
        with_line=with_line,
        again=again,
    )
    return FileSink(*plan)
