"""Drift guard: watches the generated picture and forgets the past when it goes bad.

Four numbers of each output, relative to the same numbers of the input, are compared with their means
over the first frames after the last anchor: brightness, contrast, colour and sharpness. A lasting
departure means that the feedback loop is feeding on its own errors; the cure is one frame without past.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

ANCHOR_FRAMES = (4, 20)  # frames after a reset whose mean is the anchor
LIMIT = 2.0  # factor of departure, up or down
PATIENCE = 4  # frames that a departure must last
STRIDE = 4  # every fourth row and column is enough
EVENTS = ("brightness drift", "grey-out", "colour drift", "blur or grain")


def picture_numbers(rgb: np.ndarray) -> np.ndarray:
    """Luma mean, luma spread, saturation, sharpness of uint8 [H, W, 3], in levels: float [4].

    Saturation is the mean of max - min over the channels, sharpness the mean absolute difference of
    horizontal neighbours.
    """
    picture = rgb[::STRIDE, ::STRIDE].astype(np.float32)
    luma = picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    near = rgb[::STRIDE, 1:, 1].astype(np.int16) - rgb[::STRIDE, :-1, 1]
    saturation = picture.max(axis=2) - picture.min(axis=2)
    return np.array([luma.mean(), luma.std(), saturation.mean(), np.abs(near).mean()])


class DriftGuard:
    """Feed every frame; ``check`` returns what happened, or None.

    Args:
        enabled: False makes ``check`` return None always (the off-switch).
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.anchor()

    def anchor(self) -> None:
        """Start to learn what is normal anew (after a cut, a prompt change, a reset)."""
        self._seen = 0
        self._sum = np.zeros(4)
        self._departed: deque[int] = deque(maxlen=PATIENCE)

    def check(self, generated: np.ndarray, incoming: np.ndarray) -> str | None:
        """Compare one output with the anchor; both uint8 [H, W, 3].

        Returns:
            The name of the drift once it has lasted; the caller then resets and the guard anchors anew.
        """
        if not self.enabled:
            return None
        ratio = (picture_numbers(generated) + 4.0) / (picture_numbers(incoming) + 4.0)
        self._seen += 1
        first, last = ANCHOR_FRAMES
        if self._seen <= last:
            self._sum += ratio if self._seen > first else 0
            return None
        departure = np.abs(np.log(ratio / (self._sum / (last - first))))
        worst = int(departure.argmax())
        self._departed.append(worst if departure[worst] > np.log(LIMIT) else -1)
        if len(self._departed) == PATIENCE and min(self._departed) >= 0:
            self.anchor()
            return EVENTS[worst]
        return None

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What it has learnt, as arrays and as what JSON holds; see ``lsd.state``."""
        return {"sum": self._sum.copy()}, {"seen": self._seen, "departed": list(self._departed)}

    def load_state(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Go on from a ``state``."""
        self.anchor()
        self._sum[:] = arrays["sum"]
        self._seen = int(facts["seen"])
        self._departed.extend(facts["departed"])
