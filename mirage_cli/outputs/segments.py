"""A file that is encoded in segments, so that a job that is killed can go on.

Every 250 frames (the usual distance of key frames) the encoder is finished and its segment is stored
with the state of the stream, on a thread of its own: the frames flow on. At the end the segments are
joined without encoding them again. A job that was interrupted has the same segments, bit for bit, as
one that was not.
"""

from __future__ import annotations

import copy
import os
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mirage_cli.errors import MediaError, plain_text
from mirage_cli.frames import Frame, FrameSink
from mirage_cli.media.addresses import NameAlias, file_url
from mirage_cli.media.encode import SEGMENTS_INPUT, join_segments, segment_list
from mirage_cli.media.formats import Container, encoder_of
from mirage_cli.media.place import Kind, Place
from mirage_cli.media.sound_plan import add_sound
from mirage_cli.outputs.ending import not_written, reaches_the_end
from mirage_cli.outputs.file import FileSink
from mirage_cli.outputs.job_folder import SEGMENT_LIST, JobFolder, Segment, State, segment_name
from mirage_cli.outputs.plan import OutputPlan

SEGMENT_FRAMES = 250
PLAIN_PATH = re.compile(r"[\w/ .-]+")
"""Places of a list that ffmpeg reads as they are."""
# Codecs whose segments can be joined, and the container of a segment; mp4 keeps times exactly.
SEGMENT_MUXER = {
    "libx264": "mp4",
    "libx264rgb": "mp4",
    "libx265": "mp4",
    "h264_nvenc": "mp4",
    "hevc_nvenc": "mp4",
    "libvpx-vp9": "mp4",
    "libsvtav1": "mp4",
    "libaom-av1": "mp4",
    "ffv1": "mp4",
    "mjpeg": "mp4",
    "mpeg4": "mp4",
    "prores_ks": "mov",
}


def can_be_segments(container: Container, codec: str) -> bool:
    """Whether an output of this kind can be made of segments."""
    return codec in SEGMENT_MUXER and not container.constant_rate


class JobSink(FrameSink):
    """The output of a job: segments in its folder, joined at the end.

    Args:
        folder: of the job; its progress says where to go on.
        plan: from ``plan_output``.
        segment_frames: frames of a segment.

    Attributes:
        resumed_at: frames that were whole at the start.
        frames_written: in all.
    """

    def __init__(self, folder: JobFolder, plan: OutputPlan, *, segment_frames: int = SEGMENT_FRAMES) -> None:
        super().__init__(plan.warnings)
        self.folder, self.segment_frames, self._plan = folder, segment_frames, plan
        self.target = plan.target.path
        self._tool, self._info, self._container = plan.tool, plan.info, plan.container
        self._sound, self._source = plan.sound, plan.source
        codec = encoder_of(plan.encoder)
        self._suffix = f".{SEGMENT_MUXER[codec]}"
        self._segment_container = Container(SEGMENT_MUXER[codec], codec, frozenset(), "")
        progress = folder.progress
        self.resumed_at = self.frames_written = progress.frames
        self._first_pts, self._last_pts = progress.first_pts, progress.last_pts
        self._last_tick = progress.last_tick
        self._segments = len(progress.segments)
        self._states: dict[int, State] = {}
        self._lock = threading.Lock()
        self._segment: FileSink | None = None
        self._segment_tick = 0
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="mirage-seal")
        self._sealing: Future[None] | None = None
        self._closed = False
        self._problem: MediaError | None = None
        # The first one is opened at once, so that what the encoder refuses is said before the work.
        self._open_segment()

    def state_due(self, frames: int) -> bool:
        """Whether the state after that number of frames is wanted: a segment ends there."""
        return frames % self.segment_frames == 0

    def offer_state(self, frames: int, state: State) -> None:
        """Take the state after that number of frames, before the last of them is written."""
        with self._lock:
            self._states[frames] = state

    def write(self, frame: Frame) -> None:
        """Takes one frame.

        Raises:
            MediaError: the disk is full, or the encoder failed.
        """
        if self._problem is not None:
            raise self._problem
        if self._segment is None:
            self._open_segment()
        assert self._segment is not None
        if not self.frames_written:
            self._first_pts = frame.pts_seconds
        pts = max(0.0, frame.pts_seconds - self._first_pts)
        tick = max(self._segment.to_ticks(pts), self._last_tick + 1)
        if not self._segment.frames_written:
            self._segment_tick = tick
        try:
            # On the grid of the whole output: the times of a segment begin at 0.
            self._segment.write(replace(frame, pts_seconds=tick / self._segment.ticks_per_second))
        except MediaError as problem:
            self._problem = problem
            raise
        self._last_tick, self._last_pts = tick, pts
        self.frames_written += 1
        if self.frames_written % self.segment_frames == 0:
            self._seal()

    def close(self, commit: bool = True) -> None:
        """Joins the segments, or with ``commit=False`` stops; ``kept`` then tells what is left.

        Raises:
            MediaError: the output cannot be finished.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if commit:
                self._finish()
        except BaseException:
            for half in self.folder.path.glob("whole*"):  # the room may be what was missing
                half.unlink(missing_ok=True)
            raise
        finally:
            if self._segment is not None:
                self._segment.close(commit=False)
                self._segment = None
            self._sealer.shutdown(wait=True)

    @property
    def kept(self) -> int:
        """Frames that another run need not make again."""
        return self.folder.progress.frames

    # Segments

    def _open_segment(self) -> None:
        name = segment_name(self._segments, self._suffix)
        self._segment = FileSink(
            self._tool,
            Place(Kind.FILE, str(self.folder.path / name), name),
            self._info,
            self._segment_container,
            self._plan.encoder,
            None,
            None,
            [],
            shown=self.target,
        )
        self._ticks = self._segment.ticks_per_second

    def _seal(self) -> None:
        """Hand the full segment to the thread that finishes it."""
        segment, self._segment = self._segment, None
        assert segment is not None
        with self._lock:
            state = self._states.pop(self.frames_written)
        self._wait()  # one at a time: what is whole is a beginning without gaps
        progress = copy.copy(self.folder.progress)
        progress.first_pts, progress.last_pts = self._first_pts, self._last_pts
        progress.last_tick = self._last_tick
        entry = Segment(segment.name, segment.frames_written, self._segment_tick)
        self._segments += 1

        def work() -> None:
            segment.close(commit=True)
            self.folder.commit(entry, state, progress)

        self._sealing = self._sealer.submit(work)

    def _wait(self) -> None:
        sealing, self._sealing = self._sealing, None
        try:
            if sealing is not None:
                sealing.result()
        except OSError as problem:
            self._problem = self._explain(problem.strerror or str(problem))
            raise self._problem from None
        except MediaError as problem:
            self._problem = problem
            raise

    # The end

    def _finish(self) -> None:
        self._wait()
        segments = list(self.folder.progress.segments)
        if self._segment is not None and self._segment.frames_written:
            segment, self._segment = self._segment, None
            segment.close(commit=True)
            segments.append(Segment(segment.name, segment.frames_written, self._segment_tick))
        if not segments:
            raise MediaError(f"no frame was written to {plain_text(self.target)}", "check the input")
        listed = self._list(segments)
        if PLAIN_PATH.fullmatch(str(listed)):
            self._join(listed)
            return
        # By another name: ffmpeg takes a ? or # in the list's own place for a part of an address.
        alias = NameAlias(str(self.folder.path))
        try:
            self._join(Path(alias.path) / listed.name)
        finally:
            alias.remove()

    def _join(self, listed: Path) -> None:
        """Writes the output from the list of its segments, with sound, subtitles and tags."""
        whole = self.folder.path / f"whole{os.path.splitext(self.target)[1]}"
        plan = None if self._sound is None else self._sound.later(self._first_pts)
        if plan is not None:
            if not self._all_written():
                plan = plan.ending_at(self._length_seconds)
            if self._source is not None and plan.kept:
                self._source.close()  # completes the file that the sound is kept in
        done = plan is not None and add_sound(
            self._tool, plan, (file_url(listed), SEGMENTS_INPUT), whole, self._container, self.warnings, self._explain
        )
        if not done:
            problem = join_segments(self._tool, listed, whole, self._container)
            if problem is not None:
                raise self._explain(problem)
        try:
            os.replace(whole, os.path.realpath(self.target))
        except OSError as problem:
            raise self._explain(problem.strerror or str(problem)) from None

    def _list(self, segments: list[Segment]) -> Path:
        """The file that names the segments and how long each but the last is."""
        ends = [segment.first_tick for segment in segments[1:]]
        lengths = [(end - segment.first_tick) / self._ticks for segment, end in zip(segments, ends)]
        path = self.folder.path / SEGMENT_LIST
        path.write_text(segment_list(list(zip([segment.name for segment in segments], [*lengths, None]))), "ascii")
        return path

    @property
    def _length_seconds(self) -> float:
        return self._last_pts + 1.0 / self._info.fps

    def _all_written(self) -> bool:
        return reaches_the_end(self._source, self._info, self._length_seconds, 1.0 / self._info.fps)

    def _explain(self, message: str) -> MediaError:
        return not_written(plain_text(self.target), Path(os.path.realpath(self.target)), message)
