"""Looks printed, chalked or sewn: engraving, pop art, chalkboard, infrared film, cross-stitch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters_ops as ops
from .filters_light import _sky


# ---------------------------------------------------------------- engraving
def _burin(like: Tensor, across: int, down: int, bend: Tensor | float, wave: float) -> tuple[Tensor, float]:
    """Distance in px from the nearest of a family of swelling lines, and the lines' spacing in px.

    Args:
        across, down: cycles of the family in 32 px, so that it repeats there.
        bend: cycles by which lines are pushed aside, [B,1,H,W] or a number.
        wave: cycles by which lines sway, over a period of 32 px.
    """
    xs, ys = ops.pixel_grid(like)
    turn = 2 * math.pi / 32
    phase = (across * xs + down * ys) / 32 + wave * torch.sin(turn * (xs if down > abs(across) else ys)) + bend
    spacing = 32 / math.hypot(across, down)
    return (phase - phase.round()).abs() * spacing, spacing


def _cut(distance: Tensor, spacing: float, coverage: Tensor) -> Tensor:
    """Ink of lines that cover that share of the paper; edges one pixel soft, hairlines pale."""
    half = 0.5 * spacing * coverage
    return ops.smoothstep(half - distance, -0.55, 0.55) * ops.smoothstep(half, 0.02, 0.40)


def engraving_scene(rgb: Tensor) -> Tensor:
    """Channels: outline, tone with local contrast, form (what lines bend around)."""
    light = ops.to_oklab(rgb)[:, :1]
    flat = ops.lift_dark(ops.kuwahara(light.expand(-1, 3, -1, -1), 3)[:, :1], 0.35)
    base = ops.blur(flat, 16.0)
    tone = 0.50 + 0.85 * (base - 0.55) + 1.35 * (flat - base)
    line = torch.maximum(
        ops.ink_lines(rgb, 0.9, 70.0, 0.006, adapt=0.4), 0.8 * ops.ink_lines(ops.kuwahara(rgb, 3), 1.5, 60.0, 0.008)
    )
    return torch.cat([line, tone.clamp(0, 1), ops.blur(flat, 6.0)], 1)


def engraving_screen(scene: Tensor) -> Tensor:
    line, tone, form = scene.split(1, 1)
    dark = 1 - tone
    first, step = _burin(scene, 2, 7, 1.1 * form, 0.22)
    second, step2 = _burin(scene, 6, -3, -0.7 * form, 0.15)
    ink = _cut(first, step, 0.88 * ops.smoothstep(dark, -0.08, 1.0))
    cross = _cut(second, step2, 0.75 * ops.smoothstep(dark, 0.42, 0.95))
    ink = 1 - (1 - ink) * (1 - cross) * (1 - 0.95 * ops.smoothstep(line, 0.15, 0.8))
    return ops.mix(ops.colour((0.945, 0.945, 0.875), scene), ops.colour((0.045, 0.175, 0.150), scene), ink)


# ---------------------------------------------------------------- pop art
_WARM = [(0.30, 0.02, 0.42), (0.93, 0.07, 0.47), (1.00, 0.45, 0.08), (1.00, 0.85, 0.10), (1.00, 0.96, 0.72)]
_LEAF = [(0.02, 0.22, 0.30), (0.00, 0.50, 0.34), (0.28, 0.76, 0.12), (0.72, 0.90, 0.12), (0.96, 0.98, 0.62)]
_COLD = [(0.12, 0.06, 0.52), (0.10, 0.30, 0.92), (0.00, 0.70, 0.78), (0.48, 0.88, 0.72), (0.86, 0.97, 0.93)]


def pop_art_scene(rgb: Tensor) -> Tensor:
    flat = ops.to_oklab(ops.kuwahara(ops.kuwahara(rgb, 5), 6))
    light = ops.lift_dark(flat[:, :1], 0.5)
    around = ops.blur(light, 24.0)
    tone = 0.56 + 0.85 * (around - 0.58) + 1.5 * (light - around)
    step = ops.soft_levels(tone.clamp(0, 1), 5, 16.0)
    level = (step * 5 - 0.5) / 4
    a, b = ops.blur(flat[:, 1:2], 1.2), ops.blur(flat[:, 2:], 1.2)
    warm = ops.smoothstep(b + 0.5 * a, 0.001, 0.013)
    leaf = ops.smoothstep(b - 1.6 * a, 0.092, 0.116)
    paint = ops.mix(ops.palette_map(level, _COLD), ops.palette_map(level, _WARM), warm)
    paint = ops.mix(paint, ops.palette_map(level, _LEAF), leaf)
    soft = ops.kuwahara(rgb, 3)
    outline = torch.maximum(ops.ink_lines(soft, 2.0, 70.0, 0.008, steps=9), ops.ink_lines(soft, 1.1, 60.0, 0.010))
    mass = ops.smoothstep(tone, 0.20, 0.12)  # the black screen also fills the deepest shade
    ink = ops.smoothstep(torch.maximum(outline, mass), 0.25, 0.75)
    return ops.mix(paint, ops.colour((0.035, 0.025, 0.06), rgb), ink)


# ---------------------------------------------------------------- chalkboard
def chalkboard_scene(rgb: Tensor) -> Tensor:
    """Channels: how much chalk before the board's tooth, and the chalk's colour (RGB)."""
    lab = ops.to_oklab(rgb)
    guide = torch.cat([lab[:, :1], 1.4 * lab[:, 1:]], 1)
    tensor = ops.structure_tensor(guide, 2.5)
    edges = ops.along_flow(ops.edge_strength(ops.blur(guide, 1.1)), tensor, 7)
    edges = edges * (0.030 / (ops.blur(edges, 24.0) + 0.004)).clamp(0.4, 5.0) ** 0.75
    line = ops.smoothstep(edges, 0.022, 0.085)
    flat = ops.to_oklab(ops.kuwahara(rgb, 5))
    tone = ops.lift_dark(flat[:, :1], 0.7, 0.5)
    tone = tone + 0.6 * (tone - ops.blur(tone, 24.0))
    length = (flat[:, 1:] ** 2).sum(1, keepdim=True).sqrt() + 1e-4
    pastel = flat[:, 1:] / length * 0.10 * ops.smoothstep(length, 0.012, 0.070) * (1 - 0.8 * line)
    # light and colourful things are rubbed in with the stick's side
    rubbed = 0.04 + 0.56 * ops.smoothstep(tone, 0.20, 0.92) + 0.22 * ops.smoothstep(length, 0.03, 0.13)
    stick = ops.from_oklab(torch.cat([0.88 + 0.07 * line, pastel], 1))
    return torch.cat([(1 - (1 - 0.95 * line) * (1 - rubbed)).clamp(0, 1), stick], 1)


def chalkboard_screen(scene: Tensor) -> Tensor:
    chalk, stick = scene[:, :1], scene[:, 1:]
    tooth = ops.paper_grain(scene, 32, 19, 0.55)
    across, down = ops.pixel_grid(scene)
    strokes = torch.cos(2 * math.pi * (across + down) / 8)
    # chalk takes on the board's high points first
    uneven = ops.smoothstep(chalk, 0.02, 0.30) * ops.smoothstep(chalk, 1.1, 0.65)
    laid = chalk + (0.115 * tooth + 0.06 * strokes) * uneven
    dust = 0.10 * ops.blur(chalk, 5.0)
    board = ops.colour((0.105, 0.185, 0.155), scene) * (1 + 0.05 * tooth)
    return ops.mix(board, stick, (laid.clamp(0, 1) + dust).clamp(0, 0.97))


# ---------------------------------------------------------------- infrared film
def infrared_scene(rgb: Tensor) -> Tensor:
    """Colour infrared film: near infrared shows as red, red as green, green as blue."""
    lab = ops.to_oklab(rgb)
    light = lab[:, :1]
    sky = _sky(lab)
    # leaves reflect near infrared strongly, sky and water hardly
    leaf = ops.smoothstep(ops.blur(lab[:, 2:] - 1.7 * lab[:, 1:2], 1.5), 0.050, 0.130)
    blue = ops.smoothstep(ops.blur(lab[:, 2:], 2.0), -0.020, -0.090)
    red, green, _ = rgb.split(1, 1)
    cold = torch.maximum(blue, 0.35 * sky * ops.smoothstep(light, 0.98, 0.80))
    near = ops.mix(1.05 * red, (1.10 * light + 0.26).clamp(0, 1), leaf)
    near = ops.mix(near, 0.30 * red, cold)
    seen_red = ops.mix(0.4 * red + 0.6 * green, 0.66 * light, leaf)
    seen_red = ops.mix(seen_red, 0.62 * green, cold)
    seen_green = ops.mix(green, 0.40 * green + 0.36 * light, leaf)
    seen_green = ops.mix(seen_green, 0.72 * green, cold)
    film = torch.cat([near, seen_red, seen_green], 1)
    film = ops.mix(film, ops.smoothstep(film, -0.05, 1.0), 0.6)
    grade = ops.to_oklab(film)
    shade = ops.smoothstep(grade[:, :1], 0.70, 0.15)
    a = grade[:, 1:2] * 1.15 + ops.mix(0.034, -0.032, shade)
    b = grade[:, 2:] * 1.05 + ops.mix(0.000, -0.030, shade)
    out = ops.from_oklab(torch.cat([grade[:, :1], a, b], 1))
    return ops.bloom(out, 0.55, 7.0, 0.50)


# ---------------------------------------------------------------- cross-stitch
def cross_stitch_scene(rgb: Tensor) -> Tensor:
    return ops.saturate(ops.kuwahara(rgb, 3), 1.3)


def _threads(like: Tensor) -> tuple[Tensor, Tensor]:
    """One stitch of 8 px repeated: how much thread covers the cloth, and the thread's light."""
    xs, ys = ops.pixel_grid(like)
    u, v = xs.remainder(8) - 3.5, ys.remainder(8) - 3.5
    cover, gain = torch.zeros_like(u), torch.ones_like(u)
    for sign, lower in ((1.0, True), (-1.0, False)):
        along, across = (u + sign * v) / math.sqrt(2), (u - sign * v) / math.sqrt(2)
        body = ops.smoothstep(across.abs(), 1.95, 1.0) * ops.smoothstep(along.abs(), 5.0, 3.9)
        light = 1.12 - 0.20 * (across + 0.35) ** 2 / 2  # round, lit from the upper left
        light = light + 0.05 * torch.cos(2 * math.pi * (along + 0.6 * across) / 2.4)  # twist
        light = light - 0.16 * ops.smoothstep(along.abs(), 2.4, 4.6)  # ends sink into the cloth
        if lower:
            light = light - 0.03 - 0.25 * ops.smoothstep(along.abs(), 2.7, 1.2)
        cover, gain = torch.maximum(cover, body), ops.mix(gain, light, body)
    return cover, gain


def cross_stitch_screen(scene: Tensor) -> Tensor:
    height, width = scene.shape[-2:]
    lab = ops.to_oklab(F.avg_pool2d(ops.pad_edge(scene, 0, -width % 8, 0, -height % 8), 8))
    lab = lab + 0.7 * (lab - ops.blur(lab, 1.0))
    light = ops.soft_levels((lab[:, :1] - 0.5) * 1.1 + 0.52, 7, 3.5)
    floss = 0.055  # OKLab distance between neighbouring skeins
    chroma = lab[:, 1:] * 1.15 / floss
    chroma = (chroma - torch.sin(2 * math.pi * chroma) / (2 * math.pi)) * floss
    skein = ops.from_oklab(torch.cat([light, chroma], 1))
    stitch = skein.repeat_interleave(8, -2).repeat_interleave(8, -1)[..., :height, :width]
    cover, gain = _threads(scene)
    xs, ys = ops.pixel_grid(scene)
    weave = 0.94 + 0.05 * torch.cos(math.pi * xs) * torch.cos(math.pi * ys)
    cloth = ops.colour((0.74, 0.70, 0.62), scene) * weave
    cloth = ops.mix(cloth, stitch * 0.45, 0.50)  # threads shade and tint what lies between
    return ops.mix(cloth, (stitch * gain).clamp(0, 1), cover)
