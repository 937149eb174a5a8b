"""``mirage bench --ladder``: the optimisations switched on one by one, a rung a line.

The rungs are the model's own ``variants``: painters, of which each has one optimisation more than the one before it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mirage_cli.bench.subjects import Subject, measure, prepared, rows
from mirage_cli.config import Size
from mirage_cli.stream.model import Look, Model, Variant
from mirage_cli.stream.session import Session


def ladder(
    model: Model, size: Size, steps: int, look: Look, frames: list[np.ndarray], count: int
) -> list[dict[str, Any]]:
    """The rungs' rows; ``size`` is width and height."""
    subjects = rungs(model, size, steps, look, frames)
    measure(subjects, frames, count, warm_up=min(50, max(2, count // 4)))
    return rows(subjects)


def rungs(model: Model, size: Size, steps: int, look: Look, frames: list[np.ndarray]) -> list[Subject]:
    """A subject for each variant; one that cannot be had says why."""

    def session(variant: Variant) -> Session:
        return Session(
            model,
            width=size[0],
            height=size[1],
            steps=steps,
            guard=False,
            painter=variant.make(size, steps),
            graph="auto" if variant.graph else "off",
        )

    return [prepared(v.name, v.what, partial(session, v), frames, look) for v in model.variants()]
