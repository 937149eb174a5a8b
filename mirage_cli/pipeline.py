"""The real-time loop: decode, model and encode in a thread each, joined by bounded channels.

    source --[2 frames]--> model --[2 frames]--> sink        live: 1 frame

A file is lossless: a full channel makes its writer wait. A live stream is newest-wins: a frame
that the model has not begun, or the sink not taken, is thrown away when a newer one comes, so
latency never builds up: both channels hold one frame, and a stage waits for one frame at most.
A source or sink that hangs ends the run after ``timeout_seconds``.
A thread that fails ends the run, and its error is raised from ``run``. Memory is constant: no more
frames exist at a time than the channels and the three threads hold.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSink, FrameSource, Pending
from mirage_cli.measure import Meter

Item = TypeVar("Item")
Step = Callable[[Frame], np.ndarray | Pending]  # -> uint8 [H, W, 3], now or later
Compose = Callable[[Frame, np.ndarray], np.ndarray]


class Ended(Exception):
    """No item will come out of this channel any more."""


class Channel(Generic[Item]):
    """A bounded queue between two threads that either can end.

    Args:
        capacity: items held at most.
        newest_wins: a put into a full channel throws the oldest away instead of waiting.
    """

    def __init__(self, capacity: int, newest_wins: bool = False) -> None:
        self.capacity = capacity
        self.newest_wins = newest_wins
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._abandoned = False

    def put(self, item: Item, timeout_seconds: float | None = None) -> tuple[bool, int]:
        """Add an item; waits for room unless newest wins.

        Returns:
            (False when nobody will take it, the number of older items thrown away).

        Raises:
            TimeoutError: there was no room in time.
        """
        thrown = 0
        with self._changed:
            while len(self._items) >= self.capacity and not self._abandoned:
                if self.newest_wins:
                    self._items.popleft()
                    thrown += 1
                elif not self._changed.wait(timeout_seconds):
                    raise TimeoutError
            if self._abandoned:
                return False, thrown
            self._items.append(item)
            self._changed.notify_all()
        return True, thrown

    def get(self, timeout_seconds: float | None = None) -> Item:
        """Take the oldest item; waits for one.

        Raises:
            Ended: the writer has finished and all is taken, or the channel was abandoned.
            TimeoutError: none came in time.
        """
        with self._changed:
            while not self._items and not self._finished and not self._abandoned:
                if not self._changed.wait(timeout_seconds):
                    raise TimeoutError
            if self._abandoned or not self._items:
                raise Ended
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """The writer is done; the reader still gets what is left."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Throw away what is left and let go of whoever waits, on both sides."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        seconds: wall time from the first read to the last write.
        stopped: it was asked to stop, or had its ``max_frames``, before the source ended.
    """

    seconds: float
    stopped: bool


class _Patience:
    """How long a part has been inside one read or write.

    The time is added up in small steps, so that an hour in which the whole process stood still (a
    laptop asleep, a stopped job) counts as one step, and nobody is blamed for it.
    """

    STEP_SECONDS = 0.5

    def __init__(self, timeout_seconds: float | None) -> None:
        self.timeout_seconds = timeout_seconds
        self._calls = -1
        self._waited = 0.0

    def over(self, busy: bool, calls: int, passed_seconds: float) -> bool:
        """Whether it is too long.

        Args:
            busy: the part is inside a call now.
            calls: how many calls it has made; another number starts the clock anew.
            passed_seconds: since this was last asked.
        """
        if not busy or calls != self._calls:
            self._calls, self._waited = calls, 0.0
            return False
        self._waited += min(passed_seconds, self.STEP_SECONDS)
        return self.timeout_seconds is not None and self._waited > self.timeout_seconds


class _Run:
    """One run's threads and channels."""

    def __init__(
        self,
        source: FrameSource,
        step: Step,
        sink: FrameSink,
        meter: Meter,
        newest_wins: bool,
        stop: threading.Event,
        max_frames: int | None,
        ahead: Callable[[Frame], Frame] | None,
        compose: Compose | None,
        channel_frames: int,
        timeout_seconds: float | None,
        names: tuple[str, str],
        clock: Callable[[], float],
    ) -> None:
        self.source, self.step, self.sink = source, step, sink
        self.meter, self.stop, self.clock = meter, stop, clock
        self.max_frames, self.ahead, self.compose = max_frames, ahead, compose
        capacity = 1 if newest_wins else channel_frames
        self.to_model: Channel[tuple[Frame, float]] = Channel(capacity, newest_wins)
        self.to_sink: Channel[tuple[Frame, np.ndarray | Pending, float]] = Channel(capacity, newest_wins)
        self.names = names
        self.reads = self.writes = 0
        self.reading = self.writing = self.stuck = False
        self.patience = _Patience(timeout_seconds), _Patience(timeout_seconds)
        self.looked = clock()
        self.error: BaseException | None = None
        self.error_lock = threading.Lock()
        self.stopped = False
        self.threads = [
            threading.Thread(target=self._guarded, args=args, name=f"mirage-{args[0]}", daemon=True)
            for args in (("source", self._decode), ("model", self._model), ("sink", self._encode))
        ]

    def _guarded(self, part: str, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self.error_lock:
                # Once the run is being stopped, a source that was cut off may complain: no news.
                if self.error is None and not (self.stopped and part == "source"):
                    self.error = error
                    with contextlib.suppress(AttributeError):
                        error.pipeline_part = part  # type: ignore[attr-defined]
            if part == "source":  # what came before is good and is still written
                self.to_model.finish()
            else:
                self.to_model.abandon()
                self.to_sink.abandon()

    def _decode(self) -> None:
        frames = iter(self.source)
        while True:
            begin = self.clock()
            self.reads += 1
            self.reading = True
            frame = next(frames, None)
            self.reading = False
            if frame is None or self.stopped:
                break
            if self.ahead is not None:
                frame = self.ahead(frame)
            now = self.clock()
            self.meter.frame_read((now - begin) * 1e3, now)
            taken, thrown = self.to_model.put((frame, now))
            if thrown:
                self.meter.frames_dropped(thrown)
            if not taken:
                break
        self.to_model.finish()

    def _model(self) -> None:
        done = 0
        while self.max_frames is None or done < self.max_frames:
            try:
                frame, born = self.to_model.get()
            except Ended:
                break
            begin = self.clock()
            made = self.step(frame)
            self.meter.stage("model", (self.clock() - begin) * 1e3)
            done += 1
            taken, thrown = self.to_sink.put((frame, made, born))
            if thrown:  # newest wins here too: a slow sink gets the frames that are still fresh
                self.meter.frames_dropped(thrown)
                done -= thrown
            if not taken:
                return
        else:
            self.halt()
        self.to_sink.finish()

    def _encode(self) -> None:
        while True:
            try:
                frame, made, born = self.to_sink.get()
            except Ended:
                return
            begin = self.clock()
            rgb = made if isinstance(made, np.ndarray) else made.picture()
            if self.compose is not None:
                rgb = self.compose(frame, rgb)
            self.writes += 1
            self.writing = True
            self.sink.write(Frame(rgb, frame.pts_seconds, frame.index))
            self.writing = False
            now = self.clock()
            self.meter.frame_written((now - begin) * 1e3, (now - born) * 1e3, frame.pts_seconds, now)

    def look_for_stalls(self) -> None:
        """Ends the run with an error when the source or the sink hangs."""
        now = self.clock()
        passed, self.looked = now - self.looked, now
        source, sink = self.patience
        # A source that paces itself, or connects anew, waits on purpose and knows how long.
        reading = self.reading and not getattr(self.source, "pausing", False)
        if self.error is None and source.over(reading, self.reads, passed):
            self._stalled("source", f"{self.names[0] or 'the source'} has given no frame")
            self.to_model.finish()  # what came before is good and is still written
        writing = self.writing and not getattr(self.sink, "pausing", False)
        if sink.over(writing, self.writes, passed):
            self._stalled("sink", f"{self.names[1] or 'the output'} has taken no frame")
            self.stuck = True
            self.to_model.abandon()
            self.to_sink.abandon()

    def _stalled(self, part: str, what: str) -> None:
        seconds = self.patience[0].timeout_seconds
        error = MediaError(f"{what} for {seconds:g} s", "Check it, or wait longer with --timeout SECONDS.")
        error.pipeline_part = part  # type: ignore[attr-defined]
        with self.error_lock:
            self.error = self.error or error

    def halt(self) -> None:
        """Take no more frames; the one in the model and those after it are still written."""
        self.stopped = True
        self.to_model.abandon()

    def alive(self) -> bool:
        # The decoder may hang in a read of a dead camera or network: the run does not wait for it.
        return not self.stuck and any(thread.is_alive() for thread in self.threads[1:])


def run(
    source: FrameSource,
    step: Step,
    sink: FrameSink,
    *,
    meter: Meter,
    newest_wins: bool = False,
    stop: threading.Event | None = None,
    max_frames: int | None = None,
    ahead: Callable[[Frame], Frame] | None = None,
    compose: Compose | None = None,
    channel_frames: int = 2,
    tick: Callable[[], None] | None = None,
    tick_seconds: float = 0.02,
    timeout_seconds: float | None = None,
    names: tuple[str, str] = ("", ""),
    clock: Callable[[], float] = time.perf_counter,
) -> RunResult:
    """Move every frame from source through step to sink; returns when the sink has them all.

    The caller keeps the sink and closes it, with ``commit`` by how this ended.

    Args:
        source, sink: where frames come from and go to.
        step: frame -> uint8 [H, W, 3], called in order in one thread; or what has the frame's copy to the host
            still under way and gives it with ``picture()``, which the encode thread calls.
        meter: gets all counts and latencies.
        newest_wins: drop frames the model has no time for (live) instead of waiting (files).
        stop: when set, the frame in the model is finished, written, and the run returns.
        max_frames: end after this many frames out of the model.
        ahead: work on a frame before the model, in the decode thread, such as its copy to the GPU.
        compose: (input frame, output rgb) -> rgb to write; runs in the encode thread.
        tick: called in the calling thread about every ``tick_seconds``, for the display.
        timeout_seconds: a source or sink that is inside one read or write for so long is lost; None
            waits for ever.
        names: of source and sink, for that error.

    Raises:
        Whatever a worker raised first; its ``pipeline_part`` is "source", "model" or "sink". Frames
        read before a source failed are written first.
    """
    stop = stop or threading.Event()
    job = _Run(
        source,
        step,
        sink,
        meter,
        newest_wins,
        stop,
        max_frames,
        ahead,
        compose,
        channel_frames,
        timeout_seconds,
        names,
        clock,
    )
    begin = clock()
    for thread in job.threads:
        thread.start()
    try:
        while job.alive():
            if stop.is_set() and not job.stopped:
                job.halt()
            job.look_for_stalls()
            if tick is not None:
                tick()
            next((t for t in job.threads[1:] if t.is_alive()), job.threads[2]).join(tick_seconds)
    except BaseException:
        job.stopped = True
        job.to_model.abandon()
        job.to_sink.abandon()
        source.close()
        raise
    # stopped is set first so that the decoder's complaint about a closed source is not an error.
    if job.threads[0].is_alive():
        job.stopped = True
        job.to_model.abandon()
    source.close()
    job.threads[0].join(2.0)
    seconds = clock() - begin
    if job.error is not None:
        raise job.error
    return RunResult(seconds=seconds, stopped=job.stopped)
