"""Looks drawn by hand or printed: cartoon, comic, pencil, ink wash, charcoal, linocut, blueprint,
watercolour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import filters_ops as ops


def _guide(rgb: Tensor) -> tuple[Tensor, Tensor]:
    lab = ops.to_oklab(rgb)
    return lab, ops.structure_tensor(torch.cat([lab[:, :1], 1.4 * lab[:, 1:]], 1), 2.5)


def _flat_colours(rgb: Tensor, radius: float, levels: int, chroma: float, lift: float) -> Tensor:
    """Cel shading: smooth regions, few tones, strong colour; OKLab [B,3,H,W]."""
    flat = ops.to_oklab(ops.kuwahara(rgb, radius))
    light = ops.soft_levels((flat[:, :1] - 0.5) * 1.1 + 0.5 + lift, levels, 4.0)
    return torch.cat([light, flat[:, 1:] * chroma], 1)


def cartoon_scene(rgb: Tensor) -> Tensor:
    lab = _flat_colours(rgb, 5, 8, 1.45, 0.04)
    paint = ops.from_oklab(lab)
    ink = ops.ink_lines(ops.kuwahara(rgb, 2.5), 1.1, 75.0, 0.006)
    return ops.mix(paint, paint * 0.12 + 0.01, ink * 0.95)


def comic_halftone_scene(rgb: Tensor) -> Tensor:
    """RGB flat colour plus ink as the fourth channel."""
    lab = _flat_colours(rgb, 4, 6, 1.55, 0.05)
    tensor = _guide(rgb)[1]
    tone = ops.xdog(ops.to_oklab(rgb)[:, :1], 1.0, 8.0, 0.24, 9.0, tensor)
    ink = torch.maximum(ops.ink_lines(ops.kuwahara(rgb, 2.5), 1.2, 85.0, 0.006), 1 - tone)
    return torch.cat([ops.from_oklab(lab), ink.clamp(0, 1)], 1)


def dots(like: Tensor, pitch: int) -> Tensor:
    """Two dots a ``pitch`` square, at 45 degrees: 1 in a dot's middle, 0 farthest away."""
    xs, ys = ops.pixel_grid(like)
    w = 2 * math.pi / pitch
    return (torch.cos(xs * w + 0.5 * w) * torch.cos(ys * w + 0.5 * w) + 1) / 2


def comic_halftone_screen(scene: Tensor) -> Tensor:
    rgb, ink = scene[:, :3], scene[:, 3:4]
    lab = ops.to_oklab(rgb)
    light = lab[:, :1]
    screen = dots(rgb, 8)
    # the darker the tone, the larger the dot of a deeper colour
    size = ops.smoothstep(light, 0.99, 0.30) * 0.74
    dot = ops.smoothstep(screen - (1.09 - size), -0.09, 0.09)
    paper = ops.from_oklab(torch.cat([ops.mix(light, 0.97, 0.38), lab[:, 1:] * 1.05], 1))
    deep = ops.from_oklab(torch.cat([0.10 + 0.74 * light, lab[:, 1:] * 1.25], 1))
    out = ops.mix(paper, deep, dot)
    return ops.mix(out, ops.colour((0.05, 0.04, 0.07), out), ops.smoothstep(ink, 0.15, 0.75))


def pencil_sketch_scene(rgb: Tensor) -> Tensor:
    """Channels: line darkness, tone (0 dark, 1 light)."""
    lab, tensor = _guide(rgb)
    fine = ops.ink_lines(rgb, 0.8, 55.0, 0.004, steps=5)
    bold = ops.ink_lines(rgb, 1.6, 30.0, 0.010, steps=8)
    line = (0.75 * fine + 0.55 * bold).clamp(0, 1)
    tone = ops.kuwahara(lab[:, :1].expand(-1, 3, -1, -1), 4)[:, :1]
    return torch.cat([line, tone.clamp(0, 1)], 1)


def stripes(like: Tensor, dx: int, dy: int, pitch: int) -> Tensor:
    """Slanted lines of a whole-pixel period: 1 on a line, 0 between."""
    xs, ys = ops.pixel_grid(like)
    return 0.5 + 0.5 * torch.cos(2 * math.pi * (xs * dx + ys * dy) / pitch)


def pencil_sketch_screen(scene: Tensor) -> Tensor:
    line, tone = scene[:, :1], scene[:, 1:2]
    grain = ops.paper_grain(scene, 32, 5, 0.7)
    shade = 0.20 * ops.smoothstep(tone, 0.95, 0.35) + 0.22 * ops.smoothstep(tone, 0.55, 0.15)
    first = stripes(scene, 1, 1, 8) * ops.smoothstep(tone, 0.78, 0.42)
    second = stripes(scene, 2, -1, 8) * ops.smoothstep(tone, 0.50, 0.22)
    hatch = 0.30 * first + 0.34 * second
    graphite = (shade + hatch) * (1 + 0.22 * grain) + 0.85 * line * (1 + 0.10 * grain)
    paper = 0.965 + 0.008 * grain
    grey = (paper * (1 - graphite.clamp(0, 0.92))).clamp(0, 1)
    return (grey * ops.colour((1.0, 0.99, 0.965), scene)).clamp(0, 1)


def ink_wash_scene(rgb: Tensor) -> Tensor:
    lab, tensor = _guide(rgb)
    wash = ops.kuwahara(lab[:, :1].expand(-1, 3, -1, -1), 7)[:, :1]
    around = ops.blur(wash, 24.0)
    wash = ops.mix(wash, 0.60 + 1.3 * (wash - around), 0.5)  # dark scenes get some paper, pale ones ink
    wash = (wash - 0.5) * 1.65 + 0.56
    tones = ops.soft_levels(wash.clamp(0, 1), 5, 3.0)
    # pigment gathers where a wash ends
    rim = ops.smoothstep(ops.edge_strength(ops.blur(tones, 1.2)), 0.02, 0.10)
    tones = ops.mix(tones, ops.blur(tones, 5.0), 0.35)
    tones = 0.10 + 0.90 * tones**0.9 - 0.12 * rim
    bold = ops.ink_lines(ops.kuwahara(rgb, 4), 2.2, 42.0, 0.010, steps=10)
    fine = ops.ink_lines(rgb, 1.1, 34.0, 0.012, steps=7)
    ink = torch.maximum(bold, 0.6 * fine)
    grey = (tones.clamp(0, 1) * (1 - 0.92 * ink)).clamp(0, 1)
    return ops.palette_map(
        grey, [(0.06, 0.06, 0.08), (0.30, 0.31, 0.34), (0.58, 0.59, 0.61), (0.82, 0.82, 0.81), (0.965, 0.955, 0.93)]
    )


def charcoal_scene(rgb: Tensor) -> Tensor:
    """One channel: how dark the coal is before the paper's tooth."""
    lab, tensor = _guide(rgb)
    tone = ops.kuwahara(lab[:, :1].expand(-1, 3, -1, -1), 5)[:, :1]
    base = ops.guided(tone, tone, 24, 0.02)
    tone = base + 1.4 * (tone - base)
    mass = ops.smoothstep(tone, 0.95, 0.12)
    bold = ops.ink_lines(rgb, 2.0, 34.0, 0.008, steps=8)
    fine = ops.ink_lines(rgb, 1.0, 34.0, 0.006, steps=5)
    smudge = 0.6 * ops.along_flow(mass, tensor, 6) + 0.4 * ops.blur(mass, 3.0)
    return (0.80 * smudge + 0.55 * bold * (1 - 0.5 * smudge) + 0.40 * fine).clamp(0, 1)


def charcoal_screen(scene: Tensor) -> Tensor:
    tooth = ops.paper_grain(scene, 32, 11, 0.8)
    coal = scene + 0.075 * tooth * ops.smoothstep(scene, 0.02, 0.35) * ops.smoothstep(scene, 1.0, 0.7)
    coal = ops.mix(coal, ops.smoothstep(coal, 0.0, 1.0), 0.5).clamp(0, 1)
    grey = 0.955 - 0.89 * coal + 0.006 * tooth
    return (grey * ops.colour((1.0, 0.985, 0.955), scene)).clamp(0, 1)


def linocut_scene(rgb: Tensor) -> Tensor:
    """Channels: the cut in black (0) and white (1), tone."""
    lab, tensor = _guide(rgb)
    flat = ops.lift_dark(ops.kuwahara(lab[:, :1].expand(-1, 3, -1, -1), 5)[:, :1], 0.4, 0.5)
    base = ops.blur(flat, 24.0)
    local = flat - 0.45 * base + 0.22
    cut = ops.xdog(local, 1.3, 10.0, 0.40, 6.0, tensor, 7)
    outline = 1 - ops.ink_lines(ops.kuwahara(rgb, 2.5), 1.3, 70.0, 0.008)
    return torch.cat([torch.minimum(cut, outline), ops.along_flow(local, tensor, 4)], 1).clamp(0, 1)


def linocut_screen(scene: Tensor) -> Tensor:
    cut, tone = scene[:, :1], scene[:, 1:2]
    groove = stripes(scene, 1, -1, 8)
    mid = ops.smoothstep(tone, 0.60, 0.36)  # how much ink the mid tones keep
    carved = ops.smoothstep(groove - (1.17 - 1.17 * mid), -0.16, 0.16)
    ink = torch.maximum(1 - ops.smoothstep(cut, 0.38, 0.66), carved)
    return ops.mix(ops.colour((0.95, 0.92, 0.84), scene), ops.colour((0.07, 0.07, 0.09), scene), ink)


def blueprint_scene(rgb: Tensor) -> Tensor:
    """Channels: line brightness, tone."""
    lab, tensor = _guide(rgb)
    guide = torch.cat([lab[:, :1], 1.4 * lab[:, 1:]], 1)
    edges = ops.along_flow(ops.edge_strength(ops.blur(guide, 0.7)), tensor, 6)
    edges = edges * (0.030 / (ops.blur(edges, 24.0) + 0.004)).clamp(0.5, 2.5) ** 0.6
    dark = ops.ink_lines(rgb, 0.9, 75.0, 0.006, adapt=0.8)
    line = torch.maximum(dark, 0.55 * ops.smoothstep(edges, 0.04, 0.12))
    tone = ops.kuwahara(lab[:, :1].expand(-1, 3, -1, -1), 4)[:, :1]
    return torch.cat([line, ops.soft_levels(tone, 5, 5.0)], 1)


def blueprint_screen(scene: Tensor) -> Tensor:
    line, tone = scene[:, :1], scene[:, 1:2]
    xs, ys = ops.pixel_grid(scene)
    small = torch.maximum((xs.remainder(16) == 0).to(scene.dtype), (ys.remainder(16) == 0).to(scene.dtype))
    large = torch.maximum((xs.remainder(32) == 0).to(scene.dtype), (ys.remainder(32) == 0).to(scene.dtype))
    paper = ops.mix(ops.colour((0.04, 0.15, 0.42), scene), ops.colour((0.12, 0.33, 0.66), scene), tone)
    sheet = paper + 0.05 * small + 0.06 * large
    return ops.mix(sheet, ops.colour((0.93, 0.97, 1.0), scene), 0.95 * line).clamp(0, 1)


def watercolour_scene(rgb: Tensor) -> Tensor:
    wide = ops.kuwahara(ops.kuwahara(rgb, 8), 7)
    near = ops.kuwahara(rgb, 3.5)
    lab = ops.to_oklab(ops.mix(wide, near, 0.30))
    # transparent paint on white paper: nothing is black, lights run into the paper
    tone = ops.soft_levels((ops.lift_dark(lab[:, :1], 0.35) + 0.04).clamp(0, 1), 6, 3.6)
    wash = 0.26 + 0.735 * tone**0.85
    # pigment gathers at the rim of a wash and leaves a paler line inside
    layers = torch.cat([wash, lab[:, 1:]], 1)
    edges = ops.edge_strength(ops.blur(layers, 1.1))
    rim = ops.smoothstep(edges, 0.012, 0.060)
    halo = (ops.blur(rim, 4.0) - 0.6 * rim).clamp(min=0)
    wash = wash - 0.20 * rim + 0.22 * halo * (1 - rim)
    drawn = ops.ink_lines(rgb, 1.0, 50.0, 0.009)
    wash = wash - 0.42 * drawn
    strength = 1.32 + 0.6 * rim - 0.5 * halo
    fade = ops.smoothstep(wash, 0.90, 0.99)
    chroma = ops.blur(lab[:, 1:], 1.5) * strength * (1 - 0.55 * fade)
    return ops.from_oklab(torch.cat([wash.clamp(0.12, 0.985), chroma], 1))


def watercolour_screen(scene: Tensor) -> Tensor:
    tooth = ops.paper_grain(scene, 32, 13, 1.0)
    depth = 1 - ops.luma(scene)
    return (scene + tooth * (0.003 + 0.020 * depth)).clamp(0, 1)
