"""Drift guard: watches the generated picture and forgets the past when it has gone bad.

Six numbers of each output, less the same numbers of the input, are compared with their own recent course
(a past that was damaged shows at once) and with their mean after the last anchor (a feedback loop that
feeds on its own errors shows slowly). Scenery changes them as well, so a departure is only a suspicion: the
session makes the same frame again without a past (a recheck), and only where the two differ is the past to
blame. The fresh frame then takes over; otherwise nothing changes but what counts as normal.

A recheck costs one frame's time. Suspicions that come to nothing get one in ``FRAMES_PER_RECHECK`` frames at
most, so the guard's price is bounded, whatever the scene does.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

SETTLE = 4  # judged frames after an anchor before the course is watched
ANCHOR_FRAMES = 16  # judged frames after those whose mean is the anchor
STRIDE = 8  # every eighth row and column is enough
EVENTS = ("brightness drift", "grey-out", "loss or excess of colour", "blur or grain", "colour cast", "colour cast")
# Natural logarithms of factors for the first four numbers; for the casts, parts of CAST_LEVELS. Fifteen looks on
# two moving clips: 99 of 100 frames keep within (0.12, 0.15, 0.15, 0.20, 0.19, 0.25) of their course, and all
# frames within (0.16, 0.12, 0.10, 0.12, 0.27, 0.30) of the same frame made without a past. On plain ground strokes
# that stay are bolder than those of one frame: up to (0.08, 0.27, 0.10, 0.43), and they come back by themselves.
SUDDEN = np.array([0.18, 0.20, 0.20, 0.25, 0.30, 0.30])
LASTING = np.array([0.25, 0.25, 0.25, 0.30, 0.35, 0.35])
CONFIRMED = np.array([0.25, 0.25, 0.25, 0.25, 0.50, 0.50])
BOLDER = np.array([0.25, 0.40, 0.25, 0.55, 0.50, 0.50])  # the same, where the past makes for more
CAST_LEVELS = 40.0
LASTS = 4  # judged frames that a departure from the anchor must last
COURSE = 0.2  # weight of the newest frame in the recent course
FRAMES_PER_RECHECK = 100
MOST_RECHECKS = 3.0  # that may be saved up; the last one is kept for departures of twice the limit


def picture_numbers(rgb: np.ndarray) -> np.ndarray:
    """Tone of uint8 [H, W, 3] in levels: float [6].

    Mean and spread of luma, saturation (mean of max - min over the channels), sharpness (mean absolute
    difference of horizontal neighbours), and how far red and blue lie from luma on average.
    """
    picture = np.ascontiguousarray(rgb[::STRIDE, ::STRIDE])
    neighbours = np.ascontiguousarray(rgb[::STRIDE, 1::STRIDE])
    red, green, blue = cv2.split(picture)
    mean, spread = (float(value[0, 0]) for value in cv2.meanStdDev(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)))
    chroma = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    near = cv2.mean(cv2.absdiff(picture[:, : neighbours.shape[1]], neighbours))[1]
    average = cv2.mean(picture)
    return np.array([mean, spread, cv2.mean(chroma)[0], near, average[0] - mean, average[2] - mean])


def difference(numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far two ``picture_numbers`` lie apart, in the units of the limits: float [6]."""
    result = (numbers - others) / CAST_LEVELS
    result[:4] = np.log((numbers[:4] + 4.0) / (others[:4] + 4.0))
    return result


def _name(excess: np.ndarray) -> str:
    """The event of a departure; contrast names it before the colour that goes with it."""
    return EVENTS[1 if excess[1] > 1 else int(excess.argmax())]


class DriftGuard:
    """Feed every frame to ``check``; when it suspects, ask ``confirm`` with a frame made without a past.

    Args:
        enabled: False makes ``check`` return None always (the off-switch).
        every: judge every such frame; more where a frame takes less time than looking at it.
    """

    def __init__(self, enabled: bool = True, every: int = 1) -> None:
        self.enabled, self.every = enabled, every
        self.reset()

    def reset(self) -> None:
        """Be as at a stream's first frame: nothing learnt, all rechecks left to ask for."""
        self._rechecks = MOST_RECHECKS
        self._frames = 0
        self.anchor()

    def anchor(self) -> None:
        """Learn again what is normal (after a cut, a prompt change)."""
        self._seen = self._departed = 0
        self._sum, self._course = np.zeros(6), np.zeros(6)

    @property
    def due(self) -> bool:
        """Whether the next ``check`` looks at its pictures."""
        return self.enabled and (self._frames + 1) % self.every == 0

    def check(self, generated: np.ndarray | None, incoming: np.ndarray | None) -> str | None:
        """Judge one output; both uint8 [H, W, 3], or None where it is not ``due``.

        Returns:
            The name of a departure that deserves a recheck, or None.
        """
        if not self.enabled:
            return None
        self._frames += 1
        self._rechecks = min(MOST_RECHECKS, self._rechecks + 1 / FRAMES_PER_RECHECK)
        if self._frames % self.every or generated is None or incoming is None:
            return None
        now = difference(picture_numbers(generated), picture_numbers(incoming))
        self._seen += 1
        if self._seen == 1:
            self._course = now
        if SETTLE < self._seen <= SETTLE + ANCHOR_FRAMES:
            self._sum += now
        excess = np.abs(now - self._course) / SUDDEN
        suspect = self._seen > SETTLE and excess.max() > 1
        if not suspect and self._seen > SETTLE + ANCHOR_FRAMES:
            far = np.abs(now - self._sum / ANCHOR_FRAMES) / LASTING
            self._departed = self._departed + 1 if far.max() > 1 else 0
            if self._departed >= LASTS:
                suspect, excess = True, far
        if suspect and self._rechecks >= (1 if excess.max() > 2 else 2):
            self._rechecks -= 1
            return _name(excess)
        self._course = self._course + COURSE * (now - self._course)
        return None

    def confirm(self, generated: np.ndarray, fresh: np.ndarray, incoming: np.ndarray) -> str | None:
        """Is the past to blame? All uint8 [H, W, 3], ``fresh`` made from the same input without a past.

        Returns:
            What is wrong with the generated picture. None: nothing, and the guard takes the present
            for normal from here on.
        """
        numbers = picture_numbers(generated)
        departure = difference(numbers, picture_numbers(fresh))
        excess = np.abs(departure) / np.where(departure > 0, BOLDER, CONFIRMED)
        self.anchor()
        if excess.max() > 1:
            self._rechecks = min(MOST_RECHECKS, self._rechecks + 1)  # it was well spent
            return _name(excess)
        self._course = difference(numbers, picture_numbers(incoming))
        self._seen = SETTLE
        return None

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What it has learnt, as arrays and as what JSON holds; see ``state.py``."""
        facts = {"seen": self._seen, "departed": self._departed, "frames": self._frames, "opinions": self._rechecks}
        return {"sum": self._sum.copy(), "course": self._course.copy()}, facts

    def load_state(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Go on from a ``state``."""
        self.anchor()
        self._sum, self._course = arrays["sum"].copy(), arrays["course"].copy()
        self._seen, self._departed, self._frames = (int(facts[name]) for name in ("seen", "departed", "frames"))
        self._rechecks = float(facts["opinions"])
