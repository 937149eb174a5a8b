"""From levels to the numbers of a network and back; a painter's first and last operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.config import Size


def padded(size: Size, stride: int) -> tuple[int, int]:
    """(height, width), multiples of ``stride``, that hold frames of ``size`` (width, height)."""
    width, height = (-(-side // stride) * stride for side in size)
    return height, width


def from_levels(rgb: Tensor, height: int, width: int) -> Tensor:
    """uint8 [h, w, 3] -> [1, 3, height, width] in [-1, 1]; the last row and column are repeated."""
    frame = rgb.permute(2, 0, 1)[None].float() * (1 / 127.5) - 1
    bottom, right = height - frame.shape[-2], width - frame.shape[-1]
    if bottom or right:
        frame = F.pad(frame, (0, right, 0, bottom), mode="replicate")
    return frame


def to_levels(picture: Tensor, size: Size) -> Tensor:
    """[1, 3, H, W] in [-1, 1] -> uint8 [height, width, 3] of ``size`` (width, height), the padding cut off."""
    width, height = size
    picture = picture[0, :, :height, :width]
    levels = (picture * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous()
