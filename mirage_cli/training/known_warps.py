"""Known warps: a camera walks a closed path over stills, and the teacher's pictures take the same path.

So every frame has an exact target, and the same view comes back after each round: a model that
accumulates errors is worse at a later return than at the first. ``mirage eval`` and the check at the end
of a training run both measure this way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mirage_cli.teachers.choose import Teachers
from mirage_cli.training.camera import CameraWalk, WalkConfig
from mirage_cli.training.data import render_bank

FIRST = 5  # frames at the start and at each return that count
PATH_SEED = 3  # of the walk's object and flips; the path itself has no chance in it


def closed_path(walk: CameraWalk, frame: int, period: int) -> None:
    """Put the camera where it is at this frame of a loop: an ellipse with a slow turn and zoom."""
    phase = 2 * math.pi * frame / period
    limits = walk._limits()
    walk.pose.zero_()
    walk.pose[:, 0] = 0.8 * limits[0] * math.sin(phase)
    walk.pose[:, 1] = 0.8 * limits[1] * (1 - math.cos(phase)) / 2
    walk.pose[:, 2] = 0.06 * math.sin(phase)
    walk.pose[:, 3] = 0.06 * math.sin(phase)
    walk.has_object.zero_()
    walk.flip.fill_(1.0)


@torch.inference_mode()
def known_warp(
    teachers: Teachers,
    look: str,
    stills: Sequence[np.ndarray],
    still_size: tuple[int, int],
    window: int,
    period: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """One round along the closed path over every still, and its target in a look, exactly coherent.

    Args:
        stills: uint8 [H, W, 3] each; they are cut to ``still_size``, (height, width).
        window: side of the camera's square window in pixels; period: frames of a round.

    Returns:
        (frames, targets), [period, B, 3, window, window] in [-1, 1].
    """
    bank = render_bank(stills, [look], teachers.scene, *still_size, device, batch=2)
    generator = torch.Generator(device).manual_seed(PATH_SEED)
    walk = CameraWalk(len(bank), (window, window), still_size, WalkConfig(), device, generator)
    index = torch.arange(len(bank), device=device)
    pairs = bank.gather(index, torch.zeros_like(index))
    number, frames, targets = teachers.looks.index(look), [], []
    for i in range(period):
        closed_path(walk, i, period)
        view = walk.look(pairs, pairs)
        frames.append(view[:, :3].clamp(-1, 1))
        scene = view[:, 3 : 3 + bank.channels[0]]
        if number in teachers.screen_bound:
            scene = teachers.screen(number, scene * 0.5 + 0.5) * 2 - 1
        targets.append(scene)
    return torch.stack(frames), torch.stack(targets)


def error_summary(errors: Sequence[float], alone: Sequence[float], period: int) -> dict:
    """What errors say of a stream that returns to its start every ``period`` frames.

    Args:
        errors: mean absolute differences to the teacher of successive frames.
        alone: those of one round with the past hidden.
    """
    off_first = float(np.mean(alone[:FIRST]))
    result: dict[str, float | list[float] | None] = {
        "first_5": float(np.mean(errors[:FIRST])),
        "first_round": float(np.mean(errors[:period])),
        "history_off_first_5": off_first,
        "history_off_round": float(np.mean(alone)),
    }
    done = (len(errors) - FIRST) // period  # whole rounds, each with its return
    if done >= 1:
        at = [float(np.mean(errors[k * period : k * period + FIRST])) for k in range(1, done + 1)]
        result |= {
            "at_returns": [round(v, 5) for v in at],
            "first_return": at[0],
            "last_return": at[-1],
            "last_over_first_return": ratio(at[-1], at[0]) if done > 1 else None,
            "last_return_over_history_off": ratio(at[-1], off_first),
            "last_return_above_history_off_levels": 127.5 * (at[-1] - off_first),
        }
    return {"returns": done, **result}


def ratio(one: float, other: float) -> float | None:
    """One over the other; None for a division by zero."""
    return one / other if other else None
