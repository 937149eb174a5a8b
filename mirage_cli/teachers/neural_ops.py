"""Picture operations that turn a style network's output into a finished look, in torch.

Colour in OKLab, edge-preserving filters, and the operations that recipes name (``op_...``). Every
one is a function of the picture alone (no noise, no screen position), so that a styled target moves
with its scene and a student can learn it. Pictures are [B, 3, H, W], sRGB in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F

Tensor = torch.Tensor

# --- colour --------------------------------------------------------------------------------------


def to_lab(rgb: Tensor) -> Tensor:
    """sRGB [B, 3, H, W] in 0..1 -> OKLab (L 0..1, a, b), https://bottosson.github.io/posts/oklab."""
    rgb = rgb.float().clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    r, g, b = linear.unbind(1)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b).clamp_min(1e-8) ** (1 / 3)
    mid = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b).clamp_min(1e-8) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b).clamp_min(1e-8) ** (1 / 3)
    return torch.stack(
        (
            0.2104542553 * long + 0.7936177850 * mid - 0.0040720468 * short,
            1.9779984951 * long - 2.4285922050 * mid + 0.4505937099 * short,
            0.0259040371 * long + 0.7827717662 * mid - 0.8086757660 * short,
        ),
        1,
    )


def to_rgb(lab: Tensor) -> Tensor:
    """The inverse of ``to_lab``, clipped to 0..1."""
    lightness, a, b = lab.unbind(1)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    mid = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = torch.stack(
        (
            4.0767416621 * long - 3.3077115913 * mid + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * mid - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * mid + 1.7076147010 * short,
        ),
        1,
    ).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055).clamp(
        0, 1
    )


_COLOURS: dict[tuple, Tensor] = {}


def colour_tensor(rgb: list[float] | tuple[float, ...], like: Tensor) -> Tensor:
    """A colour as [1, 3, 1, 1] on the device of ``like``; kept, so that a render copies nothing."""
    key = (tuple(rgb), like.device)
    if key not in _COLOURS:
        _COLOURS[key] = torch.tensor(rgb, device=like.device, dtype=torch.float32).view(1, 3, 1, 1)
    return _COLOURS[key]


# --- filters -------------------------------------------------------------------------------------


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; wide ones run on a reduced picture."""
    height, width = x.shape[-2:]
    reduce = 1
    while sigma / reduce > 6 and min(height, width) // (reduce * 2) >= 32:
        reduce *= 2
    small = F.avg_pool2d(x, reduce, ceil_mode=True) if reduce > 1 else x
    s = sigma / reduce
    radius = min(max(1, math.ceil(2.7 * s)), min(small.shape[-2:]) - 1)
    t = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
    kernel = torch.exp(-(t**2) / (2 * s * s))
    kernel = (kernel / kernel.sum()).to(x.dtype)
    channels = x.shape[1]
    small = F.pad(small, (radius,) * 4, mode="reflect")
    small = F.conv2d(small, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    small = F.conv2d(small, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    if reduce == 1:
        return small
    return F.interpolate(small, scale_factor=reduce, mode="bilinear")[..., :height, :width]


def guided(guide: Tensor, x: Tensor, radius: float, eps: float) -> Tensor:
    """Guided filter (He et al. 2010) with Gaussian windows; guide [B, 1, H, W]."""
    mean_g, mean_x = blur(guide, radius), blur(x, radius)
    var = (blur(guide * guide, radius) - mean_g**2).clamp_min(0)
    cov = blur(guide * x, radius) - mean_g * mean_x
    gain = cov / (var + eps)
    return blur(gain, radius) * guide + blur(mean_x - gain * mean_g, radius)


def kuwahara(x: Tensor, radius: float, power: float = 4.0) -> Tensor:
    """Generalised Kuwahara filter (Papari et al. 2007): flat dabs with crisp borders."""
    sigma = max(radius * 0.5, 0.7)
    mean = blur(x, sigma)
    luma = (x * colour_tensor((0.3, 0.59, 0.11), x)).sum(1, keepdim=True)
    mean_luma = blur(luma, sigma)
    variance = (blur(luma * luma, sigma) - mean_luma**2).clamp_min(0)
    pad = math.ceil(radius)
    stack = F.pad(torch.cat((mean, variance), 1), (pad,) * 4, mode="reflect")
    height, width = x.shape[-2:]
    total, weights = torch.zeros_like(x), torch.zeros_like(luma)
    for k in range(8):
        dy = round(radius * math.sin(k * math.pi / 4)) + pad
        dx = round(radius * math.cos(k * math.pi / 4)) + pad
        part = stack[..., dy : dy + height, dx : dx + width]
        weight = (1e-3 + part[:, 3:].sqrt()) ** -power
        total, weights = total + weight * part[:, :3], weights + weight
    return total / weights


def along_flow(x: Tensor, guide: Tensor, length: int, sigma: float) -> Tensor:
    """Averages along the stroke direction of ``guide`` [B, 1, H, W] (smoothed structure tensor).

    Line integral convolution with Gaussian weights, ``length`` pixels to either side: strokes grow
    longer and cleaner, pixel noise and grids of upsampling go.
    """
    soft = F.pad(blur(guide, 1.0), (1, 1, 1, 1), mode="replicate")
    gx = soft[..., 1:-1, 2:] - soft[..., 1:-1, :-2]
    gy = soft[..., 2:, 1:-1] - soft[..., :-2, 1:-1]
    tensor = blur(torch.cat((gx * gx - gy * gy, 2 * gx * gy), 1), sigma)
    # doubled angle of the tangent: interpolates without a sign
    double = -tensor / (tensor.norm(dim=1, keepdim=True) + 1e-8)
    batch, _, height, width = x.shape
    ys, xs = torch.meshgrid(
        torch.arange(height, device=x.device, dtype=torch.float32),
        torch.arange(width, device=x.device, dtype=torch.float32),
        indexing="ij",
    )
    scale = torch.stack((torch.full_like(xs, 2 / width), torch.full_like(xs, 2 / height)), -1)
    start = torch.stack((xs, ys), -1)[None].expand(batch, -1, -1, -1)
    field = torch.cat((x, double), 1)
    total, weights = x, 1.0
    for sign in (1.0, -1.0):
        angle = 0.5 * torch.atan2(double[:, 1], double[:, 0])
        step = torch.stack((torch.cos(angle), torch.sin(angle)), -1) * sign
        place = start
        for k in range(1, length + 1):
            place = place + step
            sample = F.grid_sample(
                field, (place + 0.5) * scale - 1, mode="bilinear", padding_mode="border", align_corners=False
            )
            weight = math.exp(-0.5 * (2 * k / length) ** 2)
            total, weights = total + weight * sample[:, :3], weights + weight
            angle = 0.5 * torch.atan2(sample[:, 4], sample[:, 3])
            new = torch.stack((torch.cos(angle), torch.sin(angle)), -1)
            facing = (new * step).sum(-1, keepdim=True) >= 0
            step = torch.where(facing, new, -new)
    return total / weights


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


# --- operations of recipes -----------------------------------------------------------------------
# Each takes the teachers, the pictures made so far ("photo", "x", and what "save" kept) and its
# settings, and returns the new "x".

State = dict[str, Tensor]


class StyleNetworks(Protocol):
    """What the operations need of the networks; ``NeuralTeachers`` has it."""

    def paint(self, x: Tensor, styles: dict[str, float], scale: float, shift: int = 0) -> Tensor: ...

    def transfer(self, x: Tensor, styles: dict[str, float], scale: float) -> Tensor: ...

    def match_palette(self, lab: Tensor, painting: str, light: float, colour: float) -> Tensor: ...


def op_paint(
    t: StyleNetworks, state: State, *, styles: dict[str, float], scale: float = 1.0, source: str = "x", shifts: int = 1
) -> Tensor:
    """A mixture of the 26 trained styles, painted at ``scale`` times the picture's size.

    ``shifts`` renders are averaged, each moved against the net's 4-pixel grid, which hides it.
    """
    painted = [t.paint(state[source], styles, scale, shift=4 * k // shifts) for k in range(shifts)]
    return sum(painted[1:], painted[0]) / shifts


def op_transfer(
    t: StyleNetworks, state: State, *, styles: dict[str, float], scale: float = 1.0, source: str = "x"
) -> Tensor:
    """The arbitrary-style net with a mixture of painting crops, "name" or "name:x0,y0,x1,y1"."""
    return t.transfer(state[source], styles, scale)


def op_kuwahara(t: StyleNetworks, state: State, *, radius: float, power: float = 4.0, source: str = "x") -> Tensor:
    return kuwahara(state[source], radius, power)


def op_flatten(
    t: StyleNetworks, state: State, *, radius: float = 6, eps: float = 0.004, passes: int = 2, source: str = "x"
) -> Tensor:
    """Edge-preserving smoothing."""
    x = state[source]
    for _ in range(passes):
        x = guided(to_lab(x)[:, :1], x, radius, eps)
    return x.clamp(0, 1)


def op_flow(
    t: StyleNetworks, state: State, *, length: int = 6, sigma: float = 2.5, sharpen: float = 0.0, source: str = "x"
) -> Tensor:
    """Combs the picture along its own strokes, then sharpens across them."""
    x = state[source]
    x = along_flow(x, to_lab(x)[:, :1], length, sigma)
    return (x + sharpen * (x - blur(x, 1.5))).clamp(0, 1)


def op_mix(t: StyleNetworks, state: State, *, other: str, weight: float) -> Tensor:
    return state["x"] * (1 - weight) + state[other] * weight


def op_contours(
    t: StyleNetworks, state: State, *, amount: float, bands: float = 2.0, fine: float = 6, coarse: float = 40
) -> Tensor:
    """Adds lines of equal light to calm areas, which a style net then paints as flowing strokes."""
    lab = to_lab(state["x"])
    light = lab[:, :1] + 0.35 * lab[:, 2:3]
    near, far = blur(light, fine), blur(light, coarse)
    spread = (blur((near - far) ** 2, coarse)).sqrt() + 0.015
    phase = (near - far) / spread
    calm = 1 - smoothstep((blur((light - near) ** 2, fine)).sqrt(), 0.03, 0.12)
    wave = torch.sin(2 * math.pi * bands * phase) * calm * amount
    return to_rgb(torch.cat((lab[:, :1] + wave, lab[:, 1:]), 1))


def op_chroma(
    t: StyleNetworks, state: State, *, keep: float, gain: float = 1.0, source: str = "photo", smooth: float = 0.0
) -> Tensor:
    """Mixes in the hue of ``source``, with its saturation multiplied by ``gain``."""
    lab, other = to_lab(state["x"]), to_lab(state[source])[:, 1:]
    if smooth:
        other = guided(to_lab(state["photo"])[:, :1], other, smooth, 0.003)
    return to_rgb(torch.cat((lab[:, :1], lab[:, 1:] * (1 - keep) + other * gain * keep), 1))


def op_tint(
    t: StyleNetworks, state: State, *, source: str, amount: float, smooth: float = 0.0, neutral: float = 0.06
) -> Tensor:
    """Gives pale, colourless areas the hue of ``source``, its saturation multiplied by ``amount``."""
    lab, other = to_lab(state["x"]), to_lab(state[source])[:, 1:]
    if smooth:
        other = blur(other, smooth)
    saturation = lab[:, 1:].square().sum(1, keepdim=True).sqrt()
    pale = torch.exp(-((saturation / neutral) ** 2))
    return to_rgb(torch.cat((lab[:, :1], lab[:, 1:] + amount * pale * other), 1))


def op_light(t: StyleNetworks, state: State, *, keep: float, source: str = "photo") -> Tensor:
    """Mixes in the lightness of ``source``, all of it."""
    lab, other = to_lab(state["x"]), to_lab(state[source])
    return to_rgb(torch.cat((lab[:, :1] * (1 - keep) + other[:, :1] * keep, lab[:, 1:]), 1))


def op_structure(t: StyleNetworks, state: State, *, keep: float, radius: float = 10, match: bool = True) -> Tensor:
    """Pulls the coarse lightness toward the photo's, so that shapes stay; strokes are untouched."""
    lab, photo = to_lab(state["x"]), to_lab(state["photo"])[:, :1]
    if match:  # with the spread of the painted picture, so that the look's own tones stay
        mean, std = lab[:, :1].mean((2, 3), keepdim=True), lab[:, :1].std((2, 3), keepdim=True)
        photo = (photo - photo.mean((2, 3), keepdim=True)) / (photo.std((2, 3), keepdim=True) + 0.02) * std + mean
    shift = guided(photo, photo - lab[:, :1], radius, 0.002)
    return to_rgb(torch.cat((lab[:, :1] + keep * shift, lab[:, 1:]), 1))


def op_detail(t: StyleNetworks, state: State, *, amount: float, radius: float = 4, limit: float = 0.12) -> Tensor:
    """Adds the photo's fine lightness detail, so that faces and writing stay readable."""
    lab, photo = to_lab(state["x"]), to_lab(state["photo"])[:, :1]
    fine = photo - blur(photo, radius)
    fine = limit * torch.tanh(fine / limit)
    return to_rgb(torch.cat((lab[:, :1] + amount * fine, lab[:, 1:]), 1))


def op_local_contrast(t: StyleNetworks, state: State, *, amount: float, radius: float = 16) -> Tensor:
    lab = to_lab(state["x"])
    light = lab[:, :1]
    fine = light - blur(light, radius)
    return to_rgb(torch.cat((light + amount * 0.2 * torch.tanh(fine / 0.2), lab[:, 1:]), 1))


def op_sharpen(t: StyleNetworks, state: State, *, amount: float, radius: float = 1.0) -> Tensor:
    x = state["x"]
    return (x + amount * (x - blur(x, radius))).clamp(0, 1)


def op_levels(
    t: StyleNetworks, state: State, *, low: float = 0.0, high: float = 1.0, gamma: float = 1.0, saturation: float = 1.0
) -> Tensor:
    """Maps lightness low..high to 0..1 with a gamma; above 1 it darkens."""
    lab = to_lab(state["x"])
    light = ((lab[:, :1] - low) / (high - low)).clamp(0, 1) ** gamma
    return to_rgb(torch.cat((light, lab[:, 1:] * saturation), 1))


def op_stretch(t: StyleNetworks, state: State, *, mean: float, std: float, keep: float = 1.0) -> Tensor:
    """Sets the mean and spread of the lightness."""
    lab = to_lab(state["x"])
    light = lab[:, :1]
    m, s = light.mean((2, 3), keepdim=True), light.std((2, 3), keepdim=True)
    target = (light - m) / (s + 0.02) * std + mean
    return to_rgb(torch.cat((light + keep * (target - light), lab[:, 1:]), 1))


def op_palette(t: StyleNetworks, state: State, *, painting: str, light: float = 0.5, colour: float = 0.8) -> Tensor:
    """Moves mean and covariance of the colours toward those of a painting (OKLab, per picture)."""
    lab = to_lab(state["x"])
    return to_rgb(t.match_palette(lab, painting, light, colour))


def op_ramp(
    t: StyleNetworks,
    state: State,
    *,
    stops: list[list[float]],
    keep: float = 1.0,
    source: str = "x",
    warm: list[float] | None = None,
    warm_amount: float = 0.0,
) -> Tensor:
    """Maps lightness to colours; stops are [lightness, r, g, b]. Warm hues may take their own tint."""
    lab = to_lab(state[source])
    light = lab[:, :1]
    colours = [to_lab(colour_tensor(s[1:], lab)) for s in stops]
    out = colours[0]
    for index in range(len(stops) - 1):
        weight = smoothstep(light, stops[index][0], stops[index + 1][0])
        out = out + (colours[index + 1] - colours[index]) * weight
    if warm is not None:
        hue = to_lab(state["photo"])
        amount = smoothstep(guided(hue[:, :1], hue[:, 1:2] + hue[:, 2:3], 5, 0.002), 0.03, 0.13)
        tint = to_lab(colour_tensor(warm, lab))
        tinted = torch.cat((out[:, :1], (out[:, 1:] * 0 + tint[:, 1:])), 1)
        out = out + (tinted - out) * amount * warm_amount
    return to_rgb(lab * (1 - keep) + out * keep)


def op_posterise(t: StyleNetworks, state: State, *, levels: int, soft: float = 0.25) -> Tensor:
    """Flattens lightness into steps with narrow ramps between them."""
    lab = to_lab(state["x"])
    scaled = lab[:, :1] * levels
    base = torch.floor(scaled)
    step = base + smoothstep(scaled - base, 0.5 - soft / 2, 0.5 + soft / 2)
    return to_rgb(torch.cat((step / levels, lab[:, 1:]), 1))


def op_lines(
    t: StyleNetworks,
    state: State,
    *,
    amount: float,
    radius: float = 1.2,
    gain: float = 18.0,
    threshold: float = 0.012,
    colour: tuple[float, float, float] = (0.05, 0.05, 0.1),
    source: str = "photo",
    smooth: float = 4,
) -> Tensor:
    """Draws dark lines where ``source`` has edges (difference of Gaussians, Winnemoeller 2011)."""
    light = to_lab(state[source])[:, :1]
    if smooth:
        light = guided(light, light, smooth, 0.001)
    difference = blur(light, radius * 1.6) - blur(light, radius)
    ink = torch.tanh(F.relu(difference - threshold) * gain) * amount
    tint = colour_tensor(colour, state["x"])
    return state["x"] * (1 - ink) + tint * ink


def op_ink(
    t: StyleNetworks,
    state: State,
    *,
    source: str,
    low: float,
    high: float,
    colour: tuple[float, float, float] = (0.04, 0.04, 0.06),
    amount: float = 1.0,
) -> Tensor:
    """Where ``source`` is darker than low..high, covers with ``colour``: a net's strokes as a mask."""
    light = to_lab(state[source])[:, :1]
    ink = (1 - smoothstep(light, low, high)) * amount
    tint = colour_tensor(colour, state["x"])
    return state["x"] * (1 - ink) + tint * ink


def op_emboss(
    t: StyleNetworks, state: State, *, source: str, amount: float, radius: float = 8, limit: float = 0.25
) -> Tensor:
    """Adds the stroke relief of ``source``: its lightness less its own local mean."""
    light = to_lab(state[source])[:, :1]
    relief = limit * torch.tanh((light - blur(light, radius)) / limit)
    lab = to_lab(state["x"])
    return to_rgb(torch.cat((lab[:, :1] + amount * relief, lab[:, 1:]), 1))


def op_wash_edges(t: StyleNetworks, state: State, *, amount: float, radius: float = 3) -> Tensor:
    """Pigment gathers at the border of a wash: borders of flat areas get denser colour."""
    lab = to_lab(state["x"])
    edge = (lab - blur(lab, radius)).square().sum(1, keepdim=True).sqrt()
    darker = F.relu(blur(lab[:, :1], radius) - lab[:, :1]) + 0.35 * edge
    density = torch.tanh(darker * 6) * amount
    return to_rgb(torch.cat((lab[:, :1] - 0.18 * density, lab[:, 1:] * (1 + 0.8 * density)), 1))


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    name[3:]: function for name, function in list(globals().items()) if name.startswith("op_")
}
