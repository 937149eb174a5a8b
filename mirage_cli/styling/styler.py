"""What transform and live share: a session that follows a track of looks, and its accounts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mirage_cli.config import Size
from mirage_cli.errors import GpuError, MirageError, UsageProblem
from mirage_cli.frames import Frame, Pending
from mirage_cli.measure import Meter
from mirage_cli.prompts.track import LookTrack, Weights
from mirage_cli.styling.loading import Engine as Engine

if TYPE_CHECKING:  # torch is imported late
    from mirage_cli.stream.stepping import Stream

MAX_EVENTS_KEPT = 100
MAX_PENDING = 256
"""More changes than these wait for no frame."""
# What torch says when the GPU itself is gone or broken, and not the frame too large.
_GPU_LOST = ("cuda error", "cudnn error", "cublas error", "cuda driver error", "device-side assert")


def side_by_side(frame: Frame, rgb: np.ndarray) -> np.ndarray:
    """Input | output: two [H, W, 3] -> [H, 2W, 3]."""
    left = frame.rgb
    if left.shape != rgb.shape:
        left = cv2.resize(left, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_AREA)
    return np.concatenate([left, rgb], axis=1)


class Busy(MirageError):
    """More is asked for than can be done."""


class Styler:
    """Steps the session along the track; what it does may be changed from another thread.

    Args:
        prompts: the words behind the track, each with the second from which it holds.
    """

    def __init__(
        self, session: Stream, track: LookTrack, meter: Meter, size: Size, prompts: Sequence[tuple[float, str]] = ()
    ) -> None:
        self.session, self.track, self.meter, self.size = session, track, meter, size
        self.prompt = prompts[0][1] if prompts else ""
        self._scheduled = deque(prompts[1:])
        self.known: frozenset[str] | None = None  # the looks of the session; None: whatever comes is taken
        self.looks: Weights = {}
        self.frames = 0
        self.cuts = 0
        self.guard_count = 0
        self.guard_events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS_KEPT)
        self.last_event = ""
        self.applied: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS_KEPT)
        self.applied_count = 0
        self.paused = False
        self._set: dict[str, Any] = {}  # strength and seed, for a session that comes later
        self._last: np.ndarray | Pending | None = None
        self._pending: deque[tuple[str, str, Any, Future[int]]] = deque()
        self._ended = False
        self._lock = threading.Lock()
        self._numbers: deque[tuple[int, int]] = deque(maxlen=64)  # (index in the source, frame number)

    def request(self, kind: str, text: str, value: Any) -> Future[int]:
        """Ask for a change before the next frame; the future gives the frame where it took effect.

        Args:
            kind: look (weights), strength (0..1), blend_seconds, seed, pause (bool), reset, or session
                (a session, the weights to begin with, and the names of all its looks).
            text: what the user wrote, for the account.

        Returns:
            A future that is cancelled when the stream ends, and holds ``Busy`` when too much waits.
        """
        done: Future[int] = Future()
        with self._lock:
            if len(self._pending) >= MAX_PENDING:
                self._pending = deque(item for item in self._pending if not item[-1].cancelled())
            ended, waiting = self._ended, len(self._pending)
            if not ended and waiting < MAX_PENDING:
                self._pending.append((kind, text, value, done))
                return done
        if ended:
            done.cancel()
        else:
            done.set_exception(Busy(f"{waiting} changes are waiting already", "Wait for their answers."))
        return done

    def number_of(self, index: int) -> int:
        """The number, counted from 0, of the frame made from the source's frame ``index`` just now."""
        return next((number for known, number in reversed(list(self._numbers)) if known == index), self.frames)

    def end(self) -> None:
        """No frame will come any more: whoever waits for a change is let go."""
        with self._lock:
            self._ended = True
            pending, self._pending = list(self._pending), deque()
        for *_, done in pending:
            done.cancel()

    def step(self, frame: Frame) -> np.ndarray | Pending:
        """Frame in, styled uint8 [H, W, 3] out, at the frame's place in the track; of a frame that was uploaded
        ahead, a ``Pending``."""
        while self._scheduled and self._scheduled[0][0] <= frame.pts_seconds:
            self.prompt = self._scheduled.popleft()[1]
        with self._lock:
            pending, self._pending = list(self._pending), deque()
        pending = [item for item in pending if item[-1].set_running_or_notify_cancel()]
        # A fader sends more than a frame can take: of each kind the newest counts.
        newest = {kind: number for number, (kind, *_) in enumerate(pending)}
        for number, (kind, text, value, done) in enumerate(pending):
            try:
                if newest[kind] == number or kind == "session":
                    self._apply(kind, value, frame.pts_seconds)
            except MirageError as error:
                done.set_exception(error)
                continue
            self.applied.append({"frame": self.frames, "kind": kind, "text": text})
            self.applied_count += 1
            done.set_result(self.frames)
        self._numbers.append((frame.index, self.frames))
        if self.paused and self._last is not None:
            self.frames += 1
            return self._last
        looks = self.track.at(frame.pts_seconds)
        try:
            if looks != self.looks:
                self.session.set_look(looks)
                self.looks = looks
            made: np.ndarray | Pending
            made = self.session.step(frame.rgb) if frame.upload is None else self.session.step_later(frame.upload)
        except (MemoryError, RuntimeError) as error:
            raise self._explained(error) from error
        report = self.session.report
        for stage, latency_ms in report.latencies().items():
            self.meter.stage(stage, latency_ms)
        if report.cut:
            self.cuts += 1
            self.last_event = f"cut at frame {self.frames}"
        if report.guard_event:
            self.guard_count += 1
            self.last_event = f"{report.guard_event} at frame {self.frames}"
            self.guard_events.append({"frame": self.frames, "event": report.guard_event})
        self.frames += 1
        self._last = made
        return made

    def _apply(self, kind: str, value: Any, pts_seconds: float) -> None:
        if kind == "look":
            if self.known is not None and (unknown := next((look for look in value if look not in self.known), None)):
                raise UsageProblem(f"no look {unknown!r} in the model that runs now", "Send the prompt again.")
            self.track.turn(pts_seconds, value)
        elif kind == "blend_seconds":
            self.track.set_blend_seconds(pts_seconds, value)
        elif kind == "pause":
            self.paused = value
        elif kind == "reset":
            self.session.reset()
        elif kind == "session":
            session, weights, names = value
            for name, setting in self._set.items():
                getattr(session, f"set_{name}")(setting)
            self.session, self.looks, self.known = session, {}, frozenset(names)
            self._scheduled.clear()
            self.track = LookTrack(weights, self.track.blend_seconds)
        else:
            getattr(self.session, f"set_{kind}")(value)
            self._set[kind] = value

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, MirageError):
            return error
        text = str(error).lower()
        place = f"{self.size[0]}x{self.size[1]}"
        remedy = "Use a smaller --size, such as --size 512x288."
        if "OutOfMemory" in type(error).__name__ or "cuda out of memory" in text:
            return GpuError(f"the GPU has not enough memory for frames of {place}", remedy)
        if isinstance(error, MemoryError) or "allocate memory" in text:
            return MirageError(f"not enough memory for frames of {place}", remedy)
        if any(words in text for words in _GPU_LOST):
            first = (str(error).strip().splitlines() or ["CUDA error"])[0]
            return GpuError(f"the GPU failed: {first}", "mirage doctor tells more; --device cpu runs without it.")
        return error

    def ahead(self) -> Callable[[Frame], Frame] | None:
        """What sends a frame to the GPU before the model's turn, for a pipeline's decode thread; None without one."""
        copies = self.session.copies
        if copies is None:
            return None

        def send(frame: Frame) -> Frame:
            try:
                return replace(frame, upload=copies.upload(frame.rgb))
            except (MemoryError, RuntimeError) as error:
                raise self._explained(error) from error

        return send

    def document(self) -> dict[str, Any]:
        """Model and events, for ``--json``."""
        return {
            "model": dict(self.session.describe()),
            "cuts": self.cuts,
            "guard_event_count": self.guard_count,
            "guard_events": list(self.guard_events),
        }
