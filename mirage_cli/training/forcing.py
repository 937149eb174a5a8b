"""Diffusion forcing and history augmentation: the past that the network trains on is imperfect.

Each generated frame of the past gets noise of its own level, and the network is conditioned on the levels
(Diffusion Forcing, Chen et al., arXiv 2407.01392). A part of the pasts is damaged the way a drifting
stream is (colour cast, grey-out, blur), half of the time with its level left at zero, so that the network learns to
correct instead of to continue.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.lsd.model import Past, luma

NOISE_AT_FULL_LEVEL = 0.5  # standard deviation at level 1, frames in [-1, 1]


@dataclass(frozen=True)
class ForcingConfig:
    """Shares of the streams: with noise, with damage, damage that the levels hide, and with the past hidden."""

    noisy: float = 0.4
    damaged: float = 0.12
    untold: float = 0.5
    hidden: float = 0.04


def add_noise(past: Past, levels: Tensor, generator: torch.Generator | None = None) -> Past:
    """The past with noise of ``levels`` [B, 3] on F(i), F(i-1), F(i-2)."""

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, device=like.device, dtype=like.dtype, generator=generator)

    sigma = (levels * NOISE_AT_FULL_LEVEL * past.valid[:, None])[:, :, None, None]
    older = torch.cat((sigma[:, 1:2].expand(-1, 3, -1, -1), sigma[:, 2:3].expand(-1, 3, -1, -1)), dim=1)
    return past._replace(last=past.last + sigma[:, :1] * noise(past.last), older=past.older + older * noise(past.older))


def damage(picture: Tensor, generator: torch.Generator) -> Tensor:
    """A frame as a drifting stream would have it: [B, 3, H, W], each picture damaged in its own way."""
    batch = picture.shape[0]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, device=picture.device, generator=generator)

    cast = (uniform(batch, 3, 1, 1) - 0.5) * 0.6
    contrast = 0.3 + 1.1 * uniform(batch, 1, 1, 1)
    mean = picture.mean(dim=(1, 2, 3), keepdim=True)
    blurred = F.avg_pool2d(picture, 5, stride=1, padding=2, count_include_pad=False)
    kinds = torch.stack(
        (
            picture + cast,
            mean + (picture - mean) * contrast,
            blurred,
            torch.lerp(luma(picture).expand_as(picture), picture, 2.2 * uniform(batch, 1, 1, 1)),
        )
    )
    choice = torch.randint(0, len(kinds), (batch,), device=picture.device, generator=generator)
    return kinds[choice, torch.arange(batch, device=picture.device)].clamp(-1, 1)


def force(past: Past, null: Tensor, config: ForcingConfig, generator: torch.Generator) -> tuple[Past, Past, Tensor]:
    """Disturb the past of a training step.

    Args:
        null: the token [C] of an empty memory; a stream without a past gets it too, as at run time.

    Returns:
        (past that the network sees, past that the output is composed with, levels for conditioning [B, 3]).
        Both carry the damage, only the first the noise.
    """
    batch, device = past.valid.shape[0], past.valid.device

    def chance(share: float) -> Tensor:
        return (torch.rand(batch, device=device, generator=generator) < share).float()

    shown = 1 - chance(config.hidden)
    valid = past.valid * shown
    mask = valid[:, None, None, None]
    hit = chance(config.damaged)
    last = torch.where(hit[:, None, None, None].bool(), damage(past.last, generator), past.last)
    memory = torch.where(valid[:, None, None] > 0, past.memory, null.to(past.memory.dtype))
    composed = Past(last * mask, past.older * mask, past.input_luma * mask, memory, valid)
    levels = torch.rand(batch, 3, device=device, generator=generator) ** 2 * chance(config.noisy)[:, None]
    seen = add_noise(composed, levels, generator)
    shown_level = hit * (1 - chance(config.untold)) * 0.7
    zero = torch.zeros_like(shown_level)
    levels = torch.maximum(levels, torch.stack((shown_level, zero, zero), dim=1))
    return seen, composed, torch.where(valid[:, None] > 0, levels, torch.ones_like(levels))
