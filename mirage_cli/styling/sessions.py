"""What a run asks of a stream through a model: ``stream.session.Session``, or a session around one.

The types of ``stream`` are named for the type checker alone: importing them imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mirage_cli.pipeline import Pending
from mirage_cli.prompts.track import Weights

if TYPE_CHECKING:
    from mirage_cli.stream.copies import Copies, Upload
    from mirage_cli.stream.session import StepReport
    from mirage_cli.stream.state import State


class StreamSession(Protocol):
    """One stream: frames in, frames out, in order and in one thread."""

    @property
    def report(self) -> StepReport:
        """Of the last frame."""

    @property
    def copies(self) -> Copies | None:
        """Sends frames to the GPU ahead of their turn; None on a CPU."""

    def step(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> the styled frame, uint8 [H, W, 3]."""

    def step_later(self, upload: Upload) -> np.ndarray | Pending:
        """The same for a frame that ``copies`` has sent."""

    def set_look(self, weights: Weights) -> None: ...

    def set_strength(self, strength: float) -> None: ...

    def set_seed(self, seed: int) -> None: ...

    def reset(self) -> None:
        """Forget all frames."""

    def describe(self) -> dict[str, Any]:
        """What runs, as plain data."""


class ResumableSession(StreamSession, Protocol):
    """A stream whose state can be taken out and put into another session."""

    def state(self) -> State: ...

    def state_for(self, other: Any) -> State:
        """Its state, fitted to a session of the same class and another size."""

    def load_state(self, state: State) -> None: ...
