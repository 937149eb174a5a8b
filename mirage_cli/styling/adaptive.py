"""A live model that keeps up: quality that follows the time there is, and frames that need no model.

``LiveModels`` wraps the models of a run; its sessions are stepped like any other. With
``--target-fps`` they take fewer sampler steps, then a smaller size inside, while the model is too
slow, and go back when there is time. With ``--skip-similar`` a frame that looks like the last one
that was made gets the same picture again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mirage_cli.config import MIN_SIDE, ModelOptions
from mirage_cli.frames import Pending, Upload
from mirage_cli.measure import exact_percentile
from mirage_cli.styling.loading import Models

if TYPE_CHECKING:  # torch is imported late
    from mirage_cli.stream.model import PromptMatch
    from mirage_cli.stream.stepping import State, StepReport, Stream

SCALES = (1.0, 0.84, 0.71, 0.59, 0.5)
THUMBNAIL = (32, 18)
MOST_IN_A_ROW = 30
"""After this many skipped frames in a row one is made, so that a slow change is not missed."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder of quality.

    Attributes:
        steps: of the sampler.
        scale: of both sides of the frame inside.
    """

    steps: int
    scale: float

    @property
    def work(self) -> float:
        """In proportion to the model's time."""
        return self.steps * self.scale**2


def ladder(steps: int) -> list[Rung]:
    """From best to fastest: steps go first, then the size."""
    return [Rung(count, 1.0) for count in range(steps, 0, -1)] + [Rung(1, s) for s in SCALES[1:]]


class PaceKeeper:
    """Decides which rung to stand on, from the model's times.

    Down as soon as a second of frames says so; up only when the rung above would leave a fifth of
    the time free, for five seconds, and later each time that this proved wrong.

    Args:
        target_fps: frames a second to hold.
        rungs: from ``ladder``.
        clock: seconds.
    """

    FRAMES = 12
    DOWN_SECONDS, UP_SECONDS, LONGEST_UP_SECONDS = 1.0, 5.0, 80.0
    SPARE = 0.8

    def __init__(self, target_fps: float, rungs: list[Rung], clock: Callable[[], float] = time.monotonic) -> None:
        self.budget_ms = 1e3 / target_fps
        self.rungs, self.place, self._clock = rungs, 0, clock
        self._recent: deque[float] = deque(maxlen=48)
        self._since = clock()
        self._up_seconds = self.UP_SECONDS
        self._went_up = False

    @property
    def rung(self) -> Rung:
        return self.rungs[self.place]

    def saw(self, model_ms: float) -> bool:
        """Take one frame's time; True if ``rung`` has changed."""
        self._recent.append(model_ms)
        now = self._clock()
        stood = now - self._since
        if len(self._recent) < self.FRAMES or stood < self.DOWN_SECONDS:
            return False
        typical = exact_percentile(self._recent, 75)
        if typical > self.budget_ms and self.place + 1 < len(self.rungs):
            if self._went_up:  # it was too early: wait longer before the next try
                self._up_seconds = min(2 * self._up_seconds, self.LONGEST_UP_SECONDS)
            return self._move(1, now)
        if self.place and stood >= self._up_seconds:
            above = typical * self.rungs[self.place - 1].work / self.rung.work
            if above < self.SPARE * self.budget_ms:
                return self._move(-1, now)
        return False

    def _move(self, by: int, now: float) -> bool:
        self.place += by
        self._went_up = by < 0
        self._since = now
        self._recent.clear()
        return True


class SimilarFrames:
    """Whether a frame looks like the last one that was made.

    Args:
        levels: the least difference that counts: of the mean of any of 32x18 fields of the picture, in levels of 255.
    """

    def __init__(self, levels: float) -> None:
        self.levels = levels
        self.skipped = 0
        self._seen: np.ndarray | None = None
        self._row = 0

    def like_the_last(self, rgb: np.ndarray) -> bool:
        """Compare uint8 [H, W, 3]; a frame that differs becomes the one to compare with."""
        small = cv2.resize(rgb, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        seen = self._seen
        if seen is not None and self._row < MOST_IN_A_ROW and np.abs(small - seen).max() < self.levels:
            self._row += 1
            self.skipped += 1
            return True
        self._seen, self._row = small, 0
        return False

    def forget(self) -> None:
        """The next frame is made whatever it looks like."""
        self._seen = None


class AdaptiveSession:
    """A session that keeps up; a ``stream.stepping.Stream`` whose frames cannot be sent ahead.

    Args:
        make: (steps, width, height) -> a session.
        width, height: pixels of the frames in and out.
        steps: of the best quality.
        keeper: None leaves the quality alone.
        similar: None makes every frame.
        notify: gets a sentence at each change of quality.
    """

    copies = None  # a frame is looked at, and perhaps scaled, on the host first

    def __init__(
        self,
        make: Callable[[int, int, int], Stream],
        width: int,
        height: int,
        steps: int,
        keeper: PaceKeeper | None,
        similar: SimilarFrames | None,
        notify: Callable[[str], None],
    ) -> None:
        self._make, self._size, self._steps = make, (width, height), steps
        self.keeper, self.similar, self._notify = keeper, similar, notify
        self.inner = make(steps, width, height)
        self.report: StepReport = self.inner.report
        self.changes: deque[str] = deque(maxlen=100)
        self._settings: dict[str, Callable[[Stream], None]] = {}  # what the user set, for the next session
        self._last: np.ndarray | None = None

    def step_later(self, upload: Upload) -> Pending:
        raise TypeError("an adaptive session has no copies to send frames ahead with")

    def state(self) -> State:
        return self.inner.state()

    def load_state(self, state: State, *, fit: bool = False) -> None:
        self.inner.load_state(state, fit=fit)

    def set_look(self, weights: Mapping[str, float]) -> None:
        self._set("look", lambda session: session.set_look(weights))

    def set_strength(self, strength: float) -> None:
        self._set("strength", lambda session: session.set_strength(strength))

    def set_seed(self, seed: int) -> None:
        self._set("seed", lambda session: session.set_seed(seed))

    def _set(self, name: str, setting: Callable[[Stream], None]) -> None:
        setting(self.inner)
        self._settings[name] = setting
        if self.similar is not None:
            self.similar.forget()

    def reset(self) -> None:
        self.inner.reset()
        if self.similar is not None:
            self.similar.forget()

    def step(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [H, W, 3]. Raises what the inner session's ``step`` raises."""
        if self.similar is not None and self.similar.like_the_last(frame) and self._last is not None:
            self.report = _report_of_nothing()
            return self._last
        size = self._inside()
        begin = time.perf_counter()
        small = frame if size == self._size else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        out = self.inner.step(small)
        if size != self._size:
            out = cv2.resize(out, self._size, interpolation=cv2.INTER_CUBIC)
        self.report, self._last = self.inner.report, out
        if self.keeper is not None and self.keeper.saw((time.perf_counter() - begin) * 1e3):
            self._change()
        return out

    def _inside(self) -> tuple[int, int]:
        """Width and height that the model works at."""
        if self.keeper is None or self.keeper.rung.scale == 1.0:
            return self._size
        width, height = (max(MIN_SIDE, round(s * self.keeper.rung.scale)) for s in self._size)
        return width, height

    def _change(self) -> None:
        """A session of the other size or with other steps; it takes the past along."""
        assert self.keeper is not None
        steps, (width, height) = self.keeper.rung.steps, self._inside()
        old, self.inner = self.inner, self._make(steps, width, height)
        for setting in self._settings.values():
            setting(self.inner)
        self.inner.load_state(old.state(), fit=True)
        text = (
            f"to hold {1e3 / self.keeper.budget_ms:g} frames a second: {steps} "
            f"step{'s' if steps > 1 else ''}, {width}x{height} inside"
        )
        self.changes.append(text)
        self._notify(text)

    def describe(self) -> dict[str, Any]:
        """The session's own, and what was done to keep up."""
        facts = {**self.inner.describe(), "size": list(self._size)}
        if self.keeper is not None:
            facts["inside"] = list(self._inside())
            facts["target_fps"] = 1e3 / self.keeper.budget_ms
            facts["quality_changes"] = list(self.changes)
        if self.similar is not None:
            facts["skipped_similar"] = self.similar.skipped
        return facts


def _report_of_nothing() -> StepReport:
    """Of a frame that no model made: no time was spent, and nothing happened."""
    from mirage_cli.stream.stepping import StepReport  # late: it imports torch, which a session has done by then

    return StepReport()


class LiveModels:
    """A ``ModelLoader`` whose sessions keep up; all else is the inner one's.

    Args:
        models: the run's.
        target_fps, skip_similar: of ``LiveConfig``.
        notify: gets a sentence at each change of quality.
    """

    def __init__(
        self, models: Models, target_fps: float | None, skip_similar: float, notify: Callable[[str], None]
    ) -> None:
        self._models, self._target, self._levels, self._notify = models, target_fps, skip_similar, notify

    def session(self, options: ModelOptions, width: int, height: int) -> AdaptiveSession:
        """A session for frames of that size."""

        def make(steps: int, wide: int, high: int) -> Stream:
            return self._models.session(replace(options, steps=steps), wide, high)

        keeper = PaceKeeper(self._target, ladder(options.steps)) if self._target else None
        similar = SimilarFrames(self._levels) if self._levels > 0 else None
        return AdaptiveSession(make, width, height, options.steps, keeper, similar, self._notify)

    def is_cpu(self, options: ModelOptions) -> bool:
        return self._models.is_cpu(options)

    def check_model(self, options: ModelOptions) -> None:
        self._models.check_model(options)

    def look_names(self, options: ModelOptions) -> tuple[str, ...]:
        return self._models.look_names(options)

    def match(self, options: ModelOptions, text: str) -> PromptMatch:
        return self._models.match(options, text)
