"""Temporal consistency: where did things move, and is this still the same shot?

Motion is estimated between the incoming frames I(i) and I(i+1), never on generated ones, and warps
the generated past to where its things are now. Coarse block matching finds large motion; Lucas-Kanade
steps (Lucas and Kanade, IJCAI 1981) from coarse to fine refine it to a fraction of a pixel. Light that
changes is not motion: a camera that corrects its exposure must not make a wall swim, so each window has a
change of brightness of its own. After each step vectors spread from where the picture tells them to where
it does not: a plain wall moves with what is around it, and strokes painted on it must, too. All of it is a
fixed number of plain tensor operations, so it batches for training and captures into a CUDA graph.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.stream.planes import box, resize_flow, shrink, warp

COARSE = 16  # pixels of one cell in block matching
SEARCH = 3  # cells searched to each side: motion up to 48 pixels a frame
MATCH_WINDOW = 2  # radius of the windows that block matching compares, in cells
MATCH_STAY = 0.004  # luma that a cell of displacement must gain: flat regions stay where they are
MATCH_SHARPNESS = 150.0  # of the soft minimum over displacements, in 1 / luma
STEPS = (2, 1, 2, 2)  # of Lucas-Kanade at 1/16, 1/8, 1/4 and 1/2
WINDOW = 3  # radius of its windows, in pixels of the level
REACH = 6  # how far vectors spread after each step, in such pixels
LONGEST_STEP = 1.0  # of one refinement, in such pixels
NEAR = 3  # radius of what tells whether a place moves, in pixels of half size
AROUND = 12  # radius for a plain place, which cannot tell
MOVES_RATIO = 0.8  # moving explains a place better if its error is below this share of standing still's ...
MOVES_MARGIN = 0.002  # ... less this much luma, near by
MOVES_MARGIN_AROUND = 0.001  # ... and around
DAMPING = 1e-5  # in squared luma a pixel: without texture the step is zero
HALF_CONFIDENT = 1e-3  # in squared luma a pixel; camera noise lies far below
LEAST_CONFIDENCE = 1e-3
CUT_LEAST_SPREAD = 0.05  # luma added to the frames' spread in cut_score, so that dark frames do not cut
CUT_THRESHOLD = 0.47  # of cut_score; nine held-out clips: 0.37 at most inside a shot, 0.59 at least across


@functools.lru_cache(maxsize=8)
def _search_vectors(device: torch.device) -> Tensor:
    """Displacements of block matching in cells, x then y, row by row: [(2 SEARCH + 1)^2, 2].

    Made on the device, since a captured graph cannot copy a constant from the host.
    """
    reach = torch.arange(-SEARCH, SEARCH + 1, device=device, dtype=torch.float32)
    return torch.stack((reach.repeat(len(reach)), reach.repeat_interleave(len(reach))), dim=1)


def _block_match(previous: Tensor, following: Tensor) -> Tensor:
    """Integer search of radius SEARCH with a soft minimum: [B, 1, h, w] -> flow [B, 2, h, w]."""
    padded = F.pad(previous, (SEARCH,) * 4, mode="replicate")
    height, width = following.shape[-2:]
    reach = range(2 * SEARCH + 1)
    shifted = torch.cat([padded[..., y : y + height, x : x + width] for y in reach for x in reach], dim=1)
    cost = box((shifted - following).abs(), MATCH_WINDOW)
    vectors = _search_vectors(cost.device)
    cost = cost + MATCH_STAY * vectors.norm(dim=1)[:, None, None]
    weight = torch.softmax(-(cost - cost.amin(dim=1, keepdim=True)) * MATCH_SHARPNESS, dim=1)
    return torch.einsum("bkhw,kc->bchw", weight, vectors)


def _lucas_kanade(previous: Tensor, following: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """One Gauss-Newton step on luma: flow [B, 2, h, w] -> (refined flow, confidence [B, 1, h, w]).

    A window's unknowns are its vector and by how much it got brighter. Solved for the vector that is the usual step,
    with covariances of gradients and errors in place of their products' means (Baker, Gross and Matthews,
    "Lucas-Kanade 20 years on: Part 3", 2003, with one appearance image, a constant).

    The confidence grows from ``LEAST_CONFIDENCE`` to 1 with the smaller eigenvalue of the window's structure
    tensor (Shi and Tomasi, "Good features to track", CVPR 1994): low where there is no texture, and along edges.
    """
    warped = warp(previous, flow)
    padded = F.pad(warped, (1, 1, 1, 1), mode="replicate")
    gx = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    gy = 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])
    error = following - warped
    values = torch.cat((gx, gy, error, gx * gx, gx * gy, gy * gy, gx * error, gy * error), dim=1)
    x, y, e, xx, xy, yy, xe, ye = box(values, WINDOW).unbind(dim=1)
    xx, xy, yy, xe, ye = xx - x * x, xy - x * y, yy - y * y, xe - x * e, ye - y * e
    half_difference = 0.5 * (xx - yy)
    least = (0.5 * (xx + yy) - (half_difference * half_difference + xy * xy).sqrt()).clamp(min=0)
    confidence = least / (least + HALF_CONFIDENT) + LEAST_CONFIDENCE
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    step = torch.stack(((yy * xe - xy * ye), (xx * ye - xy * xe)), dim=1) / determinant[:, None]
    return flow + step.clamp(-LONGEST_STEP, LONGEST_STEP), confidence[:, None]


def _spread(flow: Tensor, confidence: Tensor) -> Tensor:
    """Mean of the vectors around, each by its confidence (normalised convolution: Knutsson and Westin, CVPR 1993)."""
    means = box(torch.cat((flow * confidence, confidence), dim=1), REACH)
    return means[:, :2] / means[:, 2:]


def _moves(previous: Tensor, following: Tensor, flow: Tensor) -> Tensor:
    """1 where moving explains the new frame clearly better than standing still, else 0: [B, 1, h, w].

    Noise alone gives small vectors, and a warp by a fraction of a pixel softens the picture each time;
    what stands still must stay untouched. A plain wall cannot say whether it moves: it does if what is around it
    does, unless moving it would explain the new frame worse. Either is asked of the errors as they are and less
    their mean, so that a change of light hides no motion.
    """
    errors = torch.cat((previous - following, warp(previous, flow) - following), dim=1)
    powers = torch.cat((errors, errors * errors), dim=1)
    near, around = box(powers, NEAR), box(powers, AROUND)
    moves = torch.zeros_like(errors[:, :1], dtype=torch.bool)
    for light_changes in (False, True):
        near_still, near_warped = _sizes(near, light_changes)
        still, warped = _sizes(around, light_changes)
        clearly = near_warped < MOVES_RATIO * near_still - MOVES_MARGIN
        explained_around = warped < MOVES_RATIO * still - MOVES_MARGIN_AROUND
        moves |= clearly | (explained_around & (near_warped <= near_still + MOVES_MARGIN))
    return moves.to(flow.dtype)


def _sizes(means: Tensor, light_changes: bool) -> tuple[Tensor, Tensor]:
    """Root mean square of two errors, or their standard deviation, from the means of both and of both squared:
    [B, 4, h, w] -> two of [B, 1, h, w]."""
    mean, square = means.split(2, dim=1)
    variance = (square - mean * mean).clamp(min=0) if light_changes else square
    return variance.sqrt().split(1, dim=1)


def estimate_motion(previous: Tensor, following: Tensor) -> Tensor:
    """Where each pixel of the following frame was in the previous one.

    Args:
        previous, following: luma in [-1, 1], [B, 1, H, W] with H, W multiples of 16.

    Returns:
        Flow [B, 2, H/2, W/2] in half-size pixels: following(p) is previous(p + flow(p)).
    """
    previous, following = previous.float(), following.float()
    pyramid = [(shrink(previous, 2), shrink(following, 2))]
    while len(pyramid) < len(STEPS):
        earlier, later = pyramid[-1]
        pyramid.append((shrink(earlier, 2), shrink(later, 2)))
    flow = box(_block_match(*pyramid[-1]), 1)
    for level, steps in zip(reversed(pyramid), STEPS):
        if flow.shape[-2:] != level[0].shape[-2:]:
            flow = resize_flow(flow, 2)
        for _ in range(steps):
            flow = _spread(*_lucas_kanade(*level, flow))
    return flow * _moves(*pyramid[0], flow)


def cut_score(warped: Tensor, following: Tensor) -> Tensor:
    """How unlike the warped last frame the new one is: [B].

    Mean absolute luma error at 1/16 size over the mean of both frames' spreads. Camera shake, noise
    and passers-by stay far below one; a new scene lies near or above one.
    """
    small_warped, small = (shrink(x.float(), COARSE) for x in (warped, following))
    error = (small_warped - small).abs().mean(dim=(1, 2, 3))
    spread = 0.5 * (_deviation(small_warped) + _deviation(small))
    return error / (spread + CUT_LEAST_SPREAD)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation [B] over all but the batch; NaN, hence no cut, of a single value."""
    squares = (x - x.mean(dim=(1, 2, 3), keepdim=True)).square().sum(dim=(1, 2, 3))
    return (squares / (x[0].numel() - 1)).sqrt()
