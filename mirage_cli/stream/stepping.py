"""What steps a stream, as the rest of the program sees it, and the report of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mirage_cli import frames
from mirage_cli.stream.copies import Copies
from mirage_cli.stream.model import STAGES, Look

State = tuple[dict[str, np.ndarray], dict[str, Any]]
"""All that the next frame depends on: arrays, and what JSON holds; see ``state.py``."""

# Stages of a frame on CUDA: the host queues it, the device works (between two events), the host waits for the rest.
QUEUE, DEVICE, WAIT = "queue", "device", "wait"
PUBLISHED = {QUEUE: "prepare", DEVICE: "denoise", WAIT: "compose"}


@dataclass
class StepReport:
    """The last step: what it took, and what happened.

    Attributes:
        stages: milliseconds by stage; they add up to the step. On a CPU ``model.STAGES`` by the wall clock. On CUDA
            the whole device frame is "device", between two events; "queue" and "wait" are the host's.
        cut: the past was forgotten since the input cut to another shot.
        guard_event: what the drift guard found, and the past was forgotten, or None.
    """

    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    cut: bool = False
    guard_event: str | None = None

    def latencies(self) -> dict[str, float]:
        """Milliseconds of prepare, denoise and compose, the names in every document.

        On CUDA prepare is "queue", denoise "device" and compose "wait".
        """
        return {PUBLISHED.get(stage, stage): latency_ms for stage, latency_ms in self.stages.items()}


def sum_of_stages(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Stages of two paintings of the same frame, added up."""
    return {stage: latency_ms + other.get(stage, 0.0) for stage, latency_ms in one.items()}


class Stream(Protocol):
    """A stream that is stepped: ``Session``, or what stands before one (styling/adaptive.py)."""

    @property
    def report(self) -> StepReport:
        """Of the last step."""
        ...

    @property
    def copies(self) -> Copies | None:
        """Sends frames to the GPU before their turn, for ``step_later``; None: there is no ``step_later``."""
        ...

    def step(self, frame: np.ndarray) -> np.ndarray:
        """The next frame: uint8 [H, W, 3] -> the same."""
        ...

    def step_later(self, upload: frames.Upload) -> frames.Pending:
        """The same for a frame that ``copies`` has sent."""
        ...

    def set_look(self, weights: Look) -> None: ...

    def set_strength(self, strength: float) -> None: ...

    def set_seed(self, seed: int) -> None: ...

    def reset(self) -> None: ...

    def describe(self) -> dict[str, Any]: ...

    def state(self) -> State: ...

    def load_state(self, state: State, *, fit: bool = False) -> None:
        """Go on from a state; ``fit``: from one of a stream of another size."""
        ...
