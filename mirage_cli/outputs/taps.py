"""What hangs on the output of a live stream: recordings, snapshots and the preview.

``TapSink`` stands before the run's own sinks and sees every picture that goes out. Its ``write`` runs in
the pipeline's encode thread; what is slow (opening and finishing files, PNG) is done in the thread that asks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import (
    Future,
    TimeoutError as NotInTime,  # before Python 3.11 not the built-in one
)
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mirage_cli.errors import MediaError, MirageError
from mirage_cli.frames import Frame, FrameSink, SinkWrapper, Sound
from mirage_cli.outputs.part_names import write_whole

OpenRecording = Callable[[str], FrameSink]


class TapSink(SinkWrapper):
    """Passes frames on to ``inner`` and, while asked to, to a recording, a snapshot and watchers.

    Args:
        inner: the run's own sinks.
        folder: where recordings and snapshots go; made when the first is.
        open_recording: path -> a sink that takes frames of the output's size.
        number_of: a frame's index in the source -> its number among those the model made.
    """

    def __init__(
        self,
        inner: FrameSink,
        folder: str | Path,
        open_recording: OpenRecording,
        number_of: Callable[[int], int] = lambda index: index,
    ) -> None:
        super().__init__(inner)
        self._folder, self._open = Path(folder), open_recording
        self._number_of = number_of
        self._lock = threading.Lock()
        self._recording: FrameSink | None = None
        self._asked: tuple[FrameSink | None, Future[int]] | None = None
        self._begin_seconds: float | None = None
        self._recent: deque[Sound] = deque(maxlen=100)  # some two seconds
        self._shots: list[Future[tuple[int, np.ndarray]]] = []
        self._ended = False
        self.recording: str | None = None
        self.files: list[str] = []
        self.watch: Callable[[np.ndarray], None] | None = None

    @property
    def warnings(self) -> list[str]:
        return [*super().warnings, *self._warnings]

    def write(self, frame: Frame) -> None:
        """Take the next picture of the output."""
        with self._lock:
            asked, self._asked = self._asked, None
            shots, self._shots = self._shots, []
        number = self._number_of(frame.index) if asked is not None or shots else 0
        if asked is not None and asked[1].set_running_or_notify_cancel():
            self._recording, self._begin_seconds = asked[0], None
            asked[1].set_result(number)
        for shot in shots:
            if shot.set_running_or_notify_cancel():
                shot.set_result((number, frame.rgb))
        self.inner.write(frame)
        if self._recording is not None:
            self._record(self._recording, frame)
            self._recent.clear()  # it has them
        if self.watch is not None:
            self.watch(frame.rgb)

    def _record(self, recording: FrameSink, frame: Frame) -> None:
        if self._begin_seconds is None:
            self._begin_seconds = frame.pts_seconds
            for sound in self._recent:  # read ahead of this picture
                self._record_sound(sound)
        pts = frame.pts_seconds - self._begin_seconds
        try:
            recording.write(Frame(frame.rgb, pts, frame.index))
        except MirageError as error:  # the disk is full, say: the stream itself goes on
            self._recording = self.recording = None
            self._warnings.append(f"the recording ended: {error.message}")
            recording.close(commit=False)

    def write_sound(self, sound: Sound) -> None:
        """Take sound that goes out with the pictures."""
        self.inner.write_sound(sound)
        if self._recording is not None and self._begin_seconds is not None:
            self._record_sound(sound)
        else:
            self._recent.append(sound)

    def _record_sound(self, sound: Sound) -> None:
        if self._recording is None:
            return
        pts = sound.pts_seconds - (self._begin_seconds or 0.0)
        try:
            self._recording.write_sound(Sound(sound.samples, pts))
        except MirageError:
            pass  # the next picture raises it again

    def record_from_start(self) -> None:
        """Record from the very first picture on; before the run begins.

        Raises:
            MediaError: the file cannot be written.
        """
        path = self._free_name(".mp4")
        self._recording, self.recording = self._open(str(path)), str(path)
        self.files.append(str(path))

    # --- asked for by other threads ------------------------------------------------------------------

    def start_recording(self, wait_seconds: float) -> tuple[int, str]:
        """Record from the next picture on.

        Returns:
            The number of the first picture in it, and its path.

        Raises:
            MediaError: one is running, the file cannot be written, or no picture came in time.
        """
        if self.recording is not None:
            raise MediaError(f"{self.recording} is being recorded already", "End it first: /record off")
        path = self._free_name(".mp4")
        sink = self._open(str(path))
        self.recording = str(path)
        try:
            number = self._swap(sink, wait_seconds)
        except BaseException:  # the end of the stream, CancelledError, as well
            self.recording = None
            sink.close(commit=False)
            raise
        self.files.append(str(path))
        return number, str(path)

    def stop_recording(self, wait_seconds: float) -> tuple[int, str]:
        """End the recording and finish its file; returns the first picture that is not in it.

        Raises:
            MediaError: none is running, its file could not be finished, or no picture came in time.
        """
        sink, path = self._recording, self.recording
        if sink is None or path is None:
            raise MediaError("nothing is being recorded", "Begin with: /record")
        number = self._swap(None, wait_seconds)
        self.recording = None
        sink.close(commit=True)
        return number, path

    def _swap(self, sink: FrameSink | None, wait_seconds: float) -> int:
        done: Future[int] = Future()
        with self._lock:
            self._asked = (sink, done)
            if self._ended:
                done.cancel()
        try:
            return done.result(wait_seconds)
        except NotInTime:
            with self._lock:
                if self._asked is not None and self._asked[1] is done:
                    self._asked = None
                    raise MediaError(
                        f"no picture came within {wait_seconds:g} s", "Check the source, then try again."
                    ) from None
            return done.result(0)  # it came at the last moment

    def snapshot(self, wait_seconds: float) -> tuple[int, str]:
        """Write the next picture as a PNG; returns its number and path.

        Raises:
            MediaError: it cannot be written, or no picture came in time.
        """
        shot: Future[tuple[int, np.ndarray]] = Future()
        with self._lock:
            self._shots.append(shot)
            if self._ended:
                shot.cancel()
        try:
            number, rgb = shot.result(wait_seconds)
        except NotInTime:
            raise MediaError(
                f"no picture came within {wait_seconds:g} s", "Check the source, then try again."
            ) from None
        path = self._free_name(".png")
        good, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        try:
            if not good:
                raise OSError("the picture could not be encoded")
            write_whole(path, data.tobytes())
        except OSError as error:
            raise MediaError(
                f"{str(path)!r} cannot be written: {error.strerror or error}",
                "Give a folder that can be written: --record-folder DIR",
            ) from error
        self.files.append(str(path))
        return number, str(path)

    def end(self) -> None:
        """No picture will come any more: what waits for one is cancelled."""
        with self._lock:
            self._ended = True
            asked, self._asked = self._asked, None
            shots, self._shots = self._shots, []
        if asked is not None:
            asked[1].cancel()
        for shot in shots:
            shot.cancel()

    def _free_name(self, suffix: str) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(
                f"folder {str(self._folder)!r} cannot be made: {error.strerror or error}",
                "Give another: --record-folder DIR",
            ) from error
        stem = time.strftime("mirage-%Y%m%d-%H%M%S")
        for count in range(1000):
            path = self._folder / f"{stem}{f'-{count}' if count else ''}{suffix}"
            if not path.exists():
                return path
        raise MediaError(f"folder {str(self._folder)!r} has no free name left", "Give another: --record-folder DIR")

    def close(self, commit: bool = True) -> None:
        """Finish the recording, which is whole however the run ended, and close the run's sinks."""
        sink, self._recording, self.recording = self._recording, None, None
        try:
            if sink is not None:
                sink.close(commit=self._begin_seconds is not None)
        finally:
            self.inner.close(commit)


class NewestPicture:
    """Hands the newest picture to the preview; costs nothing while there are no watchers."""

    def __init__(self, tap: TapSink) -> None:
        self._tap = tap
        self._lock = threading.Lock()
        self._watchers = 0
        self._rgb: np.ndarray | None = None
        self.came: Callable[[], Any] = lambda: None

    def _take(self, rgb: np.ndarray) -> None:
        with self._lock:
            self._rgb = rgb
        self.came()

    def watch(self, watching: bool) -> None:
        """One watcher more, or one less."""
        with self._lock:
            self._watchers += 1 if watching else -1
            self._tap.watch = self._take if self._watchers else None

    def jpeg(self, quality: int = 80) -> bytes | None:
        """The newest picture not yet taken, as JPEG; None when there is none."""
        with self._lock:
            rgb, self._rgb = self._rgb, None
        if rgb is None:
            return None
        good, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return data.tobytes() if good else None
