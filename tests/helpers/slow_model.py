"""Stands where the model does in benches: it takes known times."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from mirage_cli.config import ModelOptions
from mirage_cli.stream.model import STAGES
from mirage_cli.stream.stepping import StepReport

SIZE = (64, 48)


class MadeClock:
    """Seconds that pass only when somebody sleeps: times come out exactly, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class SlowSession:
    """Takes known times, and counts."""

    def __init__(self, prepare_ms: float, denoise_ms: float, compose_ms: float, time: Any = time) -> None:
        self.times = (prepare_ms, denoise_ms, compose_ms)
        self.clock = time if callable(time) else time.perf_counter
        self.sleep = time.sleep
        self.steps = 0
        self.report = StepReport()
        self.copies = None

    def set_look(self, weights: dict[str, float]) -> None:
        self.weights = weights

    def step(self, rgb: np.ndarray) -> np.ndarray:
        self.steps += 1
        spent = []
        for wanted in self.times:
            begin = self.clock()
            self.sleep(wanted / 1e3)
            spent.append((self.clock() - begin) * 1e3)
        self.report = StepReport(dict(zip(STAGES, spent)))
        return 255 - rgb

    def describe(self) -> dict[str, object]:
        return {"model": "slow", "device": "cpu", "dtype": "fp32", "backend": "torch"}


class SlowModels:
    """Stands where styler.Models does."""

    def __init__(self, *times_ms: float, time: Any = time) -> None:
        self.time = time
        self.sessions = [SlowSession(*times_ms, time=time)]

    def is_cpu(self, options: ModelOptions) -> bool:
        return True

    def session(self, options: ModelOptions, width: int, height: int, *, plain: bool = False) -> SlowSession:
        assert (width, height) == SIZE
        if plain:
            assert options.dtype == "fp32"
            self.sessions.append(SlowSession(1.0, 24.0, 1.0, time=self.time))
        return self.sessions[-1]

    def match(self, options: ModelOptions, text: str) -> SimpleNamespace:
        return SimpleNamespace(look="ink-wash", weights={"ink-wash": 1.0})
