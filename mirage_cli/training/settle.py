"""Where a scene settles: with a past or without, the picture should be the same on the whole.

In a scene that stands still the network meets its own output again and again. Where a look is free to place
its strokes, each round may make them a little bolder, until after a hundred frames the picture has settled
elsewhere than it began. Both ends are graded here: some streams paint their frame a second time as a
stream begins, and tones and strength of strokes of the two pictures must agree, cell by cell; where each
stroke lies is left free, since what moves takes its strokes along.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.lsd.model import Past
from mirage_cli.training.losses import edge_strength
from mirage_cli.training.streams import Task

CELL = 16  # pixels: wider than a stroke, narrower than the areas that change their tone


def repeat_without_past(
    task: Task, seen: Past, levels: Tensor, rows: Tensor, noise: Tensor, no_memory: Tensor
) -> tuple[Task, Past, Tensor]:
    """The inputs of a training step with some streams' frames once more at the end, there without a past.

    One larger batch instead of two, so that a compiled network stays the one that it is.

    Args:
        seen: the past that the network sees; levels: of its noise [B, 3]; rows: which streams [n].
        noise: the streams' noise [B, 3, H, W]; no_memory: a token of an empty memory bank [..., C].

    Returns:
        (task, past, levels) of B + n frames; of the task only the network's inputs are lengthened.
    """
    last, older, luma = (torch.zeros_like(field[rows]) for field in seen[:3])
    fresh = Past(
        last,
        older,
        luma,
        no_memory.detach().to(seen.memory.dtype).expand_as(seen.memory[rows]),
        torch.zeros_like(seen.valid[rows]),
    )
    longer = replace(
        task,
        x_t=torch.cat((task.x_t, noise[rows])),
        t=torch.cat((task.t, torch.zeros_like(task.t[rows]))),
        d=torch.cat((task.d, torch.ones_like(task.d[rows]))),
        frame=torch.cat((task.frame, task.frame[rows])),
        look=torch.cat((task.look, task.look[rows])),
        strength=torch.cat((task.strength, task.strength[rows])),
    )
    past = Past(*(torch.cat(pair) for pair in zip(seen, fresh)))
    return longer, past, torch.cat((levels, torch.ones_like(levels[rows])))


def settle_difference(settled: Tensor, begun: Tensor, counts: Tensor) -> Tensor:
    """How unlike two paintings of a frame are in tone and in the strength of their strokes. -> scalar.

    Args:
        settled, begun: [n, 3, H, W], with a past and without.
        counts: [n], 0 where the two are not of the same frame.
    """
    tone = F.avg_pool2d(settled - begun, CELL).abs().mean(dim=(1, 2, 3))
    strokes = (edge_strength(settled, CELL) - edge_strength(begun, CELL)).abs().mean(dim=(1, 2, 3))
    return ((tone + strokes) * counts).mean()
