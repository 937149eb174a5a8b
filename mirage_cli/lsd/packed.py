"""The denoiser for a CPU: the network of ``model.LSDNet``, with its weights laid out as oneDNN wants them.

Three things that plain torch does every frame are done once a prompt instead, or not at all:

* weights are brought into the convolutions' own blocked layout (torch reorders them at each call);
* a block's second modulation is linear and follows a convolution, so it goes into that convolution's
  weights and bias; the first becomes the affine part of the layer norm before it;
* SiLU and sums with a skip connection happen inside the convolution that makes their operand.

These are the operators that torch.compile uses on CPUs (``mkldnn::_convolution_pointwise``); no compiler
is needed to call them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirage_cli.lsd.layers import BlockOps
from mirage_cli.lsd.model import PICTURE_CHANNELS, POSITION_CHANNELS, UNSHUFFLE, LSDNet, Past, Prediction


class PackedConv:
    """A convolution for inputs of one size, [1, C, H, W] in channels_last.

    Args:
        weight: [c, C, k, k]; bias: [c] or None.
        size: (height, width) of the input, by which oneDNN chooses the layout.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, size: tuple[int, int], stride: int = 1, padding: int = 0
    ) -> None:
        self.stride, self.padding, self.bias = [stride] * 2, [padding] * 2, bias
        shape = [1, weight.shape[1], *size]
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
            weight.contiguous().to_mkldnn(),
            self.padding,
            self.stride,
            [1, 1],
            1,
            shape,  # type: ignore[call-arg]  # torch's stub lacks it
        )

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """The convolution, then "none", "swish" (SiLU)."""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, [1, 1], 1, activation, [], ""
        )

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The convolution of x, added to ``other`` in place; returns that."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            other, x, self.weight, self.bias, self.padding, self.stride, [1, 1], 1, "add", 1.0, None, [], None
        )


@dataclass
class FoldedBlock:
    """What a residual block is under one modulation: its norm's affine part, and its first convolution."""

    scale: Tensor
    shift: Tensor
    conv1: PackedConv


class PackedNet:
    """Called like ``LSDNet``, for one picture of one size, with ``fold(modulation)`` for the modulation.

    Args:
        net: on the CPU.
        height, width: of the frames, padded.
    """

    def __init__(self, net: LSDNet, height: int, width: int) -> None:
        self.net = net
        sizes = [(height >> shift, width >> shift) for shift in (2, 3, 4)]

        def conv(layer: nn.Conv2d, level: int) -> PackedConv:
            return PackedConv(layer.weight, layer.bias, sizes[level], layer.stride[0], int(layer.padding[0]))

        def cells(weight: Tensor, bias: Tensor | None, size: tuple[int, int]) -> PackedConv:
            """A 1x1 convolution of unshuffled pixels, as one of stride 4 on the pixels themselves."""
            return PackedConv(weight.reshape(len(weight), -1, UNSHUFFLE, UNSHUFFLE), bias, size, stride=UNSHUFFLE)

        def joined(layer: nn.Conv2d, level: int) -> tuple[PackedConv, PackedConv]:
            """The parts of a 1x1 convolution for the doubled map and for the skip connection."""
            skip = net.config.widths[level]
            small, wide = layer.weight[:, :-skip], layer.weight[:, -skip:]
            return PackedConv(small, None, sizes[level + 1]), PackedConv(wide, layer.bias, sizes[level])

        self.stem = cells(net.stem.weight[:, PICTURE_CHANNELS:-POSITION_CHANNELS], None, (height, width))
        self.older = cells(net.older.weight, net.older.bias, (height // 2, width // 2))
        self.down0, self.down1, self.out = conv(net.down0, 0), conv(net.down1, 1), conv(net.out, 0)
        self.up1, self.up0 = joined(net.up1, 1), joined(net.up0, 0)
        stages = ((net.encoder0, 0), (net.encoder1, 1), (net.middle, 2), (net.decoder1, 1), (net.decoder0, 0))
        levels = [level for stage, level in stages for _ in stage]
        self.blocks = [(block, sizes[level]) for block, level in zip(net.blocks(), levels)]
        self.conv2 = [PackedConv(b.conv2.weight, b.conv2.bias, size, padding=1) for b, size in self.blocks]

    def fold(self, modulation: Tensor) -> list[FoldedBlock]:
        """All blocks under ``LSDNet.modulation``'s result [1, M]; once a prompt and step."""
        folded = []
        films = modulation.split([b.film_width for b, _ in self.blocks], dim=1)
        for (block, size), film in zip(self.blocks, films):
            scale1, shift1, scale2, shift2 = film[0].float().chunk(4)
            conv, dtype = block.conv1, block.conv1.weight.dtype
            weight = conv.weight.float() * (1 + scale2)[:, None, None, None]
            assert conv.bias is not None
            bias = conv.bias.float() * (1 + scale2) + shift2
            conv1 = PackedConv(weight.to(dtype), bias.to(dtype), size, padding=1)
            folded.append(FoldedBlock((1 + scale1).to(dtype), shift1.to(dtype), conv1))
        return folded

    def __call__(
        self,
        x_t: Tensor,
        frame: Tensor,
        past: Past,
        positions: Tensor,
        folded: list[FoldedBlock],
        ops: BlockOps | None = None,
        constant: Tensor | None = None,
    ) -> Prediction:
        """As ``LSDNet.forward``, whose steps these are."""
        net, dtype = self.net, self.net.stem.weight.dtype
        if constant is None:
            constant = net.stem_constant(x_t, positions)
        blocks = iter(zip(folded, self.conv2))

        def run(count: int, x: Tensor) -> Tensor:
            for _ in range(count):
                x = _residual(x, *next(blocks))
            return x

        pictures = torch.cat([x.to(dtype) for x in (frame, past.last, past.input_luma)], dim=1)
        skip0 = run(len(net.encoder0), self.stem(_nhwc(pictures)).add_(constant))
        skip1 = run(len(net.encoder1), self.down0.plus(skip0, self.older(_nhwc(past.older.to(dtype)))))
        half = len(net.middle) // 2
        x = net.attention(run(half, self.down1(skip1)), past.memory)
        x = run(len(net.middle) - half, x)
        tokens = F.adaptive_avg_pool2d(x, net.config.memory_grid).flatten(2).transpose(1, 2)
        x = run(len(net.decoder1), _double_and_join(self.up1, x, skip1))
        x = run(len(net.decoder0), _double_and_join(self.up0, x, skip0))
        return net.finish(self.out(x), frame, past, tokens)


def _nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _residual(x: Tensor, block: FoldedBlock, conv2: PackedConv) -> Tensor:
    """A residual block; x itself takes the sum."""
    h = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), block.scale, block.shift).permute(0, 3, 1, 2)
    return conv2.plus(block.conv1(F.silu(h, inplace=True), "swish"), x)


def _double_and_join(convs: tuple[PackedConv, PackedConv], x: Tensor, skip: Tensor) -> Tensor:
    """x doubled in size (nearest) and joined with the skip connection, through a 1x1 convolution of both."""
    small, wide = convs
    return wide.plus(skip, F.interpolate(small(x), scale_factor=2, mode="nearest"))


def packed(net: LSDNet, height: int, width: int) -> tuple[PackedNet | None, str]:
    """A ``PackedNet`` where torch has what it needs and gives the same numbers, else None; and the reason."""
    if not torch.backends.mkldnn.is_available():
        return None, "plain torch: it was built without oneDNN"
    try:
        if (gap := _self_test(net.stem.weight.dtype)) > 0.05:
            return None, f"plain torch: packed convolutions differ by {gap:.3f}"
        return PackedNet(net, height, width), "oneDNN convolutions on packed weights"
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        return None, f"plain torch: {str(error).splitlines()[0][:90]}"


def _self_test(dtype: torch.dtype) -> float:
    """Largest difference to float32 torch of what ``PackedConv`` does, on small random numbers."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    x, other, weight, bias = random(1, 16, 8, 8), random(1, 16, 8, 8), random(16, 16, 3, 3), random(16)
    wanted = F.conv2d(x, weight, bias, padding=1)
    conv = PackedConv(weight.to(dtype), bias.to(dtype), (8, 8), padding=1)
    given = conv(_nhwc(x.to(dtype)), "swish"), conv.plus(_nhwc(x.to(dtype)), _nhwc(other.to(dtype)).clone())
    return max(float((a.float() - b).abs().max()) for a, b in zip(given, (F.silu(wanted), wanted + other)))
