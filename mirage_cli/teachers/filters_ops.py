"""Building blocks of the filter teachers: colour, smoothing, structure, lines, screens.

Everything takes and gives batched float tensors [B, C, H, W] on any device, holds no state and
draws no random numbers. Sizes are in pixels. Downsampling inside is by at most 8, so results
move with the picture for shifts of whole multiples of 8 px.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)


# ---------------------------------------------------------------- colour
def luma(rgb: Tensor) -> Tensor:
    """Gamma-coded luma (Rec. 709 weights), [B,3,H,W] -> [B,1,H,W]."""
    r, g, b = rgb.split(1, 1)
    return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def to_linear(rgb: Tensor) -> Tensor:
    """sRGB (IEC 61966-2-1) to linear light."""
    rgb = rgb.clamp(0, 1)
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light to sRGB, clipped to 0..1."""
    x = linear.clamp(0, 1)
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


_RGB_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_LMS_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def _mix_channels(x: Tensor, rows: tuple[tuple[float, ...], ...], inverse: bool = False) -> Tensor:
    matrix = torch.tensor(rows, dtype=torch.float64)
    if inverse:
        matrix = torch.linalg.inv(matrix)
    weights = matrix.tolist()
    parts = x.split(1, 1)
    return torch.cat([sum(w * p for w, p in zip(row, parts)) for row in weights], 1)


def to_oklab(rgb: Tensor) -> Tensor:
    """sRGB to OKLab (Ottosson 2020): L 0..1, a and b about -0.4..0.4."""
    lms = _mix_channels(to_linear(rgb), _RGB_TO_LMS).clamp(min=1e-9) ** (1 / 3)
    return _mix_channels(lms, _LMS_TO_LAB)


def from_oklab(lab: Tensor) -> Tensor:
    """OKLab to sRGB, clipped to 0..1."""
    lms = _mix_channels(lab, _LMS_TO_LAB, inverse=True)
    return to_srgb(_mix_channels(lms * lms * lms, _RGB_TO_LMS, inverse=True))


def saturate(rgb: Tensor, gain: float) -> Tensor:
    """Multiplies OKLab chroma by ``gain``."""
    lab = to_oklab(rgb)
    return from_oklab(torch.cat([lab[:, :1], lab[:, 1:] * gain], 1))


def colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    """One sRGB colour as [1,3,1,1] on the device of ``like``."""
    return torch.tensor(rgb, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def palette_map(x: Tensor, stops: list[tuple[float, float, float]]) -> Tensor:
    """Maps [B,1,H,W] in 0..1 to evenly spaced sRGB stops, linear in between -> [B,3,H,W]."""
    table = torch.tensor(stops, dtype=x.dtype, device=x.device)  # [N,3]
    position = x.clamp(0, 1) * (len(stops) - 1)
    low = position.floor().clamp(max=len(stops) - 2)
    t = position - low
    index = low.long()[:, 0]
    mixed = table[index] * (1 - t[:, 0, ..., None]) + table[index + 1] * t[:, 0, ..., None]
    return mixed.permute(0, 3, 1, 2).contiguous()


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """0 at ``low``, 1 at ``high``, smooth in between; ``low`` may be the larger one."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Tensor | float, b: Tensor | float, t: Tensor | float) -> Tensor:
    """``a`` where ``t`` is 0, ``b`` where it is 1; one of the three is a tensor."""
    return torch.as_tensor(a + (b - a) * t)


def soft_levels(x: Tensor, levels: int, sharpness: float) -> Tensor:
    """Soft quantisation of 0..1 to ``levels`` steps (Winnemoeller 2006): tanh at each border."""
    scaled = x.clamp(0, 1) * levels
    nearest = (scaled - 0.5).round().clamp(0, levels - 1)  # index of the bin
    offset = scaled - (nearest + 0.5)
    step = 0.5 * torch.tanh(offset * sharpness) / math.tanh(0.5 * sharpness)
    return ((nearest + 0.5 + step) / levels).clamp(0, 1)


# ---------------------------------------------------------------- smoothing
def pad_edge(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    return F.pad(x, (left, right, top, bottom), mode="replicate")


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; from sigma 6 on at half, from 12 on at a quarter, from 24 on at an eighth."""
    factor = 8 if sigma >= 24 else 4 if sigma >= 12 else 2 if sigma >= 6 else 1
    if factor > 1:
        height, width = x.shape[-2:]
        padded = pad_edge(x, 0, -width % factor, 0, -height % factor)
        small = _blur_exact(F.avg_pool2d(padded, factor), sigma / factor)
        large = F.interpolate(small, scale_factor=factor, mode="bilinear", align_corners=False)
        return large[..., :height, :width]
    return _blur_exact(x, sigma)


def _blur_exact(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, int(math.ceil(2.6 * sigma)))
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    total = sum(taps)
    kernel = torch.tensor([t / total for t in taps], dtype=x.dtype, device=x.device)
    batch, channels, height, width = x.shape
    flat = x.reshape(batch * channels, 1, height, width)
    flat = F.conv2d(pad_edge(flat, radius, radius, 0, 0), kernel.view(1, 1, 1, -1))
    flat = F.conv2d(pad_edge(flat, 0, 0, radius, radius), kernel.view(1, 1, -1, 1))
    return flat.view(batch, channels, height, width)


def box(x: Tensor, radius: int) -> Tensor:
    """Mean over a square of 2 * radius + 1 pixels."""
    padded = pad_edge(x, radius, radius, radius, radius)
    return F.avg_pool2d(F.avg_pool2d(padded, (1, 2 * radius + 1), 1), (2 * radius + 1, 1), 1)


def guided(x: Tensor, guide: Tensor, radius: int, eps: float) -> Tensor:
    """Guided filter (He 2010) with a one-channel guide."""
    mean_x, mean_g = box(x, radius), box(guide, radius)
    cov = box(x * guide, radius) - mean_x * mean_g
    var = box(guide * guide, radius) - mean_g * mean_g
    a = cov / (var + eps)
    b = mean_x - a * mean_g
    return box(a, radius) * guide + box(b, radius)


def bloom(rgb: Tensor, threshold: float, sigma: float, gain: float) -> Tensor:
    """Adds the glow of what is brighter than ``threshold`` (screen blend)."""
    bright = rgb * smoothstep(luma(rgb), threshold, 1.0)
    glow = (0.6 * blur(bright, sigma) + 0.4 * blur(bright, 3 * sigma)) * gain
    return 1 - (1 - rgb.clamp(0, 1)) * (1 - glow.clamp(0, 1))


def lift_dark(light: Tensor, strength: float = 0.5, target: float = 0.55) -> Tensor:
    """Raises large dark areas towards ``target`` (gain up to about 2), keeps local contrast."""
    base = blur(guided(light, light, 16, 0.02), 8.0)
    gain = (target / (base + 0.06)).clamp(1.0, 4.0) ** strength
    return (light * gain).clamp(0, 1)


# ---------------------------------------------------------------- sampling and structure
def pixel_grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates from the top left corner, as [1,1,H,W] each (x, y)."""
    height, width = x.shape[-2:]
    ys = torch.arange(height, dtype=x.dtype, device=x.device).view(1, 1, height, 1)
    xs = torch.arange(width, dtype=x.dtype, device=x.device).view(1, 1, 1, width)
    return xs.expand(1, 1, height, width), ys.expand(1, 1, height, width)


def sample_at(x: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Bilinear lookup at pixel coordinates [B,1,h,w] -> [B,C,h,w]; the edge is repeated."""
    height, width = x.shape[-2:]
    grid = torch.stack([px[:, 0] * (2 / (width - 1)) - 1, py[:, 0] * (2 / (height - 1)) - 1], -1)
    if grid.shape[0] != x.shape[0]:
        grid = grid.expand(x.shape[0], -1, -1, -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scharr derivatives per pixel of every channel (unit: value per pixel)."""
    p = pad_edge(x, 1, 1, 1, 1)
    sy = (3 * p[..., :-2, :] + 10 * p[..., 1:-1, :] + 3 * p[..., 2:, :]) / 16
    sx = (3 * p[..., :-2] + 10 * p[..., 1:-1] + 3 * p[..., 2:]) / 16
    return (sy[..., 2:] - sy[..., :-2]) / 2, (sx[..., 2:, :] - sx[..., :-2, :]) / 2


def edge_strength(x: Tensor) -> Tensor:
    """Length of the gradient over all channels, [B,1,H,W]."""
    gx, gy = gradients(x)
    return (gx * gx + gy * gy).sum(1, keepdim=True).clamp(min=1e-12).sqrt()


def structure_tensor(x: Tensor, sigma: float) -> Tensor:
    """Smoothed structure tensor [B,3,H,W] = (xx, xy, yy), summed over channels."""
    gx, gy = gradients(x)
    tensor = torch.cat(
        [(gx * gx).sum(1, keepdim=True), (gx * gy).sum(1, keepdim=True), (gy * gy).sum(1, keepdim=True)], 1
    )
    return blur(tensor, sigma)


def tangent(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vector along the local structure and anisotropy 0..1: (tx, ty, anisotropy)."""
    xx, xy, yy = tensor.split(1, 1)
    half = 0.5 * torch.atan2(2 * xy, xx - yy)  # direction of the strongest change
    spread = ((xx - yy) ** 2 + 4 * xy * xy).clamp(min=1e-20).sqrt()
    return -torch.sin(half), torch.cos(half), spread / (xx + yy + 1e-7)


def along_flow(x: Tensor, tensor: Tensor, steps: int, step: float = 1.0) -> Tensor:
    """Line integral: Gaussian mean of ``x`` along the structure, ``steps`` each way."""
    xs, ys = pixel_grid(x)
    tx, ty, _ = tangent(tensor)
    packed = torch.cat([x, tensor], 1)
    channels = x.shape[1]
    total, weight = x.clone(), 1.0
    for sign in (1.0, -1.0):
        dx, dy = tx * sign, ty * sign
        px, py = xs + dx * step, ys + dy * step
        for k in range(1, steps + 1):
            here = sample_at(packed, px, py)
            w = math.exp(-2.0 * (k / steps) ** 2)
            total = total + w * here[:, :channels]
            weight += w
            if k == steps:
                break
            nx, ny, _ = tangent(here[:, channels:])
            turn = torch.where(nx * dx + ny * dy < 0, -1.0, 1.0)
            dx, dy = nx * turn, ny * turn
            px, py = px + dx * step, py + dy * step
    return total / weight


def kuwahara(
    rgb: Tensor, radius: float, tensor_sigma: float = 2.5, sharpness: float = 8.0, stretch: float = 1.0
) -> Tensor:
    """Anisotropic Kuwahara filter (Kyprianidis 2009) with polar sampling: 8 sectors of 6 taps.

    Flattens texture into strokes along the structure and keeps edges crisp.
    """
    tensor = structure_tensor(rgb, tensor_sigma)
    tx, ty, anisotropy = tangent(tensor)
    long = radius * (1 + stretch * anisotropy)
    short = radius / (1 + stretch * anisotropy)
    soft = blur(rgb, max(0.5, 0.12 * radius))
    xs, ys = pixel_grid(rgb)
    rings = ((0.4, (0.0,)), (0.72, (-0.25, 0.25)), (1.0, (-0.33, 0.0, 0.33)))
    total, norm = torch.zeros_like(rgb), torch.zeros_like(rgb[:, :1])
    for sector in range(8):
        mean, square, weight = soft * 0.6, soft * soft * 0.6, 0.6
        for ring, spreads in rings:
            for spread in spreads:
                angle = (sector + spread) * math.pi / 4
                u, v = ring * math.cos(angle) * long, ring * math.sin(angle) * short
                here = sample_at(soft, xs + u * tx - v * ty, ys + u * ty + v * tx)
                mean, square, weight = mean + here, square + here * here, weight + 1
        mean, square = mean / weight, square / weight
        deviation = (square - mean * mean).clamp(min=0).sum(1, keepdim=True).sqrt()
        w = 1 / (1 + (deviation * 40) ** sharpness)
        total, norm = total + w * mean, norm + w
    return total / norm.clamp(min=1e-20)


# ---------------------------------------------------------------- lines
def flow_dog(x: Tensor, sigma: float, tensor: Tensor, steps: int = 5, tau: float = 0.99, ratio: float = 1.6) -> Tensor:
    """Difference of Gaussians smoothed along the flow (Kang 2007): below 0 on dark lines."""
    response = blur(x, sigma) - tau * blur(x, sigma * ratio)
    return along_flow(response, tensor, steps)


def ink_lines(
    rgb: Tensor,
    sigma: float = 1.0,
    gain: float = 60.0,
    floor: float = 0.008,
    tensor_sigma: float = 2.5,
    steps: int = 6,
    adapt: float = 0.0,
) -> Tensor:
    """Darkness of drawn lines at edges, 0 paper to 1 ink, [B,1,H,W].

    Lines lie on the dark side of an edge, so outlines stay thin and closed. ``adapt`` 0..1
    brings busy and faint surroundings to the same amount of line.
    """
    lab = to_oklab(rgb)
    guide = torch.cat([lab[:, :1], 1.4 * lab[:, 1:]], 1)
    tensor = structure_tensor(guide, tensor_sigma)
    tone = blur(lab[:, :1], 0.6)
    response = flow_dog(tone, sigma, tensor, steps, tau=1.0)
    if adapt:
        level = blur(response.abs(), 24.0)
        response = response * (0.012 / (level + 0.002)).clamp(0.35, 3.0) ** adapt
    return torch.tanh(((-response - floor) * gain).clamp(min=0))


def xdog(x: Tensor, sigma: float, sharp: float, threshold: float, phi: float, tensor: Tensor, steps: int = 5) -> Tensor:
    """Flow-based XDoG (Winnemoeller 2012): tone and line in one, 0 ink to 1 paper."""
    fine, coarse = blur(x, sigma), blur(x, sigma * 1.6)
    sharpened = along_flow((1 + sharp) * fine - sharp * coarse, tensor, steps)
    return torch.where(
        sharpened >= threshold, torch.ones_like(sharpened), 1 + torch.tanh(phi * (sharpened - threshold))
    ).clamp(0, 1)


# ---------------------------------------------------------------- bound to the screen
def hash_tile(size: int, seed: int, like: Tensor) -> Tensor:
    """A fixed tile [1,1,size,size] of values 0..1 from an integer hash; the same everywhere."""
    index = torch.arange(size * size, dtype=torch.int64)
    h = (index * 2654435761 + seed * 40503 + 12345) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 73244475) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 73244475) & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return (h.double() / 2**32).to(like.dtype).to(like.device).view(1, 1, size, size)


def tiled(tile: Tensor, like: Tensor) -> Tensor:
    """Repeats a tile over the frame from the top left corner."""
    height, width = like.shape[-2:]
    size = tile.shape[-1]
    repeat = tile.repeat(1, 1, -(-height // size), -(-width // size))
    return repeat[..., :height, :width]


def paper_grain(like: Tensor, size: int = 32, seed: int = 1, sigma: float = 0.7) -> Tensor:
    """Periodic paper tooth, mean 0, standard deviation 1, [1,1,H,W]."""
    tile = hash_tile(size, seed, like)
    padded = F.pad(tile, (8, 8, 8, 8), mode="circular")
    soft = blur(padded, sigma)[..., 8:-8, 8:-8]
    soft = (soft - soft.mean()) / soft.std()
    return tiled(soft, like)


def vignette(like: Tensor, reach: float = 96.0, depth: float = 0.6) -> Tensor:
    """Gain 1 inside, ``1 - depth`` towards corners; depends on pixels to the frame's border."""
    xs, ys = pixel_grid(like)
    height, width = like.shape[-2:]

    def side(position: Tensor, length: int) -> Tensor:
        border = torch.minimum(position, length - 1 - position)
        return (1 - (border / min(reach, length / 2.5)).clamp(0, 1)) ** 2

    fall = (side(xs, width) + side(ys, height)).clamp(0, 1)
    return 1 - depth * smoothstep(fall, 0.0, 1.0)
