"""Temporal consistency on real clips: what moves should move along, what stands should stand.

Motion is OpenCV's DIS flow of the incoming frames, so it owes nothing to the model's own estimate, with
occlusions masked by a forward-backward check (``metrics.FlowWarper``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mirage_cli.evaluation.clips import Clip
from mirage_cli.evaluation.metrics import FlowWarper, edges_kept, warped_gap
from mirage_cli.stream.session import Session

WARM_UP = 5  # frames before the measured ones
STILL_FRAMES = 40
EDGE_EVERY = 8


class ClipMotion:
    """Motions between the neighbouring frames of a clip, each measured once and kept.

    Args:
        pairs: how many neighbours, from frame ``WARM_UP`` on.
    """

    def __init__(self, clip: Clip, pairs: int) -> None:
        self.clip, self.pairs = clip, max(1, min(pairs, len(clip.frames) - 1 - WARM_UP))
        warper = FlowWarper()
        first = min(WARM_UP, len(clip.frames) - 2)
        self.numbers = range(first, first + self.pairs)
        self.motions = [warper.motion(clip.at(i), clip.at(i + 1)) for i in self.numbers]
        self.input_error = self._mean([clip.at(i) for i in (*self.numbers, self.numbers[-1] + 1)])

    def _mean(self, frames: list[np.ndarray]) -> float:
        gaps = [warped_gap(a, b, *motion) for a, b, motion in zip(frames, frames[1:], self.motions)]
        return float(np.nanmean(gaps))

    def error(self, step: Callable[[np.ndarray], np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """Warped error of a model's output, 0..1, and the outputs that it was measured on.

        The mean over neighbours of ``metrics.warped_error`` (Lai et al., ECCV 2018, arXiv 1808.00449).

        Args:
            step: the model; called with every frame from the clip's first one on.
        """
        outputs = [step(self.clip.at(i)) for i in range(self.numbers[-1] + 2)][self.numbers[0] :]
        return self._mean(outputs), outputs


def still_flicker(step: Callable[[np.ndarray], np.ndarray], frame: np.ndarray, frames: int = STILL_FRAMES) -> float:
    """Mean absolute change from frame to frame, in levels of 255, while the input stands still.

    The input-independent form of temporal flickering in VBench (Huang et al., CVPR 2024, arXiv
    2311.17982: mean absolute difference of neighbouring frames on static scenes), after ``WARM_UP``
    frames in which a stream may settle.
    """
    changes: list[float] = []
    before = np.zeros_like(frame, np.int16)
    for number in range(frames):
        out = step(frame).astype(np.int16)
        if number > WARM_UP:
            changes.append(np.abs(out - before).mean())
        before = out
    return float(np.mean(changes))


def measure_temporal(session: Session, motion: ClipMotion) -> dict:
    """Warped error with and without history, flicker on a still, and edges kept, of a session's look."""

    def without_past(rgb: np.ndarray) -> np.ndarray:
        session.forget()
        return session.step(rgb)

    session.reset()
    error, outputs = motion.error(session.step)
    session.reset()
    alone, _ = motion.error(without_past)
    session.reset()
    flicker = still_flicker(session.step, motion.clip.at(0))
    session.reset()
    inputs = [motion.clip.at(i) for i in motion.numbers]
    kept = [edges_kept(inputs[i], outputs[i]) for i in range(0, len(inputs), EDGE_EVERY)]
    return {
        "pairs": motion.pairs,
        "warped_error": error,
        "warped_error_input": motion.input_error,
        "warped_error_over_input": error / motion.input_error if motion.input_error else None,
        "warped_error_history_off": alone,
        "warped_error_over_history_off": error / alone if alone else None,
        "still_flicker_levels": flicker,
        "edges_kept": float(np.nanmean(kept)),
    }
