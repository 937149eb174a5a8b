"""The sampler: Euler steps of flow matching with a network that predicts the clean frame.

With x_t = (1 - t) * noise + t * x_1 the velocity is (x_1 - x_t) / (1 - t) (Lipman et al.,
arXiv 2210.02747, eq. 22 with sigma_min = 0), so a step of size d = 1 / steps from t is

    x_(t+d) = x_t + d * (x_1(x_t) - x_t) / (1 - t)

and the last step lands on the prediction itself. The network knows d (shortcut models, Frans et al.,
arXiv 2410.12557): one step asks it for the whole way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mirage_cli.lsd.layers import BlockOps
from mirage_cli.lsd.model import LSDNet, Past, Prediction

MAX_STEPS = 4


def schedule(steps: int) -> list[tuple[float, float]]:
    """(t, d) of each step, from noise at t = 0 to the frame at t = 1."""
    return [(k / steps, 1.0 / steps) for k in range(steps)]


def step_modulations(net: LSDNet, look: Tensor, steps: int, has_past: bool, strength: float) -> list[Tensor]:
    """The network's conditioning in each step of a frame at run time: ``steps`` of [B, modulation width].

    Args:
        look: [B, look_width] from ``net.look_vector``.
        has_past: with one, the network is conditioned on ``history_levels``; without, on there being none.
        strength: 0 to 1, of all rows.
    """
    batch = len(look)
    one, levels = torch.ones(batch, device=look.device), net.condition_levels(batch, has_past)
    return [net.modulation(look, one * t, one * d, levels, one * strength) for t, d in schedule(steps)]


Modulation = TypeVar("Modulation", contravariant=True)


class Denoiser(Protocol[Modulation]):
    """``LSDNet``, or its packed form, whose modulations are folded into weights; see ``LSDNet.forward``."""

    def __call__(
        self,
        x_t: Tensor,
        frame: Tensor,
        past: Past,
        positions: Tensor,
        modulation: Modulation,
        /,
        ops: BlockOps | None = None,
        constant: Tensor | None = None,
    ) -> Prediction: ...


def sample(
    net: Denoiser[Modulation],
    noise: Tensor,
    frame: Tensor,
    past: Past,
    positions: Tensor,
    modulations: Sequence[Modulation],
    ops: BlockOps | None = None,
    constant: Tensor | None = None,
) -> Prediction:
    """Denoise one frame in ``len(modulations)`` steps; shapes as in ``LSDNet.forward``.

    Args:
        noise: standard normal [B, 3, H, W].
        modulations: conditioning of each step in ``schedule``'s order.
        constant: ``net.stem_constant(noise, positions)``, where the caller has it already.
    """
    steps = schedule(len(modulations))
    x_t = noise
    for (t, d), modulation in zip(steps, modulations):
        prediction = net(x_t, frame, past, positions, modulation, ops, constant)
        constant = None  # later steps start from another x_t
        x_t = x_t + d * (prediction.frame - x_t) / (1 - t)
    return prediction


def compose(prediction: Prediction, last: Tensor) -> Tensor:
    """The generated frame: the clean frame, with what the consistency mask keeps of the warped F(i).

    [B, 3, H, W] in [-1, 1].
    """
    return (prediction.frame + prediction.keep * (last - prediction.frame)).clamp(-1, 1)
