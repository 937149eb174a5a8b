"""What a generated frame is graded by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.lsd.model import UNSHUFFLE

Features = Callable[[Tensor], list[Tensor]]
"""[B, 3, H, W] in 0..1 -> feature maps [B, C, H / s, W / s]."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; see ``frame_loss``, ``temporal_difference``, ``settle_difference`` and ``distill``."""

    clean: float = 0.5
    features: float = 0.2
    style: float = 0.0
    edges: float = 0.5
    grid: float = 0.0
    tone: float = 0.0
    texture: float = 0.0
    distil: float = 0.0
    temporal: float = 0.0
    settle: float = 0.0


def edge_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the pictures' gradients, at one and two pixels. [B, C, H, W] -> scalar."""
    difference = a - b
    total = difference.new_zeros(())
    for gap in (1, 2):
        total = total + (difference[..., gap:] - difference[..., :-gap]).abs().mean()
        total = total + (difference[..., gap:, :] - difference[..., :-gap, :]).abs().mean()
    return total / 4


def edge_strength(x: Tensor, cell: int) -> Tensor:
    """Mean strength of a picture's edges in cells of ``cell`` pixels: [B, C, H, W] -> [B, C, h, w]."""
    across = (x[..., :-1, 1:] - x[..., :-1, :-1]).abs()
    down = (x[..., 1:, :-1] - x[..., :-1, :-1]).abs()
    return F.avg_pool2d(across + down, cell, ceil_mode=True)


def texture_difference(a: Tensor, b: Tensor, cell: int = 8) -> Tensor:
    """How much the strength of the pictures' edges differs, cell by cell. [B, C, H, W] -> scalar.

    Where a stroke's exact place cannot be known, the other terms are smallest for a blur; this one asks
    for as much stroke as there should be, wherever it lies.
    """
    return (edge_strength(a, cell) - edge_strength(b, cell)).abs().mean()


def cell_pattern(x: Tensor, reach: int | None = None) -> Tensor:
    """What repeats from cell to cell: means of each place in the cells of 4x4 pixels, less the mean of all places.

    Args:
        x: [B, C, H, W]; reach: pixels a side of the windows whose cells are averaged, which overlap by half; None:
            all cells of a picture.

    Returns:
        [B, C, 16, windows down, windows across].
    """
    cells = F.pixel_unshuffle(x.float(), UNSHUFFLE)
    if reach is None:
        means = cells.mean(dim=(2, 3), keepdim=True)
    else:
        window = min(reach // UNSHUFFLE, *cells.shape[-2:])
        means = F.avg_pool2d(cells, window, max(1, window // 2))
    places = means.unflatten(1, (-1, UNSHUFFLE**2))
    return places - places.mean(dim=2, keepdim=True)


def tone_difference(a: Tensor, b: Tensor, cell: int = 16) -> Tensor:
    """How much the mean tones of the pictures differ, cell by cell. [B, C, H, W] -> scalar.

    A tone that is off by a level all over costs L1 no more than grain of that size, and less than a stroke that
    lies elsewhere; the eye sees it first.
    """
    return F.avg_pool2d((a - b).float(), cell, ceil_mode=True).abs().mean()


def grid_difference(a: Tensor, b: Tensor) -> Tensor:
    """How much of the pictures' difference repeats from cell to cell. [B, C, H, W] -> scalar.

    The network paints cells of 4x4 pixels, each pixel from channels of its own. A weave that these add to every
    cell costs L1 next to nothing and gives losses on texture and on features the detail that they ask for. The mean
    over many cells of what stands at one place in them shows it: strokes lie anywhere and cancel out.
    """
    return cell_pattern(a - b, reach=128).abs().mean()


def style_difference(given: list[Tensor], wanted: list[Tensor], reach: int = 32) -> Tensor:
    """How unlike the pictures' features are in mean and spread over windows of ``reach`` pixels. -> scalar.

    In the manner of style losses by statistics of features (Gatys et al., CVPR 2016; mean and standard deviation as
    in Huang and Belongie, ICCV 2017, arXiv 1703.06868), but window by window instead of over the whole picture.
    A picture whose strokes lie elsewhere than the target's costs nothing; a blurred one does.

    Args:
        given, wanted: feature maps [B, C, H / s, W / s], s = 2, 4, 8, ... in this order.
    """
    total = given[0].new_zeros((), dtype=torch.float32)
    for depth, pair in enumerate(zip(given, wanted)):
        window = max(2, reach >> (depth + 1))
        (mean, spread), (other_mean, other_spread) = (_moments(x.float(), window) for x in pair)
        total = total + (mean - other_mean).abs().mean() + (spread - other_spread).abs().mean()
    return total / len(given)


def _moments(x: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over windows that overlap by half: [B, C, H, W] -> two of [B, C, h, w]."""
    mean = F.avg_pool2d(x, window, stride=max(1, window // 2))
    variance = F.avg_pool2d(x * x, window, stride=max(1, window // 2)) - mean * mean
    return mean, (variance.clamp(min=0) + 1e-4).sqrt()


def temporal_difference(generated: Tensor, last: Tensor, change: Tensor, trusted: Tensor) -> Tensor:
    """How unlike its target the generated frame changed since the last one, along the motion. -> scalar.

    In the manner of the temporal loss of blind video consistency (Lai et al., ECCV 2018, arXiv 1808.00449,
    eq. 5), but the target's own change is not counted as error. Where the target can be known from the frame the other
    terms weigh more; where it cannot (a stroke's exact place), this one asks to stay with what was painted.

    Args:
        generated: [B, 3, H, W]; last: the last generated frame, warped to where things are now.
        change: the target less the last target, warped by the same motion; 0 asks for no change at all.
        trusted: [B, 1, H, W], 0 where motion failed or nothing was there to compare with.
    """
    return ((generated - last - change).abs() * trusted).mean()


def frame_loss(
    generated: Tensor, clean: Tensor, target: Tensor, features: Features | None, config: LossConfig, step: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 of the composed and of the clean frame, of edges and network features; cells, tones, strength of edges, style.

    Args:
        generated: after the consistency blend; clean: before it; target; all [B, 3, H, W] in [-1, 1].
        features: callable, rgb in 0..1 -> list of feature maps, already on comparable scales; or None.
        step: odd and even steps look at the features of different halves of the batch, to save time.

    Returns:
        (loss, terms by name), terms detached.
    """
    terms = {
        "l1": (generated - target).abs().mean(),
        "clean": (clean - target).abs().mean(),
        "edges": edge_difference(generated, target),
    }
    loss = terms["l1"] + config.clean * terms["clean"] + config.edges * terms["edges"]
    if config.grid:
        terms["grid"] = grid_difference(generated, target)
        loss = loss + config.grid * terms["grid"]
    if config.tone:
        terms["tone"] = tone_difference(generated, target)
        loss = loss + config.tone * terms["tone"]
    if config.texture:
        terms["texture"] = texture_difference(generated, target)
        loss = loss + config.texture * terms["texture"]
    if features is not None and (config.features or config.style):
        half = slice(step % 2, None, 2) if len(target) > 1 else slice(None)
        with torch.no_grad():
            wanted = features(target[half] * 0.5 + 0.5)
        given = features(generated[half].clamp(-1.2, 1.2) * 0.5 + 0.5)
        first, *others = ((g - w).abs().mean() for g, w in zip(given, wanted))
        terms["features"] = sum(others, first) / len(wanted)
        loss = loss + config.features * terms["features"]
        if config.style:
            terms["style"] = style_difference(given, wanted)
            loss = loss + config.style * terms["style"]
    return loss, {name: value.detach() for name, value in terms.items()}
