"""Temporal consistency: where did things move, and is this still the same shot?

Motion is estimated between the incoming frames I(i) and I(i+1), never on generated ones, and moves
the generated past to where its things are now. Coarse block matching finds large motion, two
Lucas-Kanade steps (Lucas and Kanade, IJCAI 1981) refine it to a fraction of a pixel. All of it is a
fixed number of plain tensor operations, so it batches for training and captures into a CUDA graph.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.lsd.planes import box, resize_flow, shrink, warp

COARSE = 16  # pixels of one cell in block matching
SEARCH = 3  # cells searched to each side: motion up to 48 pixels a frame
CUT_THRESHOLD = 0.35  # of cut_score; nine held-out clips: 0.15 at most inside a shot, 0.37 at least across


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
    cost = box((shifted - following).abs(), 2)
    vectors = _search_vectors(cost.device)
    cost = cost + 0.004 * vectors.norm(dim=1)[:, None, None]  # flat regions stay where they are
    weight = torch.softmax(-(cost - cost.amin(dim=1, keepdim=True)) * 150.0, dim=1)
    return torch.einsum("bkhw,kc->bchw", weight, vectors)


def _lucas_kanade(previous: Tensor, following: Tensor, flow: Tensor, radius: int, limit: float) -> Tensor:
    """One Gauss-Newton step on luma: flow [B, 2, h, w] -> refined flow; steps are cut at ``limit`` pixels."""
    moved = warp(previous, flow)
    padded = F.pad(moved, (1, 1, 1, 1), mode="replicate")
    gx = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
    gy = 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])
    error = following - moved
    products = torch.cat((gx * gx, gx * gy, gy * gy, gx * error, gy * error), dim=1)
    xx, xy, yy, xe, ye = box(products, radius).unbind(dim=1)
    damping = 1e-3  # in squared luma a pixel: without texture the step is zero
    determinant = (xx + damping) * (yy + damping) - xy * xy
    step = torch.stack(((yy + damping) * xe - xy * ye, (xx + damping) * ye - xy * xe), dim=1) / determinant[:, None]
    return flow + step.clamp(-limit, limit)


def _moves(previous: Tensor, following: Tensor, flow: Tensor) -> Tensor:
    """1 where moving explains the new frame clearly better than standing still, else 0: [B, 1, h, w].

    Noise alone gives small vectors, and a warp by a fraction of a pixel softens the picture each time;
    what stands still must stay untouched.
    """
    still = box((previous - following).abs(), 3)
    moved = box((warp(previous, flow) - following).abs(), 3)
    return (moved < 0.8 * still - 0.002).to(flow.dtype)


def estimate_motion(previous: Tensor, following: Tensor) -> Tensor:
    """Where each pixel of the following frame was in the previous one.

    Args:
        previous, following: luma in [-1, 1], [B, 1, H, W] with H, W multiples of 16.

    Returns:
        Flow [B, 2, H/2, W/2] in half-size pixels: following(p) is previous(p + flow(p)).
    """
    previous, following = previous.float(), following.float()
    halves = [shrink(x, 2) for x in (previous, following)]
    quarters = [shrink(x, 2) for x in halves]
    coarse = [shrink(x, COARSE // 4) for x in quarters]
    flow = resize_flow(box(_block_match(*coarse), 1), COARSE // 4)
    flow = _lucas_kanade(*quarters, flow, radius=3, limit=1.5)
    flow = resize_flow(_lucas_kanade(*quarters, flow, radius=2, limit=1.0), 2)
    flow = _lucas_kanade(*halves, flow, radius=2, limit=1.0)
    return flow * _moves(*halves, flow)


def cut_score(moved: Tensor, following: Tensor) -> Tensor:
    """How unlike the moved last frame the new one is: [B].

    Mean absolute luma error at 1/16 size over the mean of both frames' spreads. Camera shake, noise
    and passers-by stay far below one; a new scene lies near or above one.
    """
    small_moved, small = (shrink(x.float(), COARSE) for x in (moved, following))
    error = (small_moved - small).abs().mean(dim=(1, 2, 3))
    spread = 0.5 * (small_moved.std(dim=(1, 2, 3)) + small.std(dim=(1, 2, 3)))
    return error / (spread + 0.05)
