"""The real-time loop: decode, model and encode in a thread each, joined by bounded channels.

    source --[2 frames]--> model --[2 frames]--> sink        live: 1 frame

A file is lossless: a full channel makes its writer wait. A live stream is newest-wins: a frame
that the model has not begun, or the sink not taken, is dropped when a newer one comes, so
latency never builds up: both channels hold one frame, and a stage waits for one frame at most.
A source or sink that hangs ends the run after ``timeout_seconds``.
A thread that fails ends the run, and ``run`` raises its error as a ``PipelineError``. Memory is constant: at most
as many frames exist as the channels and the three threads hold.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSink, FrameSource, Pending
from mirage_cli.measure import Meter

Item = TypeVar("Item")
Part = Literal["source", "model", "sink"]


Step = Callable[[Frame], np.ndarray | Pending]
Compose = Callable[[Frame, np.ndarray], np.ndarray]


class PipelineError(Exception):
    """A part of a run failed.

    Attributes:
        part: source, model or sink.
        cause: what it raised, or the ``MediaError`` of one that hangs.
    """

    def __init__(self, part: Part, cause: BaseException) -> None:
        super().__init__(f"{part}: {cause}")
        self.part, self.cause = part, cause


@contextmanager
def causes_raised() -> Iterator[None]:
    """Raise the cause of a ``PipelineError`` in its place, for callers to whom the part does not matter."""
    try:
        yield
        return
    except PipelineError as failed:
        cause = failed.cause
    raise cause


class Ended(Exception):
    """This channel gives no more items."""


class Channel(Generic[Item]):
    """A bounded queue between two threads that either can end.

    Args:
        capacity: items held at most.
        newest_wins: a put into a full channel drops the oldest instead of waiting.
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
            (False if the channel was abandoned, the number of older items dropped).

        Raises:
            TimeoutError: there was no room in time.
        """
        dropped = 0
        with self._changed:
            while len(self._items) >= self.capacity and not self._abandoned:
                if self.newest_wins:
                    self._items.popleft()
                    dropped += 1
                elif not self._changed.wait(timeout_seconds):
                    raise TimeoutError
            if self._abandoned:
                return False, dropped
            self._items.append(item)
            self._changed.notify_all()
        return True, dropped

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
        """Drop what is left and wake the threads that wait, on both sides."""
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


@dataclass(frozen=True)
class Flow:
    """What flows from where to where. The caller keeps the sink and closes it, with ``commit`` by how this ended.

    Attributes:
        source, sink: where frames come from and go to.
        step: frame -> uint8 [H, W, 3], or a ``Pending`` of it; called in order in one thread.
        meter: gets all counts and latencies.
        newest_wins: drop frames the model has no time for (live) instead of waiting (files).
        stop: when set, the frame in the model is finished, written, and the run returns.
        max_frames: end after this many frames out of the model.
        prefetch: work on a frame ahead of its turn, in the decode thread, such as its copy to the GPU.
        compose: (input frame, output rgb) -> rgb to write; runs in the encode thread.
        channel_frames: capacity of each channel; with ``newest_wins`` it is 1.
        tick: called in the calling thread about every ``tick_seconds``, for the display.
        timeout_seconds: a source or sink that is inside one read or write for longer is lost; None
            waits without limit.
        names: of source and sink, for that error.
        clock: seconds, for the meter and the timeout.
    """

    source: FrameSource
    step: Step
    sink: FrameSink
    meter: Meter
    newest_wins: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    max_frames: int | None = None
    prefetch: Callable[[Frame], Frame] | None = None
    compose: Compose | None = None
    channel_frames: int = 2
    tick: Callable[[], None] = lambda: None
    tick_seconds: float = 0.02
    timeout_seconds: float | None = None
    names: tuple[str, str] = ("", "")
    clock: Callable[[], float] = time.perf_counter


def run(flow: Flow) -> RunResult:
    """Move every frame from source through step to sink; returns when the sink has them all.

    Raises:
        PipelineError: a part failed or hangs. Frames read before a source failed are written first.
    """
    job = _Run(flow)
    begin = flow.clock()
    for thread in job.threads:
        thread.start()
    try:
        while job.alive():
            if flow.stop.is_set() and not job.stopped:
                job.halt()
            job.look_for_stalls()
            flow.tick()
            next((t for t in job.threads[1:] if t.is_alive()), job.threads[2]).join(flow.tick_seconds)
    except BaseException:
        job.stopped = True
        job.to_model.abandon()
        job.to_sink.abandon()
        flow.source.close()
        raise
    # stopped is set first so that the decoder's complaint about a closed source is not an error.
    if job.threads[0].is_alive():
        job.stopped = True
        job.to_model.abandon()
    flow.source.close()
    job.threads[0].join(2.0)
    seconds = flow.clock() - begin
    if job.error is not None:
        raise job.error
    return RunResult(seconds=seconds, stopped=job.stopped)


class Watchdog:
    """How long a part has been inside one read or write.

    The time is added up in small steps, so that an hour in which the whole process stood still (a
    laptop asleep, a stopped job) counts as one step and is not taken for a hang.
    """

    STEP_SECONDS = 0.5

    def __init__(self, timeout_seconds: float | None) -> None:
        self.timeout_seconds = timeout_seconds
        self._calls = -1
        self._waited = 0.0

    def expired(self, busy: bool, calls: int, passed_seconds: float) -> bool:
        """Whether it has been inside for too long.

        Args:
            busy: the part is inside a call now.
            calls: how many calls it has made; a new number restarts the clock.
            passed_seconds: since this was last asked.
        """
        if not busy or calls != self._calls:
            self._calls, self._waited = calls, 0.0
            return False
        self._waited += min(passed_seconds, self.STEP_SECONDS)
        return self.timeout_seconds is not None and self._waited > self.timeout_seconds


class _Read(NamedTuple):
    """A frame on its way to the model, and when it came."""

    frame: Frame
    born_seconds: float


class _Made(NamedTuple):
    """A frame on its way to the sink: what came in, what was made of it, and when it came in."""

    frame: Frame
    rgb: np.ndarray | Pending
    born_seconds: float


class _Run:
    """One run's threads and channels."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        capacity = 1 if flow.newest_wins else flow.channel_frames
        self.to_model: Channel[_Read] = Channel(capacity, flow.newest_wins)
        self.to_sink: Channel[_Made] = Channel(capacity, flow.newest_wins)
        self.reads = self.writes = 0
        self.reading = self.writing = self.stuck = False
        self.watchdogs = Watchdog(flow.timeout_seconds), Watchdog(flow.timeout_seconds)
        self.looked = flow.clock()
        self.error: PipelineError | None = None
        self.error_lock = threading.Lock()
        self.stopped = False
        work: tuple[tuple[Part, Callable[[], None]], ...] = (
            ("source", self._decode),
            ("model", self._model),
            ("sink", self._encode),
        )
        self.threads = [
            threading.Thread(target=self._guarded, args=args, name=f"mirage-{args[0]}", daemon=True) for args in work
        ]

    def _guarded(self, part: Part, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self.error_lock:
                # Errors of a source that was closed on purpose are ignored.
                if self.error is None and not (self.stopped and part == "source"):
                    self.error = PipelineError(part, error)
            if part == "source":  # what came before is good and is still written
                self.to_model.finish()
            else:
                self.to_model.abandon()
                self.to_sink.abandon()

    def _decode(self) -> None:
        flow, frames = self.flow, iter(self.flow.source)
        while True:
            begin = flow.clock()
            self.reads += 1
            self.reading = True
            frame = next(frames, None)
            self.reading = False
            if frame is None or self.stopped:
                break
            if flow.prefetch is not None:
                frame = flow.prefetch(frame)
            now = flow.clock()
            flow.meter.frame_read((now - begin) * 1e3, now)
            taken, dropped = self.to_model.put(_Read(frame, now))
            if dropped:
                flow.meter.frames_dropped(dropped)
            if not taken:
                break
        self.to_model.finish()

    def _model(self) -> None:
        flow, done = self.flow, 0
        while flow.max_frames is None or done < flow.max_frames:
            try:
                frame, born = self.to_model.get()
            except Ended:
                break
            begin = flow.clock()
            rgb = flow.step(frame)
            flow.meter.stage("model", (flow.clock() - begin) * 1e3)
            done += 1
            taken, dropped = self.to_sink.put(_Made(frame, rgb, born))
            if dropped:  # newest wins here too: a slow sink gets the frames that are still fresh
                flow.meter.frames_dropped(dropped)
                done -= dropped
            if not taken:
                return
        else:
            self.halt()
        self.to_sink.finish()

    def _encode(self) -> None:
        flow = self.flow
        while True:
            try:
                frame, made, born = self.to_sink.get()
            except Ended:
                return
            begin = flow.clock()
            rgb = made if isinstance(made, np.ndarray) else made.picture()
            if flow.compose is not None:
                rgb = flow.compose(frame, rgb)
            self.writes += 1
            self.writing = True
            flow.sink.write(Frame(rgb, frame.pts_seconds, frame.index))
            self.writing = False
            now = flow.clock()
            flow.meter.frame_written((now - begin) * 1e3, (now - born) * 1e3, frame.pts_seconds, now)

    def look_for_stalls(self) -> None:
        """Ends the run with an error when the source or the sink hangs."""
        flow, now = self.flow, self.flow.clock()
        passed, self.looked = now - self.looked, now
        source, sink = self.watchdogs
        # A source that paces itself, or reconnects, waits on purpose and has a limit of its own.
        reading = self.reading and not flow.source.pausing
        if self.error is None and source.expired(reading, self.reads, passed):
            self._stalled("source", f"{flow.names[0] or 'the source'} has given no frame")
            self.to_model.finish()  # what came before is good and is still written
        writing = self.writing and not flow.sink.pausing
        if sink.expired(writing, self.writes, passed):
            self._stalled("sink", f"{flow.names[1] or 'the output'} has taken no frame")
            self.stuck = True
            self.to_model.abandon()
            self.to_sink.abandon()

    def _stalled(self, part: Part, what: str) -> None:
        seconds = self.flow.timeout_seconds
        error = MediaError(f"{what} for {seconds:g} s", "Check it, or wait longer with --timeout SECONDS.")
        with self.error_lock:
            self.error = self.error or PipelineError(part, error)

    def halt(self) -> None:
        """Take no more frames; the one in the model and those after it are still written."""
        self.stopped = True
        self.to_model.abandon()

    def alive(self) -> bool:
        # The decoder may hang in a read of a dead camera or network: the run does not wait for it.
        return not self.stuck and any(thread.is_alive() for thread in self.threads[1:])
