"""What a session takes: sizes, looks, frames."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mirage_cli.config import MAX_SIDE, MIN_SIDE, Size
from mirage_cli.errors import UsageProblem
from mirage_cli.stream.copies import Upload
from mirage_cli.stream.model import Look, Model


def check_options(model: Model, size: Size, steps: int, nv12: bool) -> None:
    """UsageProblem where a session cannot be made so; ``size`` is width and height."""
    for name, value in zip(("width", "height"), size):
        if not MIN_SIDE <= value <= MAX_SIDE:
            raise UsageProblem(f"{name} {value}; allowed: {MIN_SIDE} to {MAX_SIDE} pixels", "use --size 512x288")
    allowed = model.steps_allowed
    if steps not in allowed:
        raise UsageProblem(f"{steps} steps; allowed: {allowed[0]} to {allowed[-1]}", f"use --steps {allowed[0]}")
    if nv12 and (size[0] % 2 or size[1] % 2):
        raise UsageProblem(f"NV12 frames of {size[0]}x{size[1]}; both sides must be even", "use --size 512x288")


def normalised_look(model: Model, weights: Look) -> dict[str, float]:
    """Weights that sum to one, without the zeros.

    Raises:
        UsageProblem: a look that the model does not accept, a negative weight, or nothing at all.
    """
    if unknown := sorted(look for look in weights if not model.accepts(look)):
        raise UsageProblem(f"no look {unknown[0]!r} in {model.name}", "mirage models lists the looks")
    total = sum(weights.values())
    if not weights or min(weights.values()) < 0 or not 0 < total < float("inf"):
        raise UsageProblem(
            f"look weights {dict(weights)}; allowed: not negative, not all zero", "give one look the weight 1"
        )
    return {look: weight / total for look, weight in weights.items() if weight > 0}


def check_strength(strength: float) -> None:
    """UsageProblem out of 0 to 1."""
    if not 0.0 <= strength <= 1.0:
        raise UsageProblem(f"strength {strength}; allowed: 0 to 1", "use --strength 1")


def check_frame(frame: np.ndarray | Upload | Tensor, shape: tuple[int, ...]) -> None:
    """UsageProblem where a frame is not uint8 of this shape."""
    form = frame.tensor if isinstance(frame, Upload) else frame
    kind = str(form.dtype).removeprefix("torch.")
    if tuple(form.shape) != shape or kind != "uint8":
        raise UsageProblem(
            f"a frame of {kind} {tuple(form.shape)}; this session takes uint8 {shape}",
            "open a session of the frames' size",
        )
