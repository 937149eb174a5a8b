"""Carries a change from its sender to the frame where it takes effect, and acknowledges it.

    answer = controls.submit(parse_message('{"strength": 0.4}'), "socket").result()
    answer["frame"]     # the first frame, counted from 0, that was made with it

What the model thread must do is queued for the next frame. What takes time (understanding a prompt,
loading a model, opening a file) is done before, in one worker thread and in order; a change that needs
none of it overtakes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from mirage_cli.config import ModelOptions
from mirage_cli.control.presets import blend_prompt, shipped_preset
from mirage_cli.control.schema import Change, ChangeRefused
from mirage_cli.errors import MirageError, UsageProblem
from mirage_cli.measure import Stats
from mirage_cli.outputs.taps import TapSink
from mirage_cli.styling.changes import Pause, Reset, SetBlend, SetSeed, SetStrength, StyleChange, SwapSession, TurnTo
from mirage_cli.styling.loading import ModelLoader
from mirage_cli.styling.stopping import StopSwitch
from mirage_cli.styling.styler import Busy, Styler

MAX_WAITING = 32
FRAME_SECONDS = 10.0
"""How long a change may wait for a frame before it is withdrawn."""
PREPARE_SECONDS = 60.0
"""The same for one that is still being prepared: a model may take long to load."""

_SLOW = ("prompt", "blend", "model", "preset", "record", "snapshot")
# What is set between two frames; of several in one change the last named here is applied first.
_SETTINGS: dict[str, Callable[[Any], StyleChange]] = {
    "blend_seconds": SetBlend,
    "strength": SetStrength,
    "seed": SetSeed,
    "pause": Pause,
    "reset": lambda _: Reset(),
}
_log = logging.getLogger("mirage.control")

Answer = dict[str, Any]


class TooLate(MirageError):
    """A change was not done in time, and is withdrawn."""


class Controls:
    """The state that a user steers, and the way to it.

    Args:
        styler: gets the changes, between frames.
        models, options: understand prompts and load models; the options that hold now.
        taps: recordings and snapshots.
        stop: ends the run on quit.

    Attributes:
        matched: how the last prompt was understood.
        changes, refused: how many were applied and refused.
        stats: gives the counters of the run, for ``state``.
        on_applied: called with the answer of every change that was applied, by any thread.
    """

    def __init__(
        self, styler: Styler, models: ModelLoader, options: ModelOptions, taps: TapSink, stop: StopSwitch
    ) -> None:
        self.styler, self.models, self.options = styler, models, options
        self.taps, self.stop = taps, stop
        styler.known = frozenset(models.look_names(options))
        self.matched = ""
        self.changes = 0
        self.refused = 0
        self.stats: Callable[[], Stats] | None = None
        self.on_applied: list[Callable[[Answer], Any]] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mirage-changes")
        self._waiting = 0
        self._open: dict[Future[Answer], _Work] = {}  # what has no answer yet, the oldest first
        self._lock = threading.Lock()

    @property
    def prompt(self) -> str:
        """The words of the look that holds, or that a blend is going to."""
        return self.styler.prompt

    @prompt.setter
    def prompt(self, text: str) -> None:
        self.styler.prompt = text

    # --- asking ----------------------------------------------------------------------------------

    def submit(self, change: Change, origin: str) -> Future[Answer]:
        """Ask for a change.

        Args:
            change: what to set.
            origin: who asks, for the account: keyboard, socket, osc.

        Returns:
            A future of the answer: ``frame`` (the first frame made with all of it), ``applied`` (what
            was set), ``notes`` (how a prompt was understood, where a file went), ``waited_frames``
            (frames that went out between asking and applying) and the sender's ``id``.
            Its error is a ``MirageError`` that says what is not as it should be.
        """
        answer: Future[Answer] = Future()
        arrived = self.styler.frames
        slow = any(name in _SLOW for name in change.values())
        with self._lock:
            if slow and self._waiting >= MAX_WAITING:
                self.refused += 1
                answer.set_exception(Busy(f"{self._waiting} changes are waiting already", "Wait for their answers."))
                return answer
            self._waiting += slow
        work = _Work(self, change, origin, arrived, answer)
        self._open[answer] = work
        answer.add_done_callback(self._closed)
        if not slow:
            work.ask()
            return answer
        try:
            self._worker.submit(self._prepared, work)
        except RuntimeError:  # the worker has been shut down
            work.fail(_ended())
        return answer

    def _closed(self, answer: Future[Answer]) -> None:
        work = self._open.pop(answer)
        if answer.cancelled():
            work.withdraw()

    def check_time(self, answer: Future[Answer]) -> None:
        """Withdraw a change that has waited ``FRAME_SECONDS`` for its frame, or too long to be prepared.

        Raises:
            TooLate: it is not done, and will not be.
        """
        work = self._open.get(answer)
        if work is None:
            return
        waited_seconds = time.monotonic() - work.begun_seconds
        if (work.asked or waited_seconds >= PREPARE_SECONDS) and answer.cancel():
            if work.asked:
                raise _no_frame()
            raise TooLate(f"the change was not ready within {waited_seconds:.0f} s", "Send it again, or another.")

    def planned(self) -> tuple[ModelOptions, str]:
        """Options and prompt as they will be when all that is asked for has come: what the next is prepared for."""
        for work in reversed(list(self._open.values())):
            if "prompt" in work.settings and work.asked:
                model = work.settings.get("model", work.options.model)
                return replace(self.options, model=model), work.settings["prompt"]
        return self.options, self.prompt

    def _prepared(self, work: _Work) -> None:
        try:
            work.prepare()
        except MirageError as error:
            work.fail(error)
        except CancelledError:
            work.fail(_ended())
        except Exception as error:
            _log.info("a change failed", exc_info=True)
            work.fail(MirageError(f"{type(error).__name__}: {error}"))
        finally:
            with self._lock:
                self._waiting -= 1

    def count_applied(self, answer: Answer) -> None:
        """Count a change that was applied, and hand its answer to ``on_applied``."""
        with self._lock:
            self.changes += 1
        for call in list(self.on_applied):
            call(answer)

    def count_refused(self) -> None:
        """Count a change that was refused; for any thread."""
        with self._lock:
            self.refused += 1

    def close(self) -> None:
        """No frame will come any more: changes that wait for an answer are refused."""
        self.styler.end()
        self.taps.end()
        self._worker.shutdown(wait=True, cancel_futures=True)
        for work in list(self._open.values()):
            work.fail(_ended())

    # --- knowing ---------------------------------------------------------------------------------

    def looks(self) -> tuple[str, ...]:
        """Names of the looks that ``blend`` takes."""
        return self.models.look_names(self.options)

    def state(self) -> dict[str, Any]:
        """What holds now, as plain data."""
        styler = self.styler
        state: dict[str, Any] = {
            "frame": styler.frames,
            "prompt": self.prompt,
            "looks": {look: round(share, 4) for look, share in styler.looks.items()},
            "strength": self.options.strength,
            "blend_seconds": styler.track.blend_seconds,
            "seed": self.options.seed,
            "model": self.options.model,
            "pause": styler.paused,
            "record": self.taps.recording is not None,
            "size": list(styler.size),
            "cuts": styler.cuts,
            "guard_events": styler.guard_count,
            "last_event": styler.last_event,
        }
        if self.stats is not None:
            stats = self.stats()
            state |= {
                "device": stats.device,
                "fps_in": _finite(stats.fps_in),
                "fps_out": _finite(stats.fps_out),
                "latency_ms": {
                    "p50": _finite(stats.p50_ms),
                    "p95": _finite(stats.p95_ms),
                    "p99": _finite(stats.p99_ms),
                },
                "dropped": stats.dropped,
                "seconds": _finite(stats.elapsed_seconds),
            }
        return state


class _Work:
    """One change on its way."""

    def __init__(self, hub: Controls, change: Change, origin: str, arrived: int, answer: Future[Answer]) -> None:
        self.hub, self.change, self.origin = hub, change, origin
        self.arrived, self.answer = arrived, answer
        self.notes: list[str] = []
        self.requests: list[tuple[StyleChange, str]] = []
        self.settings: dict[str, Any] = {}
        self.frame: int | None = None
        self.text = ""
        self.options = hub.options
        self.begun_seconds = time.monotonic()
        self.asked = False  # a frame is all that it waits for
        self._futures: list[Future[int]] = []
        self._left = 0
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Do what takes time, then ask for the rest."""
        change, hub = self.change, self.hub
        if self.answer.done():
            return
        if change.preset is not None:
            preset = shipped_preset(change.preset)
            if change.prompt is not None or change.blend is not None:
                preset = replace(preset, prompt=None, blend=None)
            change = replace(preset, **{**change.values(), "preset": None}, id=change.id)
            self.change = replace(change, preset=self.change.preset)
        self._prepare_look(change)
        if change.record is not None:
            act = hub.taps.start_recording if change.record else hub.taps.stop_recording
            self.frame, path = act(FRAME_SECONDS)
            self.notes.append(f"recording {path}" if change.record else f"wrote {path}")
        if change.snapshot:
            self.frame, path = hub.taps.snapshot(FRAME_SECONDS)
            self.notes.append(f"wrote {path}")
        self.ask()

    def _prepare_look(self, change: Change) -> None:
        hub = self.hub
        self.options, held = hub.planned()
        options = self.options
        weights = None
        if change.model is not None and change.model != options.model:
            options = replace(options, model=change.model)
            hub.models.check_model(options)
        if change.blend is not None:
            known = hub.models.look_names(options)
            if unknown := next((look for look in change.blend if look not in known), None):
                raise UsageProblem(f"no look {unknown!r} in {options.model}", f"There are: {', '.join(known)}.")
            weights = dict(change.blend)
            prompt = blend_prompt(weights)
            hub.matched = ""
        elif change.prompt is not None or options is not self.options:
            prompt = change.prompt or held
            match = hub.models.match(options, prompt)
            weights = match.weights
            self.notes.append(match.message)
            hub.matched = match.message
        if weights is None:
            return
        self.settings["prompt"] = prompt
        if options is self.options:
            self.requests.append((TurnTo(weights), prompt))
        else:
            session = hub.models.session(options, *hub.styler.size)
            names = hub.models.look_names(options)
            self.requests.append((SwapSession(session, weights, names), options.model))
            self.settings["model"] = options.model

    def ask(self) -> None:
        """Queue what is done between two frames; the last of it gives the answer."""
        change, hub = self.change, self.hub
        if self.answer.done():
            return
        given = change.values()
        for name, setting in _SETTINGS.items():
            if name in given:
                self.requests.insert(0, (setting(given[name]), self._words(name, given[name])))
        if change.quit:
            hub.stop.stop("quit")
        self._left = len(self.requests)
        if not self.requests:
            self._done()
        self.asked = True
        for request in self.requests:
            self._futures.append(hub.styler.request(*request))
        for future in self._futures:
            future.add_done_callback(self._applied)
        if self.answer.done():  # withdrawn, or refused in part, meanwhile
            self.withdraw()

    def withdraw(self) -> None:
        """Cancel what is still queued of it."""
        for future in self._futures:
            future.cancel()

    def _words(self, name: str, value: Any) -> str:
        word = f"/{name.replace('_', '-')}"
        if isinstance(value, bool):
            return word if value else f"{word} off"
        return f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}"

    def _applied(self, future: Future[int]) -> None:
        try:
            frame = future.result()
        except CancelledError:
            return self.fail(_ended())
        except MirageError as error:
            return self.fail(error)
        with self._lock:
            self.frame = max(self.frame or 0, frame)
            self._left -= 1
            done = not self._left
        if done:
            self._done()

    def _done(self) -> None:
        hub, change = self.hub, self.change
        hub.prompt = self.settings.get("prompt", hub.prompt)
        given = change.values()
        options: dict[str, Any] = {name: given[name] for name in ("strength", "seed") if name in given}
        if "model" in self.settings:
            options["model"] = self.settings["model"]
        if options:
            hub.options = replace(hub.options, **options)
        frame = hub.styler.frames if self.frame is None else self.frame
        answer: Answer = {
            "ok": True,
            "frame": frame,
            "applied": given,
            "notes": self.notes,
            "waited_frames": max(0, frame - self.arrived),
            "from": self.origin,
        }
        if change.id is not None:
            answer["id"] = change.id
        hub.count_applied(answer)
        with contextlib.suppress(InvalidStateError):  # the sender has gone
            self.answer.set_result(answer)

    def fail(self, error: MirageError) -> None:
        if self.answer.done():
            return
        self.hub.count_refused()
        with contextlib.suppress(InvalidStateError):
            self.answer.set_exception(error)
        self.withdraw()


def _ended() -> MirageError:
    return MirageError("the stream ended before the next frame", "Start it again.")


def _no_frame() -> TooLate:
    return TooLate(f"no frame came within {FRAME_SECONDS:g} s", "Check the source.")


def _finite(value: float) -> float | None:
    return round(value, 3) if value == value and abs(value) != float("inf") else None


def error_document(error: MirageError, mark: str | int | None = None) -> Answer:
    """An error as an answer, with the sender's own ``mark`` where it is known."""
    if mark is None and isinstance(error, ChangeRefused):
        mark = error.mark
    answer: Answer = {"ok": False, "error": {"message": error.message, "remedy": error.remedy}}
    if mark is not None:
        answer["id"] = mark
    return answer
