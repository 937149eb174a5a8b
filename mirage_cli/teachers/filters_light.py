"""Looks made of light and colour: night, sunset, snow, thermal, neon, noir, old photograph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters_ops as ops

INFERNO = [
    (0.0, 0.0, 0.04),
    (0.10, 0.02, 0.30),
    (0.30, 0.03, 0.46),
    (0.52, 0.09, 0.46),
    (0.74, 0.18, 0.33),
    (0.91, 0.33, 0.16),
    (0.98, 0.55, 0.06),
    (0.99, 0.79, 0.20),
    (1.0, 1.0, 0.78),
]


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
    ground = ops.lift_dark(base, 0.35)
    dark = 0.08 + 0.43 * ground**1.5
    dark = ops.mix(dark, 0.15 + 0.10 * base, sky) + detail * (0.85 - 0.4 * sky)
    # moonlight: blue, little colour
    chroma_a = lab[:, 1:2] * 0.22 - 0.006
    chroma_b = warm * 0.22 - 0.052 - 0.015 * sky
    scene = ops.from_oklab(torch.cat([dark.clamp(0.02, 0.9), chroma_a, chroma_b], 1))
    # lamps and windows: small, bright, not green or blue
    small = (light - _opening(light, 8)).clamp(min=0)
    hue = ops.smoothstep(lab[:, 1:2], -0.035, -0.005) * ops.smoothstep(warm, -0.02, 0.02)
    lamp = ops.smoothstep(small, 0.10, 0.26) * ops.smoothstep(light, 0.62, 0.85) * hue * (1 - sky)
    lamp = ops.blur(lamp, 0.7)
    fire = ops.colour((1.0, 0.74, 0.36), rgb)
    halo = (ops.blur(lamp, 5.0) * 0.7 + ops.blur(lamp, 16.0) * 0.8) * fire
    lit = 1 - (1 - scene) * (1 - halo.clamp(0, 0.7))
    return ops.mix(lit, fire * (0.80 + 0.5 * (light - 0.7)), lamp).clamp(0, 1)


def _opening(x: Tensor, radius: int) -> Tensor:
    """Grey opening by a square: removes bright features narrower than 2 * radius + 1 px."""
    span = 2 * radius + 1
    low = -F.max_pool2d(-ops.pad_edge(x, radius, radius, radius, radius), span, 1)
    return F.max_pool2d(ops.pad_edge(low, radius, radius, radius, radius), span, 1)


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
    heaven = ops.palette_map(
        tone, [(0.42, 0.20, 0.36), (0.80, 0.34, 0.30), (0.97, 0.54, 0.24), (1.0, 0.74, 0.38), (1.0, 0.90, 0.62)]
    )
    out = ops.mix(ground, heaven, sky)
    glow = ops.blur(sky * ops.smoothstep(light, 0.5, 0.95), 24.0)
    out = 1 - (1 - out) * (1 - 0.30 * glow * ops.colour((1.0, 0.62, 0.25), rgb))
    return ops.bloom(out, 0.68, 8.0, 0.42)


def snow_frost_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    light = lab[:, :1]
    sky = _sky(lab)
    soft = ops.blur(light, 1.0)
    local = ops.blur(light, 6.0)
    edges = ops.blur(ops.edge_strength(ops.blur(lab, 0.7)), 6.0)
    rough = ops.smoothstep(edges, 0.010, 0.040)  # foliage, rock, grass
    # grass and leaves, also yellow and brown ones, but neither skin nor cloth
    green = ops.smoothstep(ops.blur(lab[:, 2:] - 1.6 * lab[:, 1:2], 2.0), 0.05, 0.13)
    ground = torch.maximum(green, 0.72 * rough)
    ground = ops.guided(ground, light, 8, 4e-3).clamp(0, 1)
    # snow lies where the surface catches light from above
    up = ops.smoothstep(soft - _shift_down(ops.blur(light, 1.5), 4) + 0.8 * (soft - local), -0.10, 0.12)
    # caps: the first rows below something smooth and brighter lie on top of an object
    above = _shift_down(ops.blur(torch.cat([light, sky], 1), 1.5), 5)
    cap = ops.smoothstep(above[:, :1] - soft, 0.05, 0.18) * ops.smoothstep(above[:, 1:], 0.2, 0.7)
    cover = torch.maximum(ground * (0.30 + 0.70 * up), ops.blur(cap, 1.0)) * (1 - sky)
    cover = ops.smoothstep(cover, 0.10, 0.80)
    cold_light = ops.mix((ops.lift_dark(light, 0.25) - 0.5) * 0.92 + 0.55, 0.80 + 0.10 * light, 0.85 * sky)
    a = ops.mix(lab[:, 1:2] * 0.50 - 0.006, torch.full_like(light, -0.004), sky)
    b = ops.mix(lab[:, 2:] * 0.40 - 0.026, torch.full_like(light, -0.014), sky)
    plain = torch.cat([cold_light, a, b], 1)
    snow_light = (0.90 + 0.50 * (soft - local) + 0.10 * (local - 0.5)).clamp(0.60, 1.0)
    snow = torch.cat([snow_light, torch.full_like(light, -0.006), -0.20 * (1 - snow_light) - 0.004], 1)
    out = ops.mix(plain, snow, cover * 0.95)
    air = torch.tensor([0.90, -0.006, -0.020], device=lab.device, dtype=lab.dtype).view(1, 3, 1, 1)
    out = ops.mix(out, air, 0.12 * ops.smoothstep(ops.blur(light, 16.0), 0.3, 0.8))
    return ops.bloom(ops.from_oklab(out), 0.80, 6.0, 0.15)


def _shift_down(x: Tensor, pixels: int) -> Tensor:
    """Value of the pixel that many rows above."""
    return ops.pad_edge(x, 0, 0, pixels, 0)[..., :-pixels, :]


def thermal_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    # warm hues read as warm bodies, sky as cold
    heat = 0.80 * ops.lift_dark(lab[:, :1], 0.4) + 1.5 * lab[:, 1:2] + 0.55 * lab[:, 2:] - 0.26 * _sky(lab)
    heat = ops.guided(heat, heat, 4, 0.002)
    heat = 0.85 * heat + 0.15 * ops.blur(heat, 6.0)
    out = ops.palette_map((heat - 0.10) / 0.80, INFERNO)
    return ops.bloom(out, 0.6, 6.0, 0.22)


def neon_cyberpunk_scene(rgb: Tensor) -> Tensor:
    lab = ops.to_oklab(rgb)
    light = lab[:, :1]
    flat = ops.lift_dark(ops.kuwahara(light.expand(-1, 3, -1, -1), 3)[:, :1], 0.45)
    dark = 0.05 + 0.46 * flat**1.5
    # shadows violet, lights teal to pink by the hue of the picture
    warm = ops.smoothstep(ops.blur(lab[:, 1:2] + 0.6 * lab[:, 2:], 3.0), -0.05, 0.09)
    violet = ops.colour((0.30, 0.07, 0.48), rgb)
    teal, pink = ops.colour((0.02, 0.62, 0.78), rgb), ops.colour((0.95, 0.16, 0.66), rgb)
    tint = ops.mix(teal, pink, warm)
    body = ops.mix(violet * (0.35 + 1.1 * flat), tint, ops.smoothstep(flat, 0.35, 0.95) * 0.75)
    body = body * (0.24 + 1.25 * dark)
    guide = torch.cat([light, 1.4 * lab[:, 1:]], 1)
    tensor = ops.structure_tensor(guide, 2.5)
    edges = ops.along_flow(ops.edge_strength(ops.blur(guide, 1.0)), tensor, 5)
    edges = edges * (0.030 / (ops.blur(edges, 24.0) + 0.004)).clamp(0.5, 2.5) ** 0.6
    tube = ops.smoothstep(edges, 0.026, 0.085)
    magenta, cyan = ops.colour((1.0, 0.10, 0.72), rgb), ops.colour((0.08, 0.92, 1.0), rgb)
    neon = ops.mix(cyan, magenta, warm) * tube
    glow = 0.55 * ops.blur(neon, 3.0) + 0.6 * ops.blur(neon, 9.0) + 0.45 * ops.blur(neon, 24.0)
    out = 1 - (1 - body.clamp(0, 1)) * (1 - glow.clamp(0, 0.75))
    core = (neon + 0.25 * tube).clamp(0, 1)
    return (1 - (1 - out) * (1 - 0.9 * core)).clamp(0, 1)


def film_noir_scene(rgb: Tensor) -> Tensor:
    red, green, blue = rgb.split(1, 1)
    grey = 0.45 * red + 0.45 * green + 0.10 * blue  # as through an orange filter
    base = ops.guided(grey, grey, 16, 0.02)
    grey = ops.lift_dark(base, 0.75, 0.45) + 1.7 * (grey - base)
    grey = (grey - 0.06) * 1.02
    curve = ops.smoothstep(grey, 0.10, 0.95)
    curve = ops.mix(grey * grey * 0.9, curve, 0.75)
    out = curve.clamp(0, 1).expand(-1, 3, -1, -1)
    return ops.bloom(out, 0.55, 8.0, 0.40)


def film_noir_screen(scene: Tensor) -> Tensor:
    grain = ops.paper_grain(scene, 32, 7, 0.6) * 0.010
    lit = scene * ops.vignette(scene, 112, 0.65)
    return (lit + grain * (0.3 + 1.4 * lit * (1 - lit) * 2)).clamp(0, 1)


def old_photograph_scene(rgb: Tensor) -> Tensor:
    red, green, blue = rgb.split(1, 1)
    grey = 0.25 * red + 0.45 * green + 0.30 * blue  # early plates see little red
    soft = 0.35 * ops.blur(grey, 2.2) + 0.65 * ops.blur(grey, 0.7)
    tone = ops.mix(soft, ops.smoothstep(soft, 0.0, 0.95), 0.7)
    out = ops.palette_map(
        tone, [(0.20, 0.135, 0.085), (0.40, 0.28, 0.18), (0.62, 0.47, 0.32), (0.80, 0.67, 0.49), (0.93, 0.85, 0.69)]
    )
    return ops.bloom(out, 0.7, 10.0, 0.15)


def old_photograph_screen(scene: Tensor) -> Tensor:
    gain = ops.vignette(scene, 112, 1.0)
    paper = ops.colour((0.90, 0.80, 0.62), scene)
    burnt = ops.colour((0.30, 0.20, 0.12), scene)
    grain = ops.paper_grain(scene, 32, 3, 0.8) * 0.007
    faded = ops.mix(scene, paper, 0.06)
    return (ops.mix(burnt, faded, 0.35 + 0.65 * gain) + grain).clamp(0, 1)
