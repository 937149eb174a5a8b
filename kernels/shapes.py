"""Shapes that kernels are compiled for: one table behind the CUDA sources, the loader and the engine.

``build.py`` makes conv_table.cuh and constants.cuh from it; conv.cuh says how a block uses the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SLICE = 16  # depth of one tensor-core product
WARPS = 8  # of a block
WARP_PIXELS, WARP_CHANNELS = 64, 32  # what a warp makes
ROW_CHANNELS = 64  # a pixel's channels are padded to a multiple of this in shared memory
MAX_SHARED_BYTES = 101376  # what every card from Ampere on gives a block


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """One instance of the convolution kernel; in brackets its name in conv.cuh.

    Attributes:
        channels: of the first input [C0].
        taps: 1 or 9, for 1x1 and 3x3 [TAPS].
        stride: 1 or 2 [STRIDE].
        doubled: the first input is doubled in size (nearest) on the way in; for 1x1 only [UP].
        second_channels: of the second input, a 1x1 along K; 0 without [C1].
        pixel_warps, channel_warps: how the warps are laid over a block's pixels and output channels [WM, WN].
        products: a warp's products between two barriers [S].
        ring: stages of weights that shared memory holds [RING].
        head: what happens to the first input on its way in; tail: to the sums on their way out.
    """

    channels: int
    taps: int = 1
    stride: int = 1
    doubled: bool = False
    second_channels: int = 0
    pixel_warps: int
    channel_warps: int
    products: int
    ring: int
    head: str = "AS_IS"
    tail: str = "STORE"

    @property
    def slices(self) -> int:
        """Warps that share the sum over K [WK]."""
        return WARPS // (self.pixel_warps * self.channel_warps)

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of output pixels that a block makes [TH, TW]."""
        return 8, WARP_PIXELS * self.pixel_warps // 8

    @property
    def block_channels(self) -> int:
        """Output channels that a block makes [BN]."""
        return WARP_CHANNELS * self.channel_warps

    @property
    def depth(self) -> int:
        """K: input channels times taps."""
        return self.channels * self.taps + self.second_channels

    @property
    def stages(self) -> int:
        """Loads of weights until K is through; the last may be filled up with zeros [STAGES]."""
        return -(-self.depth // self._stage_depth)

    @property
    def padded_depth(self) -> int:
        """K with the zeros."""
        return self.stages * self._stage_depth

    @property
    def _stage_depth(self) -> int:
        return SLICE * self.products * self.slices

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block [SHARED_BYTES]."""
        rows, columns = self.tile
        border = 2 if self.taps == 9 else 0
        if self.doubled:
            patch_pixels = rows // 2 * (columns // 2)
        else:
            patch_pixels = ((rows - 1) * self.stride + 1 + border) * ((columns - 1) * self.stride + 1 + border)
        patch = patch_pixels * _row_bytes(self.channels) + rows * columns * _row_bytes(self.second_channels)
        stage = self.products * self.slices * self.block_channels * SLICE * 2
        sums = self.slices * rows * columns * (self.block_channels + 8) * 4
        return max(patch + min(self.ring, self.stages) * stage, sums)

    def flops(self, height: int, width: int, channels: int) -> int:
        """Of an output of that size, a multiply-add as two; the zeros that fill up K are not counted."""
        return 2 * height * width * channels * self.depth


def _row_bytes(channels: int) -> int:
    """A pixel's 16-bit channels in shared memory."""
    return -(-channels // ROW_CHANNELS) * ROW_CHANNELS * 2


# 3x3 layers of residual blocks at 1/4, 1/8 and 1/16 of the frame: fewer pixels, more channels, more slices of K.
_BLOCK64 = ConvShape(channels=64, taps=9, pixel_warps=2, channel_warps=2, products=3, ring=6)
_BLOCK128 = ConvShape(channels=128, taps=9, pixel_warps=1, channel_warps=2, products=3, ring=3)
_BLOCK256 = ConvShape(channels=256, taps=9, pixel_warps=1, channel_warps=1, products=2, ring=3)


def _first(block: ConvShape) -> ConvShape:
    """The first layer of a residual block."""
    return replace(block, head="NORM_FILM_SILU", tail="FILM_SILU")


def _second(block: ConvShape) -> ConvShape:
    """The second layer of a residual block."""
    return replace(block, tail="RESIDUAL")


CONV_SHAPES: dict[str, ConvShape] = {
    "stem": ConvShape(
        channels=112, second_channels=48, pixel_warps=2, channel_warps=2, products=5, ring=1, tail="RESIDUAL"
    ),
    "block64_first": _first(_BLOCK64),
    "block64_second": _second(_BLOCK64),
    "down0": ConvShape(
        channels=64, taps=9, stride=2, second_channels=96, pixel_warps=1, channel_warps=2, products=1, ring=5
    ),
    "block128_first": _first(_BLOCK128),
    "block128_second": _second(_BLOCK128),
    "down1": ConvShape(channels=128, taps=9, stride=2, pixel_warps=1, channel_warps=1, products=1, ring=3),
    "block256_first": _first(_BLOCK256),
    "block256_second": _second(_BLOCK256),
    "attention_in": ConvShape(channels=256, pixel_warps=1, channel_warps=2, products=4, ring=1, head="NORM"),
    "attention_out": ConvShape(channels=256, pixel_warps=1, channel_warps=1, products=2, ring=1, tail="RESIDUAL"),
    "up1": ConvShape(
        channels=256, doubled=True, second_channels=128, pixel_warps=1, channel_warps=2, products=3, ring=2
    ),
    "up0": ConvShape(
        channels=128, doubled=True, second_channels=64, pixel_warps=2, channel_warps=2, products=3, ring=2
    ),
    "out": replace(_BLOCK64, tail="COMPOSE"),
}

# Attention: a block's queries, 16 a warp; the keys and values of a head that come into shared memory at a time.
ATTENTION_QUERIES = (32, 64)
ATTENTION_KEYS = 128
HEAD_WIDTH = 64


def attention_shared_bytes(queries: int) -> int:
    """Dynamic shared memory of a block: its queries, and two buffers of keys and values."""
    return (2 * 2 * ATTENTION_KEYS + queries) * HEAD_WIDTH * 2
