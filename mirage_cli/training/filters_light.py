"""Looks made of light and colour: night, sunset, snow, thermal, neon, noir, old photograph."""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters_ops as ops

INFERNO = [(0.0, 0.0, 0.04), (0.10, 0.02, 0.30), (0.30, 0.03, 0.46), (0.52, 0.09, 0.46),
           (0.74, 0.18, 0.33), (0.91, 0.33, 0.16), (0.98, 0.55, 0.06), (0.99, 0.79, 0.20),
           (1.0, 1.0, 0.78)]


def _sky(lab: Tensor) -> Tensor:
    """0..1: bright, smooth, not warm-green; what usually is sky or glare."""
    edges = ops.edge_strength(lab)
    busy = ops.blur(edges, 8.0) * 0.5 + ops.blur(edges, 16.0) * 0.5
    smooth = ops.smoothstep(busy, 0.022, 0.008)
    bright = ops.smoothstep(ops.blur(lab[:, :1], 4.0), 0.55, 0.78)
    cold = ops.smoothstep(ops.blur(lab[:, 2:], 4.0), 0.07, 0.01)
    mask = smooth * bright * cold
    return ops.guided(mask, lab[:, :1], 12, 2e-3).clamp(0, 1)


def night_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    light, warm = lab[:, :1], lab[:, 2:]
    base = ops.guided(light, light, 16, 0.01)
    detail = light - base
    sky = _sky(lab)
    dark = 0.06 + 0.40 * base ** 1.6
    dark = ops.mix(dark, 0.15 + 0.10 * base, sky) + detail * (0.75 - 0.3 * sky)
    # moonlight: blue, little colour
    chroma_a = lab[:, 1:2] * 0.22 - 0.006
    chroma_b = warm * 0.22 - 0.052 - 0.015 * sky
    scene = ops.from_oklab(torch.cat([dark.clamp(0.02, 0.9), chroma_a, chroma_b], 1))
    # lamps and windows: bright spots that stand out of their surroundings
    around = ops.blur(light, 12.0)
    spot = ops.smoothstep(light - around, 0.10, 0.24) * ops.smoothstep(light, 0.66, 0.86)
    glowing = ops.smoothstep(warm, 0.03, 0.12) * ops.smoothstep(light, 0.62, 0.80)
    glowing = glowing * ops.smoothstep(light - around, 0.0, 0.10)
    lamp = torch.maximum(spot * 0.55, glowing) * (1 - sky)
    lamp = ops.blur(lamp, 0.8)
    fire = ops.colour((1.0, 0.72, 0.34), rgb)
    halo = (ops.blur(lamp, 5.0) * 0.9 + ops.blur(lamp, 16.0) * 1.1) * fire
    lit = 1 - (1 - scene) * (1 - halo.clamp(0, 0.85))
    return ops.mix(lit, fire * (0.75 + 0.4 * (light - 0.6)), lamp).clamp(0, 1)


def golden_sunset_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    light = lab[:, :1]
    sky = _sky(lab)
    base = ops.guided(light, light, 12, 0.01)
    detail = light - base
    low = (light - 0.5) * 1.12 + 0.44
    shade = ops.smoothstep(light, 0.62, 0.20)  # 1 in shadows
    a = lab[:, 1:2] * 0.75 + ops.mix(0.045, 0.030, shade)
    b = lab[:, 2:] * 0.65 + ops.mix(0.105, -0.012, shade)
    ground = ops.from_oklab(torch.cat([low.clamp(0, 1), a, b], 1))
    tone = ops.smoothstep(base, 0.45, 1.0) + detail * 1.2
    heaven = ops.palette_map(tone, [(0.42, 0.20, 0.36), (0.80, 0.34, 0.30), (0.97, 0.54, 0.24),
                                    (1.0, 0.74, 0.38), (1.0, 0.90, 0.62)])
    out = ops.mix(ground, heaven, sky)
    glow = ops.blur(sky * ops.smoothstep(light, 0.5, 0.95), 24.0)
    out = 1 - (1 - out) * (1 - 0.30 * glow * ops.colour((1.0, 0.62, 0.25), rgb))
    return ops.bloom(out, 0.68, 8.0, 0.42)


def snow_frost_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    light = lab[:, :1]
    sky = _sky(lab)
    edges = ops.edge_strength(ops.blur(lab, 0.7))
    busy = ops.smoothstep(ops.blur(edges, 5.0), 0.010, 0.035)
    local = ops.blur(light, 5.0)
    up = light - _shift_down(ops.blur(light, 1.2), 3)  # positive: darker above, so lit from above
    top = ops.smoothstep(light - local + 0.6 * up, -0.02, 0.09)
    green = ops.smoothstep(lab[:, 2:] - lab[:, 1:2], 0.05, 0.16)
    cover = (0.35 + 0.65 * busy) * top + 0.55 * green * (0.4 + 0.6 * top)
    # caps: the first pixels below a smooth bright region lie on top of something
    cap = ops.smoothstep(_shift_down(ops.blur(light, 1.5), 5) - light, 0.08, 0.22)
    cap = ops.blur(cap * (1 - ops.smoothstep(ops.blur(edges, 2.0), 0.10, 0.2)), 1.0) * 0.8
    cover = torch.maximum(cover, cap).clamp(0, 1) * (1 - sky)
    cover = ops.smoothstep(cover, 0.12, 0.72)
    cold_light = ops.mix((light - 0.5) * 0.95 + 0.52, 0.80 + 0.10 * light, 0.85 * sky)
    a = ops.mix(lab[:, 1:2] * 0.45 - 0.004, torch.full_like(light, -0.004), sky)
    b = ops.mix(lab[:, 2:] * 0.40 - 0.022, torch.full_like(light, -0.012), sky)
    ground = torch.cat([cold_light, a, b], 1)
    snow_light = (0.86 + 0.55 * (light - local)).clamp(0.62, 1.0)
    shade = (1 - snow_light)
    snow = torch.cat([snow_light, -0.004 - 0.01 * shade, -0.006 - 0.16 * shade], 1)
    out = ops.mix(ground, snow, cover * 0.95)
    haze = 0.12 * ops.smoothstep(ops.blur(light, 16.0), 0.3, 0.8)
    out = ops.mix(out, torch.tensor([0.9, -0.006, -0.02], device=lab.device).view(1, 3, 1, 1), haze)
    return ops.bloom(ops.from_oklab(out), 0.80, 6.0, 0.18)


def _shift_down(x: Tensor, pixels: int) -> Tensor:
    """Value of the pixel that many rows above."""
    return ops.pad_edge(x, 0, 0, pixels, 0)[..., :-pixels, :]


def thermal_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    heat = lab[:, :1] + 0.9 * lab[:, 1:2] + 0.35 * lab[:, 2:]
    heat = ops.guided(heat, heat, 5, 0.003)
    heat = 0.85 * heat + 0.15 * ops.blur(heat, 6.0)
    out = ops.palette_map(ops.smoothstep(heat, 0.08, 1.02) * 0.4 + 0.6 * (heat - 0.12) / 0.85, INFERNO)
    return ops.bloom(out, 0.6, 6.0, 0.25)


def neon_cyberpunk_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    light = lab[:, :1]
    flat = ops.kuwahara(lab[:, :1].expand(-1, 3, -1, -1), 3)[:, :1]
    dark = 0.05 + 0.46 * flat ** 1.5
    # shadows violet, lights teal to pink by the hue of the picture
    warm = ops.smoothstep(ops.blur(lab[:, 1:2] + 0.6 * lab[:, 2:], 3.0), -0.05, 0.09)
    violet = ops.colour((0.30, 0.07, 0.48), rgb)
    teal, pink = ops.colour((0.02, 0.62, 0.78), rgb), ops.colour((0.95, 0.16, 0.66), rgb)
    tint = ops.mix(teal, pink, warm)
    body = ops.mix(violet * (0.35 + 1.1 * flat), tint, ops.smoothstep(flat, 0.35, 0.95) * 0.75)
    body = body * (0.18 + 1.05 * dark)
    guide = torch.cat([light, 1.4 * lab[:, 1:]], 1)
    tensor = ops.structure_tensor(guide, 2.5)
    edges = ops.along_flow(ops.edge_strength(ops.blur(guide, 1.0)), tensor, 5)
    tube = ops.smoothstep(edges, 0.022, 0.075)
    magenta, cyan = ops.colour((1.0, 0.10, 0.72), rgb), ops.colour((0.08, 0.92, 1.0), rgb)
    neon = ops.mix(cyan, magenta, warm) * tube
    glow = 0.75 * ops.blur(neon, 3.0) + 0.9 * ops.blur(neon, 9.0) + 0.5 * ops.blur(neon, 24.0)
    out = 1 - (1 - body.clamp(0, 1)) * (1 - glow.clamp(0, 0.9))
    core = (neon + 0.35 * tube).clamp(0, 1)
    return (1 - (1 - out) * (1 - 0.9 * core)).clamp(0, 1)


def film_noir_scene(rgb: Tensor) -> Tensor:
    red, green, blue = rgb.split(1, 1)
    grey = 0.45 * red + 0.45 * green + 0.10 * blue  # as through an orange filter
    base = ops.guided(grey, grey, 16, 0.02)
    grey = base + 1.5 * (grey - base)
    grey = (grey - 0.06) * 1.02
    curve = ops.smoothstep(grey, 0.10, 0.95)
    curve = ops.mix(grey * grey * 0.9, curve, 0.75)
    out = curve.clamp(0, 1).expand(-1, 3, -1, -1)
    return ops.bloom(out, 0.55, 8.0, 0.40)


def film_noir_screen(scene: Tensor) -> Tensor:
    grain = ops.paper_grain(scene, 32, 7, 0.6) * 0.018
    lit = scene * ops.vignette(scene, 112, 0.65)
    return (lit + grain * (0.3 + 1.4 * lit * (1 - lit) * 2)).clamp(0, 1)


def old_photograph_scene(rgb: Tensor) -> Tensor:
    red, green, blue = rgb.split(1, 1)
    grey = 0.25 * red + 0.45 * green + 0.30 * blue  # early plates see little red
    soft = 0.45 * blur_pair(grey)[0] + 0.55 * blur_pair(grey)[1]
    tone = ops.mix(soft, ops.smoothstep(soft, 0.0, 1.0), 0.5)
    out = ops.palette_map(tone, [(0.20, 0.135, 0.085), (0.40, 0.28, 0.18), (0.62, 0.47, 0.32),
                                 (0.80, 0.67, 0.49), (0.93, 0.85, 0.69)])
    return ops.bloom(out, 0.7, 10.0, 0.15)


def blur_pair(grey: Tensor) -> tuple[Tensor, Tensor]:
    return ops.blur(grey, 2.2), ops.blur(grey, 0.8)


def old_photograph_screen(scene: Tensor) -> Tensor:
    gain = ops.vignette(scene, 112, 1.0)
    paper = ops.colour((0.90, 0.80, 0.62), scene)
    burnt = ops.colour((0.30, 0.20, 0.12), scene)
    grain = ops.paper_grain(scene, 32, 3, 0.8) * 0.016
    faded = ops.mix(scene, paper, 0.10)
    return (ops.mix(burnt, faded, 0.35 + 0.65 * gain) + grain).clamp(0, 1)
