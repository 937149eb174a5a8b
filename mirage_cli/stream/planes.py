"""What motion and history are computed with, picture by picture: means, windows, scaling, warps.

torch does these on a GPU and in training. On a CPU its pooling, interpolation and sampling are scalar
code, and OpenCV gives the same numbers in a tenth to a half of the time; so float32 pictures on a CPU
that want no gradient go there. Shapes, borders and positions of pixels are the same for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Fill = Callable[[np.ndarray, np.ndarray], None]  # a plane -> its result, in place


def _for_opencv(*tensors: Tensor) -> bool:
    return all(x.device.type == "cpu" and x.dtype == torch.float32 and not x.requires_grad for x in tensors)


def _filled(x: Tensor, height: int, width: int, fill: Fill) -> Tensor:
    """A tensor of x's pictures at another size, each plane made by ``fill(plane, result)`` in place."""
    result = torch.empty(*x.shape[:-2], height, width)
    sources, targets = x.contiguous().numpy(), result.numpy()
    for index in np.ndindex(*x.shape[:-2]):
        fill(sources[index], targets[index])
    return result


def shrink(x: Tensor, factor: int) -> Tensor:
    """Means of blocks of ``factor`` pixels a side: [B, C, H, W] -> [B, C, H/factor, W/factor]."""
    height, width = x.shape[-2] // factor, x.shape[-1] // factor
    if not _for_opencv(x) or x.shape[-2] % factor or x.shape[-1] % factor:
        return F.avg_pool2d(x, factor)

    def fill(plane: np.ndarray, result: np.ndarray) -> None:
        cv2.resize(plane, (width, height), dst=result, interpolation=cv2.INTER_AREA)

    return _filled(x, height, width, fill)


def box(x: Tensor, radius: int) -> Tensor:
    """Mean over a square window; borders count only what lies inside. [B, C, H, W] -> same."""
    if not _for_opencv(x):
        if torch.compiler.is_compiling():
            return _box_of_sums(x, radius)
        size = 2 * radius + 1  # rows, then columns: a pooling adds up its whole window for each pixel
        rows = F.avg_pool2d(x, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)
        return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, radius), count_include_pad=False)
    height, width = x.shape[-2:]

    def sums(plane: np.ndarray, result: np.ndarray) -> None:
        window = (2 * radius + 1,) * 2
        cv2.boxFilter(plane, -1, window, dst=result, normalize=False, borderType=cv2.BORDER_CONSTANT)

    if len(x) == 1 and x.shape[1] > 8 and height * width > 1:  # many small planes: one call for all, as channels
        inside = x[0].permute(1, 2, 0).contiguous()
        result = torch.empty_like(inside)
        sums(inside.numpy(), result.numpy())
        result = result.permute(2, 0, 1)[None]
    else:
        result = _filled(x, height, width, sums)
    return result.mul_(_box_weight(height, width, radius, x.device))


def _box_of_sums(x: Tensor, radius: int) -> Tensor:
    """The same as shifted sums, an axis at a time: torch.compile (2.11) cannot index that pooling behind a
    concatenation, and fuses these."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (radius,) * 4)
    across = torch.zeros_like(padded[..., :width])
    for shift in range(2 * radius + 1):
        across = across + padded[..., shift : shift + width]
    total = torch.zeros_like(x)
    for shift in range(2 * radius + 1):
        total = total + across[..., shift : shift + height, :]
    return total * _box_weight(height, width, radius, x.device)


@functools.lru_cache(maxsize=64)
def _box_weight(height: int, width: int, radius: int, device: torch.device) -> Tensor:
    """One over the number of pixels that ``box`` finds inside the picture: [height, width]."""

    def count(size: int) -> Tensor:
        at = torch.arange(size, device=device)
        return (at + radius).clamp(max=size - 1) - (at - radius).clamp(min=0) + 1

    return 1.0 / (count(height)[:, None] * count(width)).float()


def resize_flow(flow: Tensor, factor: int) -> Tensor:
    """Flow for a picture ``factor`` times as large, bilinear, vectors scaled along: [B, 2, h, w]."""
    if not _for_opencv(flow):
        return factor * F.interpolate(flow, scale_factor=factor, mode="bilinear", align_corners=False)
    height, width = flow.shape[-2] * factor, flow.shape[-1] * factor

    def fill(plane: np.ndarray, result: np.ndarray) -> None:
        cv2.resize(plane, (width, height), dst=result, interpolation=cv2.INTER_LINEAR)

    return _filled(flow * factor, height, width, fill)


def warp(picture: Tensor, flow: Tensor, *, cubic: bool = False) -> Tensor:
    """Backward warp: result(p) = picture(p + flow(p)), bilinear or bicubic, borders repeated.

    picture [B, C, H, W]; flow [B, 2, H, W] in pixels, x then y. -> [B, C, H, W]. Bicubic is Keys' convolution
    with a = -0.75 (IEEE Transactions on Acoustics, Speech, and Signal Processing, 1981): it keeps what bilinear
    sampling between pixels blurs, and may overshoot the picture's values. On a CPU equal to 1e-4 with OpenCV 5;
    before that its remap rounds positions to 1/32 pixel.
    """
    if not _for_opencv(picture, flow):
        grid = _sampling_grid(flow).to(picture.dtype)
        mode = "bicubic" if cubic else "bilinear"
        return F.grid_sample(picture, grid, mode=mode, padding_mode="border", align_corners=True)
    _, channels, height, width = picture.shape
    result = torch.empty(picture.shape)
    across, down = _pixel_positions(height, width)
    sampling = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    for source, vectors, target in zip(picture.contiguous().numpy(), flow, result.numpy()):
        at = (vectors[0] + across).numpy(), (vectors[1] + down).numpy()
        if channels == 4:  # four planes at once cost little more than one
            warped = cv2.remap(cv2.merge(list(source)), *at, sampling, borderMode=cv2.BORDER_REPLICATE)
            cv2.split(warped, list(target))
            continue
        for plane, warped in zip(source, target):
            cv2.remap(plane, *at, sampling, dst=warped, borderMode=cv2.BORDER_REPLICATE)
    return result


@functools.lru_cache(maxsize=16)
def _pixel_positions(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Column and row numbers, [width] and [height, 1]."""
    return torch.arange(width, dtype=torch.float32), torch.arange(height, dtype=torch.float32)[:, None]


def _sampling_grid(flow: Tensor) -> Tensor:
    """Flow in pixels [B, 2, H, W] (x, y) -> grid_sample's grid [B, H, W, 2] (align_corners=True)."""
    _, _, height, width = flow.shape
    x = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    return torch.stack((x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1), dim=-1)
