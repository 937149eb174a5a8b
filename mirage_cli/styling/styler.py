"""Steps a session along the track of looks, and applies what a user changes between two frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mirage_cli.config import Size
from mirage_cli.errors import MirageError, UsageProblem
from mirage_cli.frames import Frame, Pending
from mirage_cli.measure import Meter
from mirage_cli.prompts.track import LookTrack, Weights
from mirage_cli.styling.changes import Pause, Reset, SetBlend, SetSeed, SetStrength, StyleChange, SwapSession, TurnTo
from mirage_cli.styling.torch_errors import explained

if TYPE_CHECKING:  # torch is imported late
    from mirage_cli.stream.stepping import Stream

MAX_EVENTS_KEPT = 100
MAX_PENDING = 256
"""At most this many changes are queued for the next frame."""


class Busy(MirageError):
    """More is asked for than can be done."""


@dataclass(frozen=True)
class _Request:
    """A change, what the user wrote, and the future of the frame where it takes effect."""

    change: StyleChange
    text: str
    done: Future[int]


class Styler:
    """Steps the session along the track; what it does may be changed from another thread.

    Args:
        session: made for frames of ``size``.
        track: which looks hold when.
        meter: gets the times of the model's stages.
        size: width and height of the frames in pixels.
        prompts: the words behind the track, each with the second from which it holds.

    Attributes:
        known: the looks of the session; None accepts every look.
        looks: what the session was last set to.
        frames: made so far; the number of the next one.
        applied: the last changes: frame, kind and text.
    """

    def __init__(
        self, session: Stream, track: LookTrack, meter: Meter, size: Size, prompts: Sequence[tuple[float, str]] = ()
    ) -> None:
        self.session, self.track, self.meter, self.size = session, track, meter, size
        self.prompt = prompts[0][1] if prompts else ""
        self._scheduled = deque(prompts[1:])
        self.known: frozenset[str] | None = None
        self.looks: Weights = {}
        self.frames = 0
        self.cuts = 0
        self.guard_count = 0
        self.guard_events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS_KEPT)
        self.last_event = ""
        self.applied: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS_KEPT)
        self.applied_count = 0
        self.paused = False
        self._settings: dict[type, SetStrength | SetSeed] = {}  # for a session that comes later
        self._last: np.ndarray | Pending | None = None
        self._pending: deque[_Request] = deque()
        self._ended = False
        self._lock = threading.Lock()
        self._numbers: deque[tuple[int, int]] = deque(maxlen=64)  # (index in the source, frame number)

    # --- from any thread ---------------------------------------------------------------------------

    def request(self, change: StyleChange, text: str) -> Future[int]:
        """Ask for a change before the next frame; the future gives the frame where it took effect.

        Args:
            text: what the user wrote, for the account.

        Returns:
            A future that is cancelled when the stream ends, and holds ``Busy`` when too many are queued.
        """
        done: Future[int] = Future()
        with self._lock:
            if len(self._pending) >= MAX_PENDING:
                self._pending = deque(request for request in self._pending if not request.done.cancelled())
            ended, waiting = self._ended, len(self._pending)
            if not ended and waiting < MAX_PENDING:
                self._pending.append(_Request(change, text, done))
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
        """No frame will come any more: the futures of queued changes are cancelled."""
        with self._lock:
            self._ended = True
            pending, self._pending = list(self._pending), deque()
        for request in pending:
            request.done.cancel()

    # --- in the model's thread ---------------------------------------------------------------------

    def step(self, frame: Frame) -> np.ndarray | Pending:
        """Frame in, styled uint8 [H, W, 3] out, at the frame's place in the track.

        Returns:
            The picture; of a frame that ``prefetch`` has sent to the GPU, a ``Pending``.

        Raises:
            MirageError: out of memory, the GPU failed, or what the session raises.
        """
        while self._scheduled and self._scheduled[0][0] <= frame.pts_seconds:
            self.prompt = self._scheduled.popleft()[1]
        self._apply_requests(frame.pts_seconds)
        self._numbers.append((frame.index, self.frames))
        if self.paused and self._last is not None:
            self.frames += 1
            return self._last
        looks = self.track.at(frame.pts_seconds)
        made: np.ndarray | Pending
        try:
            if looks != self.looks:
                self.session.set_look(looks)
                self.looks = looks
            made = self.session.step(frame.rgb) if frame.upload is None else self.session.step_later(frame.upload)
        except (MemoryError, RuntimeError) as error:
            raise explained(error, self.size) from error
        self._count()
        self._last = made
        return made

    def _count(self) -> None:
        """Take the session's report into the meter and the events."""
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

    def _apply_requests(self, pts_seconds: float) -> None:
        """Apply what was asked for since the last frame; of each kind the newest counts: a fader sends many."""
        with self._lock:
            pending, self._pending = list(self._pending), deque()
        pending = [request for request in pending if request.done.set_running_or_notify_cancel()]
        newest = {type(request.change): number for number, request in enumerate(pending)}
        for number, request in enumerate(pending):
            change = request.change
            try:
                if newest[type(change)] == number or isinstance(change, SwapSession):
                    self._apply(change, pts_seconds)
            except MirageError as error:
                request.done.set_exception(error)
                continue
            self.applied.append({"frame": self.frames, "kind": change.kind, "text": request.text})
            self.applied_count += 1
            request.done.set_result(self.frames)

    def _apply(self, change: StyleChange, pts_seconds: float) -> None:
        match change:
            case TurnTo(weights):
                self._check_looks(weights)
                self.track.turn(pts_seconds, weights)
            case SetBlend(seconds):
                self.track.set_blend_seconds(pts_seconds, seconds)
            case SetStrength() | SetSeed():
                _set(self.session, change)
                self._settings[type(change)] = change
            case Pause(on):
                self.paused = on
            case Reset():
                self.session.reset()
            case SwapSession(session, weights, looks):
                for setting in self._settings.values():
                    _set(session, setting)
                self.session, self.looks, self.known = session, {}, frozenset(looks)
                self._scheduled.clear()
                self.track = LookTrack(weights, self.track.blend_seconds)

    def _check_looks(self, weights: Weights) -> None:
        unknown = next((look for look in weights if self.known is not None and look not in self.known), None)
        if unknown is not None:
            raise UsageProblem(f"no look {unknown!r} in the model that runs now", "Send the prompt again.")

    # --- before and after a frame ------------------------------------------------------------------

    def prefetch(self) -> Callable[[Frame], Frame] | None:
        """What sends a frame to the GPU ahead of its turn, for the pipeline's decode thread; None on a CPU."""
        copies = self.session.copies
        if copies is None:
            return None

        def send(frame: Frame) -> Frame:
            try:
                return replace(frame, upload=copies.upload(frame.rgb))
            except (MemoryError, RuntimeError) as error:
                raise explained(error, self.size) from error

        return send

    def document(self) -> dict[str, Any]:
        """Model and events, for ``--json``."""
        return {
            "model": dict(self.session.describe()),
            "cuts": self.cuts,
            "guard_event_count": self.guard_count,
            "guard_events": list(self.guard_events),
        }


def _set(session: Stream, setting: SetStrength | SetSeed) -> None:
    match setting:
        case SetStrength(strength):
            session.set_strength(strength)
        case SetSeed(seed):
            session.set_seed(seed)
