"""What transform and live share: a session that follows a track of looks, and its accounts."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from mirage_cli.config import ModelOptions, Size
from mirage_cli.errors import GpuError, MirageError, UsageProblem, plain_text
from mirage_cli.frames import Frame, FrameSink, FrameSource, Ui
from mirage_cli.loading import Engine as Engine
from mirage_cli.measure import Meter, PeakMemory, Stats, exact_percentile
from mirage_cli.prompts.track import LookTrack, TimedPrompt, Weights, build_track

MAX_EVENTS_KEPT = 100
MAX_PENDING = 256
"""More changes than these wait for no frame."""
# What torch says when the GPU itself is gone or broken, and not the frame too large.
_GPU_LOST = ("cuda error", "cudnn error", "cublas error", "cuda driver error", "device-side assert")


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt and the ``PromptMatch`` that it was understood as."""

    prompt: TimedPrompt
    match: Any

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "time_seconds": self.prompt.time_seconds,
            "text": self.prompt.text,
            "look": self.match.look,
            "weights": {look: round(weight, 4) for look, weight in self.match.weights.items()},
            "similarity": round(float(self.match.similarity), 4),
            "known": bool(self.match.known),
        }


def read_prompts(
    prompts: list[TimedPrompt], engine: Engine, options: ModelOptions, ui: Ui
) -> list[ReadPrompt]:
    """Find the looks of every prompt, and tell what each was taken for.

    Raises:
        UsageProblem: written weights that make no sense.
        ModelError: the model's looks or the text encoder cannot be read.
    """
    result = []
    for prompt in prompts:
        match = engine.match(options, prompt.text)
        (ui.note if match.known else ui.warn)(match.message)
        result.append(ReadPrompt(prompt, match))
    return result


def track_of(read: list[ReadPrompt], blend_seconds: float) -> LookTrack:
    """The track of looks of a run, from its read prompts."""
    changes = [(item.prompt.time_seconds or 0.0, item.match.weights) for item in read]
    return build_track(changes, blend_seconds)


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
        self, session: Any, track: LookTrack, meter: Meter, size: Size, prompts: Sequence[tuple[float, str]] = (),
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
        self._last: Any = None
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

    def step(self, frame: Frame) -> Any:
        """Frame in, styled uint8 [H, W, 3] out, at the frame's place in the track; of a frame that was uploaded
        ahead, a ``Made``."""
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
            rgb = self.session.step(frame.rgb) if frame.upload is None else self.session.step_later(frame.upload)
        except (MemoryError, RuntimeError) as error:
            raise self._explained(error) from error
        report = self.session.report
        self.meter.stage("prepare", report.prepare_ms)
        self.meter.stage("denoise", report.denoise_ms)
        self.meter.stage("compose", report.compose_ms)
        if report.cut:
            self.cuts += 1
            self.last_event = f"cut at frame {self.frames}"
        if report.guard_event:
            self.guard_count += 1
            self.last_event = f"{report.guard_event} at frame {self.frames}"
            self.guard_events.append({"frame": self.frames, "event": report.guard_event})
        self.frames += 1
        self._last = rgb
        return rgb

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
        copies = getattr(self.session, "copies", None)

        def send(frame: Frame) -> Frame:
            try:
                return replace(frame, upload=copies.upload(frame.rgb))
            except (MemoryError, RuntimeError) as error:
                raise self._explained(error) from error

        return None if copies is None else send

    def document(self) -> dict[str, Any]:
        """Model and events, for ``--json``."""
        return {
            "model": dict(self.session.describe()),
            "cuts": self.cuts,
            "guard_event_count": self.guard_count,
            "guard_events": list(self.guard_events),
        }


def account(
    styler: Styler,
    options: ModelOptions,
    source: FrameSource,
    sink: FrameSink,
    memory: PeakMemory,
    seconds: float,
    begun_seconds: float,
) -> dict[str, Any]:
    """The part of a ``--json`` document that transform and live share.

    ``frames`` left for the sink and ``dropped`` never began; ``fps`` is frames over ``seconds``. A
    latency in ``latency_ms`` is one frame's: ``model`` the session's step (prepare + denoise +
    compose), ``end_to_end`` from decoded to written, waiting in the channels included.

    Args:
        seconds: how long frames flowed.
        begun_seconds: when the program started, on the meter's clock.
    """
    meter = styler.meter
    first = meter.first_out_seconds
    return {
        "size": list(styler.size),
        "frames": meter.frames_out,
        "frames_in": meter.frames_in,
        "dropped": meter.dropped,
        "seconds": round(seconds, 3),
        "fps": round(meter.frames_out / seconds, 2) if seconds else 0.0,
        "first_frame_seconds": None if first is None else round(first - begun_seconds, 3),
        "latency_ms": meter.latency_summary(),
        "strength": options.strength,
        "seed": options.seed,
        **styler.document(),
        "warnings": [*source.warnings, *sink.warnings],
        "peak_memory_mb": memory.megabytes(),
    }


class StopSwitch:
    """Ends a run: by Ctrl-C or SIGTERM, by q, by a closed window, or when its time is up.

    While ``graceful`` is set (there is a file to finish) the first signal asks the run to finish it;
    at any other time, and at the second signal, it is a KeyboardInterrupt. A closing terminal may send
    several signals at once, so a second SIGHUP, and any signal within ``TOGETHER_SECONDS``, is none.
    """

    TOGETHER_SECONDS = 0.2

    def __init__(self) -> None:
        self.event = threading.Event()
        self.reason = ""
        self.graceful = False
        self._first_signal: float | None = None

    def stop(self, reason: str) -> None:
        """Ask the run to end; the first reason stands."""
        if not self.event.is_set():
            self.reason = reason
            self.event.set()

    @property
    def by_signal(self) -> bool:
        """A signal asked, not the user's q or the end of the time."""
        return self.reason.startswith("SIG")

    @contextlib.contextmanager
    def signals(self) -> Iterator[StopSwitch]:
        """Take SIGINT, SIGTERM and SIGHUP while in the block (main thread only)."""

        def received(number: int, _frame: Any) -> None:
            now = time.monotonic()
            first, self._first_signal = self._first_signal, self._first_signal or now
            name = signal.Signals(number).name
            self.stop(name)
            insists = first is not None and now - first > self.TOGETHER_SECONDS
            if not self.graceful or (insists and name != "SIGHUP"):
                raise KeyboardInterrupt

        old = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # A signal ignored from outside (nohup) stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                old[number] = signal.signal(number, received)
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def stats_of(
    command: str,
    source: str,
    target: str,
    prompt: str,
    styler: Styler,
    about: dict[str, Any],
    now_seconds: float,
    begin_seconds: float,
    frames_total: int | None = None,
    **more: Any,
) -> Stats:
    """Read the counters of a run into a ``Stats``; ``about`` is the session's ``describe()``."""
    meter = styler.meter
    recent, model = meter.recent(), meter.recent(model=True)
    fps_in, fps_out = meter.rates(now_seconds)
    left = None
    if frames_total and fps_out > 0:
        left = max(0, frames_total - meter.frames_out) / fps_out
    return Stats(
        command=command,
        source=plain_text(source),
        target=plain_text(target),
        prompt=plain_text(prompt),
        looks=dict(styler.looks or styler.track.at(0.0)),
        size=styler.size,
        model=str(about.get("model", "")),
        device=str(about.get("device", "")),
        dtype=str(about.get("dtype", "")),
        backend=str(about.get("backend", "")),
        steps=int(about.get("steps", 1)),
        frames_in=meter.frames_in,
        frames_out=meter.frames_out,
        dropped=meter.dropped,
        frames_total=frames_total,
        fps_in=fps_in,
        fps_out=fps_out,
        p50_ms=exact_percentile(recent, 50),
        p95_ms=exact_percentile(recent, 95),
        p99_ms=exact_percentile(recent, 99),
        model_p50_ms=exact_percentile(model, 50),
        model_p95_ms=exact_percentile(model, 95),
        elapsed_seconds=now_seconds - begin_seconds,
        left_seconds=left,
        position_seconds=meter.last_out_pts_seconds,
        cuts=styler.cuts,
        guard_events=styler.guard_count,
        last_event=styler.last_event,
        **more,
    )
