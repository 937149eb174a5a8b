"""Looks made of cells: stained glass, mosaic, low poly, cubism, pixel art.

Cells start on a grid fixed to the screen (periods of 8, 16 or 32 px from the top left corner)
and then follow the picture, so they are a function of the grid's phase and of local content.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters_ops as ops


# ---------------------------------------------------------------- superpixels
def _pad_to(x: Tensor, size: int) -> Tensor:
    height, width = x.shape[-2:]
    return ops.pad_edge(x, 0, -width % size, 0, -height % size)


def _spread(cells: Tensor, size: int, rows: int | None = None) -> Tensor:
    """Cell values [B,C,h,w] to their pixels [B,C,h*rows,w*size]; rows is size by default."""
    return cells.repeat_interleave(rows or size, -2).repeat_interleave(size, -1)


def _neighbour(cells: Tensor, di: int, dj: int) -> Tensor:
    """Value of the cell at (i + di, j + dj), edge repeated."""
    height, width = cells.shape[-2:]
    p = ops.pad_edge(cells, 1, 1, 1, 1)
    return p[..., 1 + di : 1 + di + height, 1 + dj : 1 + dj + width]


def superpixels(
    features: Tensor, size: int, compactness: float, rounds: int = 3, square: bool = False
) -> tuple[Tensor, Tensor]:
    """SLIC (Achanta 2012) on a grid: labels and cell means.

    Args:
        features: [B,C,H,W], distances in it are Euclidean.
        size: width of a cell in px. Cells are half as high, rows offset by half a cell (period
            size both ways); with ``square`` as high as wide, and jittered (period 4 * size).
        compactness: weight of one cell size against one unit of feature distance.
        square: measure distance so that undisturbed cells are squares, not hexagons.

    Returns:
        (ids [B,1,H,W] with one number per cell, means [B,C,H,W] of the own cell)
    """
    height, width = features.shape[-2:]
    x = _pad_to(features, size)
    tall = size if square else size // 2
    px, py = ops.pixel_grid(x)
    batch, channels = x.shape[:2]
    position = torch.cat([px, py], 1).expand(batch, 2, *x.shape[-2:]) / math.sqrt(size * tall)
    rows, columns = x.shape[-2] // tall, x.shape[-1] // size
    seed = F.avg_pool2d(position, (tall, size))
    if square:
        sway = torch.cat([ops.hash_tile(4, 21, x), ops.hash_tile(4, 22, x)], 1) - 0.5
        seed = seed + 0.36 * ops.tiled(sway, seed)
    else:
        odd = (torch.arange(rows, device=x.device) % 2).to(x.dtype)
        seed = seed + torch.stack([0.40 - 0.75 * odd, 0.12 * odd]).view(1, 2, rows, 1)
    cells = torch.cat([F.avg_pool2d(x, (tall, size)), seed], 1)
    full = torch.cat([x, position], 1)
    shifts = [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
    for _ in range(rounds + 1):
        best = torch.full_like(position[:, :1], math.inf)
        choice = torch.zeros_like(best)
        for k, (di, dj) in enumerate(shifts):
            there = _spread(_neighbour(cells, di, dj), size, tall)
            near = ((x - there[:, :channels]) ** 2).sum(1, keepdim=True)
            away = (position - there[:, channels:]) ** 2
            far = (away**4).sum(1, keepdim=True) ** 0.25 if square else away.sum(1, keepdim=True)
            distance = near + compactness * compactness * far
            closer = distance < best
            best = torch.where(closer, distance, best)
            choice = torch.where(closer, torch.full_like(choice, float(k)), choice)
        total = torch.zeros_like(cells)
        count = torch.zeros(batch, 1, rows, columns, dtype=x.dtype, device=x.device)
        for k, (di, dj) in enumerate(shifts):
            mask = (choice == k).to(x.dtype)
            part = F.avg_pool2d(torch.cat([full * mask, mask], 1), (tall, size))
            # pixels of grid cell (i, j) that chose (i + di, j + dj) are counted there
            moved = F.pad(part, (1, 1, 1, 1))[..., 1 - di : 1 - di + rows, 1 - dj : 1 - dj + columns]
            total, count = total + moved[:, :-1], count + moved[:, -1:]
        cells = torch.where(count > 0, total / count.clamp(min=1e-6), cells)
    number = torch.arange(rows * columns, device=x.device).to(x.dtype).view(1, 1, rows, columns)
    means = torch.zeros_like(x)
    ids = torch.zeros_like(choice)
    for k, (di, dj) in enumerate(shifts):
        mask = (choice == k).to(x.dtype)
        means = means + mask * _spread(_neighbour(cells[:, :channels], di, dj), size, tall)
        ids = ids + mask * _spread(_neighbour(number, di, dj), size, tall)
    return ids[..., :height, :width], means[..., :height, :width]


def cell_borders(ids: Tensor, radius: int, softness: float = 0.7) -> Tensor:
    """1 on the borders between cells, 0 inside, lines about 2 * radius px wide."""
    p = ops.pad_edge(ids, radius, radius, radius, radius)
    span = 2 * radius + 1
    high = F.max_pool2d(p, span, 1)
    low = -F.max_pool2d(-p, span, 1)
    return ops.blur((high > low).to(ids.dtype), softness)


# ---------------------------------------------------------------- triangles
def triangles(features: Tensor, size: int, snap: float = 0.42, lean: bool = True) -> tuple[Tensor, Tensor]:
    """A triangle mesh whose corners jump to the strongest edge in reach.

    Args:
        features: [B,C,H,W] to take edges from and to average over triangles.
        size: corner spacing in px, a multiple of 8, and the period.
        snap: reach of the jump as a fraction of size, below 0.5.
        lean: rows are offset by half; the period is 2 * size down then.

    Returns:
        (ids [B,1,H,W] 0.. of the triangle, middle [B,2,H,W] its centroid in px)
    """
    height, width = features.shape[-2:]
    edges = ops.edge_strength(ops.blur(features, 1.0))
    edges = edges / (ops.blur(edges, 2.0 * size / 3) + 0.01)
    rows, columns = -(-height // size) + 3, -(-width // size) + 3
    reach = max(1, int(snap * size))
    device, kind = features.device, features.dtype
    gi = torch.arange(rows, device=device).to(kind).view(1, 1, rows, 1).expand(1, 1, rows, columns) - 1
    gj = torch.arange(columns, device=device).to(kind).view(1, 1, 1, columns) - 1
    base_y = gi * size
    base_x = gj * size + gi.remainder(2) * (size / 2 if lean else 0)
    span = range(-reach, reach + 1, max(1, size // 16))
    best = torch.full((features.shape[0], 1, rows, columns), -1e9, device=device, dtype=kind)
    vx, vy = torch.zeros_like(best), torch.zeros_like(best)
    for dy in span:
        for dx in span:
            if dx * dx + dy * dy > reach * reach:
                continue
            qx, qy = base_x + dx, base_y + dy
            score = sample_nearest(edges, qx, qy) - 0.9 * (dx * dx + dy * dy) / (reach * reach)
            closer = score > best
            best = torch.where(closer, score, best)
            vx, vy = torch.where(closer, qx, vx), torch.where(closer, qy, vy)
    corners = torch.cat([vx, vy], 1)  # [B,2,rows,columns]
    return _rasterise(corners, size, height, width, lean)


def sample_nearest(x: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Nearest lookup of [B,1,H,W] at whole pixel coordinates [1,1,h,w], edge repeated."""
    height, width = x.shape[-2:]
    index = py.round().clamp(0, height - 1) * width + px.round().clamp(0, width - 1)
    flat = x.reshape(x.shape[0], -1)[:, index.reshape(-1).long()]
    return flat.view(x.shape[0], 1, *px.shape[-2:])


def _rasterise(corners: Tensor, size: int, height: int, width: int, lean: bool) -> tuple[Tensor, Tensor]:
    batch, _, rows, columns = corners.shape
    pad_h, pad_w = -(-height // size) * size, -(-width // size) * size
    like = torch.empty(1, 1, pad_h, pad_w, device=corners.device, dtype=corners.dtype)
    px, py = ops.pixel_grid(like)
    # mesh row i is drawn at grid row i - 1; strips with even grid row lean one way, odd the other
    a, b = corners[..., :-1, :-1], corners[..., :-1, 1:]
    c, d = corners[..., 1:, :-1], corners[..., 1:, 1:]
    odd = ((torch.arange(rows - 1, device=corners.device) % 2 == 0) & lean).view(1, 1, -1, 1)
    upper = (a, torch.where(odd, d, b), c)
    lower = (torch.where(odd, a, b), torch.where(odd, b, d), torch.where(odd, d, c))
    number = torch.arange((rows - 1) * (columns - 1), device=corners.device).to(corners.dtype)
    number = number.view(1, 1, rows - 1, columns - 1).expand(batch, 1, -1, -1)
    ids = torch.full((batch, 1, pad_h, pad_w), -1.0, device=corners.device, dtype=corners.dtype)
    middle = torch.cat([px, py], 1).expand(batch, 2, pad_h, pad_w).clone()
    grid_h, grid_w = pad_h // size, pad_w // size
    for half, triangle in enumerate((upper, lower)):
        table = torch.cat([*triangle, 2 * number + half], 1)  # [B,7,rows-1,columns-1]
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                part = table[..., 1 + di : 1 + di + grid_h, 1 + dj : 1 + dj + grid_w]
                t = _spread(part, size)
                x0, y0, x1, y1, x2, y2 = (t[:, k : k + 1] for k in range(6))
                s0 = (x1 - x0) * (py - y0) - (y1 - y0) * (px - x0)
                s1 = (x2 - x1) * (py - y1) - (y2 - y1) * (px - x1)
                s2 = (x0 - x2) * (py - y2) - (y0 - y2) * (px - x2)
                inside = ((s0 >= 0) & (s1 >= 0) & (s2 >= 0)) | ((s0 <= 0) & (s1 <= 0) & (s2 <= 0))
                inside = inside & (ids < 0)
                ids = torch.where(inside, t[:, 6:7], ids)
                centre = torch.cat([(x0 + x1 + x2) / 3, (y0 + y1 + y2) / 3], 1)
                middle = torch.where(inside, centre, middle)
    return ids[..., :height, :width], middle[..., :height, :width]


# ---------------------------------------------------------------- looks
def stained_glass_scene(rgb: Tensor) -> Tensor:
    return ops.kuwahara(ops.kuwahara(rgb, 6), 5)


def stained_glass_screen(scene: Tensor) -> Tensor:
    lab = ops.to_oklab(scene)
    features = ops.blur(torch.cat([lab[:, :1], lab[:, 1:] * 1.8], 1), 1.2)
    panes, _ = superpixels(features, 32, 0.24, rounds=4)
    panes, means = superpixels(features, 16, 0.16, rounds=3)
    cell = torch.cat([means[:, :1], means[:, 1:] / 1.8], 1)
    # glass: spread tones, strong colour, a little of the light that falls inside each pane
    light = (cell[:, :1] - 0.5) * 1.1 + 0.54
    light = (light + 0.6 * (lab[:, :1] - cell[:, :1])).clamp(0.14, 0.93)
    chroma = cell[:, 1:]
    length = (chroma * chroma).sum(1, keepdim=True).sqrt() + 1e-5
    chroma = chroma / length * (0.24 * torch.tanh(length * 2.3 / 0.24) + 0.02)
    glass = ops.from_oklab(torch.cat([light, chroma], 1))
    # lead around every pane, and inside panes where the superpixels differ in colour
    step = F.max_pool2d(ops.edge_strength(means), 7, 1, 3)
    inner = cell_borders(panes, 1, 0.7) * ops.smoothstep(step, 0.05, 0.11)
    outer = cell_borders(panes, 1, 0.8)
    lead = torch.maximum(inner, outer)
    glass = glass * (1.08 - 0.38 * ops.blur(lead, 3.0))
    glass = ops.bloom(glass, 0.65, 8.0, 0.25)
    return ops.mix(glass, ops.colour((0.045, 0.04, 0.05), glass), ops.smoothstep(lead, 0.18, 0.68))


def mosaic_scene(rgb: Tensor) -> Tensor:
    return ops.saturate(ops.kuwahara(rgb, 3), 1.25)


def mosaic_screen(scene: Tensor) -> Tensor:
    lab = ops.to_oklab(scene)
    weight = torch.tensor([1.0, 1.5, 1.5], device=lab.device, dtype=lab.dtype).view(1, 3, 1, 1)
    ids, means = superpixels(lab * weight, 8, 0.40, rounds=1, square=True)
    cell = means / weight
    uneven = ops.tiled(_spread(ops.hash_tile(4, 17, lab), 8), lab) - 0.5  # no two stones alike
    light = (cell[:, :1] - 0.5) * 1.12 + 0.53 + 0.05 * uneven
    tile = ops.from_oklab(torch.cat([light, cell[:, 1:] * 1.35], 1))
    grout = cell_borders(ids, 1, 0.55)
    gx, gy = ops.gradients(ops.blur(1 - grout, 0.9))
    tile = (tile * (1 + 0.55 * (gx + gy))).clamp(0, 1)  # lit from the upper left
    return ops.mix(tile, tile * 0.40 + 0.06, ops.smoothstep(grout, 0.45, 1.0))


def low_poly_scene(rgb: Tensor) -> Tensor:
    return ops.saturate(ops.kuwahara(rgb, 4), 1.15)


def _triangle_colours(scene: Tensor, middle: Tensor) -> Tensor:
    """Colour at each triangle's centroid, averaged over a few px around it."""
    return ops.sample_at(ops.blur(scene, 2.0), middle[:, :1], middle[:, 1:])


def low_poly_screen(scene: Tensor) -> Tensor:
    ids, middle = triangles(ops.to_oklab(scene), 16)
    lab = ops.to_oklab(_triangle_colours(scene, middle))
    tilt = torch.where(ids.remainder(2) == 0, 0.012, -0.012)
    light = (lab[:, :1] - 0.5) * 1.12 + 0.52 + tilt
    return ops.from_oklab(torch.cat([light, lab[:, 1:] * 1.2], 1))


def cubism_scene(rgb: Tensor) -> Tensor:
    """RGB flat colour plus outlines as the fourth channel."""
    flat = ops.kuwahara(rgb, 7)
    lab = ops.to_oklab(flat)
    flat = ops.from_oklab(torch.cat([ops.lift_dark(lab[:, :1], 0.45, 0.5), lab[:, 1:]], 1))
    return torch.cat([flat, ops.ink_lines(flat, 1.8, 60.0, 0.008, steps=9)], 1)


def cubism_screen(scene: Tensor) -> Tensor:
    lab = torch.cat([ops.to_oklab(scene[:, :3]), scene[:, 3:]], 1)
    ids, middle = triangles(lab[:, :3], 32, snap=0.45, lean=False)
    px, py = ops.pixel_grid(scene)
    soft = ops.blur(lab[:, :1], 6.0)
    gx, gy = ops.gradients(soft)
    pull = ops.sample_at(torch.cat([gx, gy], 1), middle[:, :1], middle[:, 1:])
    steep = (pull * pull).sum(1, keepdim=True).sqrt()
    pull = pull / (steep + 2e-3)  # points to the light; short where nothing happens
    turn = torch.where(ids.remainder(2) == 0, 1.0, -1.0)
    out_x, out_y = px - middle[:, :1], py - middle[:, 1:]
    # every facet shows the picture from its own side: shifted, turned and drawn together
    qx = middle[:, :1] + 1.15 * out_x - 0.22 * turn * out_y + 7.0 * turn * pull[:, :1]
    qy = middle[:, 1:] + 1.15 * out_y + 0.22 * turn * out_x + 7.0 * turn * pull[:, 1:]
    facet = ops.sample_at(lab, qx, qy)
    own = ops.sample_at(ops.blur(lab, 4.0), middle[:, :1], middle[:, 1:])
    slope = (out_x * (pull[:, :1] + 0.12 * turn) + out_y * (pull[:, 1:] + 0.10)) / 20
    light = ops.soft_levels(ops.mix(facet[:, :1], own[:, :1], 0.35), 6, 5.0)
    light = (light - 0.5) * 1.15 + 0.53 + 0.16 * slope.clamp(-1, 1)
    # ochre, umber and slate: chroma pulled towards the warm-cold axis
    warmth = ops.mix(facet[:, 1:3], own[:, 1:3], 0.35)
    axis = 0.40 * warmth[:, :1] + 0.90 * warmth[:, 1:2]
    b = 0.80 * axis + 0.030 + 0.012 * turn
    a = 0.45 * warmth[:, :1] + 0.12 * axis + 0.008
    paint = ops.from_oklab(torch.cat([light.clamp(0.10, 0.96), a, b], 1))
    seam = cell_borders(ids, 1, 0.7) * ops.smoothstep(ops.edge_strength(own[:, :3]), 0.0, 0.08)
    dark = torch.maximum(facet[:, 3:4], 0.75 * ops.smoothstep(seam, 0.1, 0.5))
    return paint * (1 - 0.85 * dark)


def pixel_art_scene(rgb: Tensor) -> Tensor:
    return ops.saturate(ops.kuwahara(rgb, 3), 1.3)


def pixel_art_screen(scene: Tensor, size: int = 8) -> Tensor:
    height, width = scene.shape[-2:]
    lab = ops.to_oklab(F.avg_pool2d(_pad_to(scene, size), size))
    around = ops.blur(lab, 1.0)
    lab = lab + 0.6 * (lab - around)
    rows, columns = lab.shape[-2:]
    checker = (
        torch.arange(rows, device=lab.device).view(1, 1, rows, 1)
        + torch.arange(columns, device=lab.device).view(1, 1, 1, columns)
    ) % 2
    dither = (checker.to(lab.dtype) - 0.5) * 0.30
    light = (((lab[:, :1] - 0.5) * 1.1 + 0.5) * 10 + dither).round() / 10
    chroma = (lab[:, 1:] * 1.2 * 25).round() / 25
    blocks = ops.from_oklab(torch.cat([light.clamp(0, 1), chroma], 1))
    return _spread(blocks, size)[..., :height, :width]
