"""What the kernels of single ops ask of their tensors, and how these are addressed.

A tensor that a kernel cannot take is ``Refused`` with the reason.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}  # as the kernels number them
CHUNK = 8  # channels a thread takes at a time
THREADS = 256


class Refused(Exception):
    """A kernel cannot take these tensors; the message says why."""


def require(condition: bool, why: str) -> None:
    if not condition:
        raise Refused(why)


def u32(value: int) -> np.uint32:
    require(0 <= value < 2**32, f"{value} does not fit 32 bits")
    return np.uint32(value)


def i32(value: int) -> np.int32:
    require(-(2**31) <= value < 2**31, f"{value} does not fit 32 bits")
    return np.int32(value)


def blocks(threads: int) -> int:
    return -(-threads // THREADS)


class Cells:
    """A channels_last [B, C, h, w] tensor, or a channel slice of one, as the kernels address it.

    ``row`` and ``pixel`` are elements from a row, and from a pixel, to the next. Strides of axes of
    size one are meaningless in torch and are made up here.
    """

    def __init__(self, name: str, tensor: Tensor) -> None:
        require(tensor.dim() == 4, f"{name} has {tensor.dim()} axes, not 4")
        require(tensor.dtype in DTYPES, f"{name} is {tensor.dtype}; fp16, bf16 and fp32 are there")
        require(tensor.numel() > 0, f"{name} is empty")
        batch, channels, height, width = tensor.shape
        require(channels % CHUNK == 0, f"{name} has {channels} channels, not a multiple of {CHUNK}")
        require(tensor.stride(1) == 1, f"{name} is not channels_last (strides {tuple(tensor.stride())})")
        strides = tensor.stride()
        self.pixel = strides[3] if width > 1 else strides[2] if height > 1 else strides[0] if batch > 1 else channels
        self.row = strides[2] if height > 1 else self.pixel * width
        self.flat = self.row == self.pixel * width and (batch == 1 or strides[0] == self.row * height)
        self.tensor = tensor
        self.size = tensor.element_size()
        self.pixels = batch * height * width
        require(
            tensor.data_ptr() % 16 == 0 and self.pixel % CHUNK == 0 and self.row % CHUNK == 0,
            f"{name} is not aligned to 16 bytes (strides {strides})",
        )

    @property
    def row_bytes(self) -> np.uint32:
        return u32(self.row * self.size)

    @property
    def pixel_bytes(self) -> np.uint32:
        return u32(self.pixel * self.size)


def flat(name: str, tensor: Tensor) -> Cells:
    """``Cells`` whose pixels are equally far apart from first to last."""
    cells = Cells(name, tensor)
    require(cells.flat, f"{name} has gaps between rows (strides {tuple(tensor.stride())})")
    return cells


def check_vector(name: str, tensor: Tensor, channels: int, like: Tensor) -> Tensor:
    """A [C] or [1, C] tensor of ``like``'s dtype that a kernel may read in chunks."""
    require(tensor.numel() == channels, f"{name} has {tensor.numel()} values for {channels} channels")
    require(tensor.dtype == like.dtype, f"{name} is {tensor.dtype}, the picture {like.dtype}")
    require(tensor.stride(-1) == 1 or channels == 1, f"{name} is strided")
    require(tensor.data_ptr() % 16 == 0, f"{name} is not aligned to 16 bytes")
    return tensor


def new_like(x: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A new channels_last tensor of x's dtype and device."""
    return torch.empty(shape or tuple(x.shape), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def same(reference_tensor: Tensor, **others: Tensor | None) -> None:
    """All others have the first's shape and dtype."""
    for name, other in others.items():
        if other is not None:
            require(
                other.shape == reference_tensor.shape,
                f"{name} is {tuple(other.shape)}, not {tuple(reference_tensor.shape)}",
            )
            require(other.dtype == reference_tensor.dtype, f"{name} is {other.dtype}, not {reference_tensor.dtype}")
