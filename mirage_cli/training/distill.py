"""Shortcut distillation: one long step is taught to land where two half steps of the mean network land.

Shortcut models (Frans et al., arXiv 2410.12557, eq. 4) ask that a step of size 2d equals two of size d.
Our network predicts the clean frame instead of a velocity, so the two half steps are taken with the
sampler's rule and turned back into the clean frame that one long step would have to predict.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def two_half_steps(predict: Predict, x_t: Tensor, t: Tensor, d: Tensor) -> Tensor:
    """The clean frame that one step of size d must predict to land where two of size d / 2 land.

    Args:
        predict: (x_t [B, 3, H, W], t [B], d [B]) -> clean frame, of the teacher.
        x_t, t, d: where the long step starts and how long it is, t + d at most 1.
    """
    half = d / 2

    def stepped(x: Tensor, at: Tensor) -> Tensor:
        clean = predict(x, at, half)
        return x + (half / (1 - at))[:, None, None, None] * (clean - x)

    landed = stepped(stepped(x_t, t), t + half)
    return x_t + ((1 - t) / d)[:, None, None, None] * (landed - x_t)
