"""The shapes of the program's convolution kernels, and their weights in the order the kernels read them.

The table mirrors kernels/conv_layers.cuh (a test compares them); what the fields mean stands in
kernels/conv.cuh.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SLICE = 16  # depth of one matrix product


@dataclass(frozen=True)
class LayerShape:
    """One instance of the convolution kernel.

    Attributes:
        channels0, taps, stride, up: first input: channels, 1 or 9, 1 or 2, and 1 if it is doubled in size.
        channels1: of the second input, 0 without.
        wm, wn: warps along pixels and output channels.
        steps, ring: products a warp and stage, and stages that shared memory holds.
    """

    channels0: int
    taps: int
    stride: int
    up: int
    channels1: int
    wm: int
    wn: int
    steps: int
    ring: int

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of output pixels a block makes."""
        return 8, 16 if self.wm == 2 else 8

    @property
    def block_channels(self) -> int:
        """Output channels a block makes."""
        return 32 * self.wn

    @property
    def depth(self) -> int:
        """K: input channels times taps."""
        return self.channels0 * self.taps + self.channels1

    @property
    def stages(self) -> int:
        """Loads of weights until K is through; the last may be filled with zeros."""
        per_stage = SLICE * self.steps * (8 // (self.wm * self.wn))
        return -(-self.depth // per_stage)

    @property
    def padded_depth(self) -> int:
        return self.stages * SLICE * self.steps * (8 // (self.wm * self.wn))

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block, as Conv::SHARED_BYTES."""
        rows, columns = self.tile
        pad = 2 if self.taps == 9 else 0
        first = (
            rows * columns // 4
            if self.up
            else ((rows - 1) * self.stride + 1 + pad) * ((columns - 1) * self.stride + 1 + pad)
        )
        patch = first * -(-self.channels0 // 64) * 128 + (rows * columns * -(-self.channels1 // 64) * 128)
        slices = 8 // (self.wm * self.wn)
        stage = self.steps * slices * self.block_channels * 32
        sums = slices * rows * columns * (self.block_channels + 8) * 4
        return max(patch + min(self.ring, self.stages) * stage, sums)

    def flops(self, height: int, width: int, channels: int) -> int:
        """Of an output of that size, without the zeros of the filling."""
        return 2 * height * width * channels * self.depth


LAYERS = {
    "stem": LayerShape(112, 1, 1, 0, 48, 2, 2, 5, 1),
    "block64_first": LayerShape(64, 9, 1, 0, 0, 2, 2, 3, 6),
    "block64_second": LayerShape(64, 9, 1, 0, 0, 2, 2, 3, 6),
    "down0": LayerShape(64, 9, 2, 0, 96, 1, 2, 1, 5),
    "block128_first": LayerShape(128, 9, 1, 0, 0, 1, 2, 3, 3),
    "block128_second": LayerShape(128, 9, 1, 0, 0, 1, 2, 3, 3),
    "down1": LayerShape(128, 9, 2, 0, 0, 1, 1, 1, 3),
    "block256_first": LayerShape(256, 9, 1, 0, 0, 1, 1, 2, 3),
    "block256_second": LayerShape(256, 9, 1, 0, 0, 1, 1, 2, 3),
    "attention_in": LayerShape(256, 1, 1, 0, 0, 1, 2, 4, 1),
    "attention_out": LayerShape(256, 1, 1, 0, 0, 1, 1, 2, 1),
    "up1": LayerShape(256, 1, 1, 1, 128, 1, 2, 3, 2),
    "up0": LayerShape(128, 1, 1, 1, 64, 2, 2, 3, 2),
    "out": LayerShape(64, 9, 1, 0, 0, 2, 2, 3, 6),
}


def pack_weights(shape: LayerShape, first: Tensor, second: Tensor | None = None) -> Tensor:
    """Weights as the kernel copies them: [N / block, K / 16, block, 16], K filled with zeros.

    Args:
        first: [N, C0, 3, 3], [N, C0, 1, 1] or [N, C0]; second: [N, C1] or [N, C1, 1, 1].

    Of each 16 the two halves are exchanged in rows 4 to 7 of every eight, which keeps the banks of shared
    memory apart when eight rows are read at once.
    """
    channels = first.shape[0]
    matrix = first.permute(0, 2, 3, 1).reshape(channels, -1) if first.dim() == 4 else first
    if second is not None:
        matrix = torch.cat((matrix, second.reshape(channels, -1)), dim=1)
    if matrix.shape[1] != shape.depth or channels % shape.block_channels:
        raise ValueError(f"weights {tuple(first.shape)} for a layer of depth {shape.depth}")
    matrix = torch.nn.functional.pad(matrix, (0, shape.padded_depth - shape.depth))
    blocks = matrix.reshape(channels // shape.block_channels, shape.block_channels, -1, 2, SLICE // 2)
    rows = torch.arange(shape.block_channels, device=first.device)
    swapped = ((rows >> 2) & 1).bool()[None, :, None, None, None]
    blocks = torch.where(swapped, blocks.flip(3), blocks)
    return blocks.permute(0, 2, 1, 3, 4).contiguous()
