"""What transform and live share: the surroundings of a run, and its turn in the display."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from mirage_cli.frames import Frame, Ui
from mirage_cli.measure import PeakMemory, Stats
from mirage_cli.styling.stopping import StopSwitch

Clock = Callable[[], float]
MEMORY_EVERY_SECONDS = 1.0


@dataclass
class RunContext:
    """Who hears of a run, what stops it, and how its time is measured.

    Attributes:
        ui: gets progress, notes and warnings.
        stop: ends the run early.
        clock: seconds, for all latencies.
        begun_seconds: when the program started on that clock, for the time to the first frame.
        memory: peak memory, sampled while frames flow.
    """

    ui: Ui
    stop: StopSwitch
    clock: Clock
    begun_seconds: float
    memory: PeakMemory = field(default_factory=PeakMemory)
    _next_sample: float = 0.0

    @classmethod
    def of(
        cls, ui: Ui, stop: StopSwitch | None, clock: Clock = time.perf_counter, begun_seconds: float | None = None
    ) -> RunContext:
        """With a switch of its own and the time of now where none is given."""
        return cls(ui, stop or StopSwitch(), clock, clock() if begun_seconds is None else begun_seconds)

    def tick(self, stats: Callable[[], Stats]) -> None:
        """Called many times a second while frames flow: samples memory now and then, and lets the display draw."""
        now = self.clock()
        if now >= self._next_sample:
            self._next_sample = now + MEMORY_EVERY_SECONDS
            self.memory.sample()
        self.ui.tick(stats)


def side_by_side(frame: Frame, rgb: np.ndarray) -> np.ndarray:
    """Input | output: two uint8 [H, W, 3] -> [H, 2W, 3]. The ``compose`` of ``--compare``."""
    left = frame.rgb
    if left.shape != rgb.shape:
        left = cv2.resize(left, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_AREA)
    return np.concatenate([left, rgb], axis=1)
