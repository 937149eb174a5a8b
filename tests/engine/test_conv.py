"""Convolutions of a plan: the compiled shapes, weights in the order of the kernel, what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.fake_gpu import FakeGpu
from mirage_cli.kernels.shapes import CONV_SHAPES, MAX_SHARED_BYTES, SLICE, WARPS

from mirage_cli.engine.conv import ConvCall, ConvContext, Convolutions, pack_weights
from mirage_cli.engine.plan import Plan


@pytest.mark.parametrize("name", CONV_SHAPES)
def test_shapes_are_such_that_the_kernel_can_be_compiled(name):
    """What static_asserts in conv.cuh say, and the kernel's arithmetic takes for granted."""
    shape = CONV_SHAPES[name]
    assert shape.slices * shape.pixel_warps * shape.channel_warps == WARPS
    assert shape.taps in (1, 9) and shape.stride in (1, 2)
    assert shape.taps == 1 or not shape.doubled
    assert shape.taps == 1 or shape.channels // SLICE % shape.slices == 0
    assert shape.channels % SLICE == shape.second_channels % SLICE == 0
    assert shape.shared_bytes <= MAX_SHARED_BYTES  # what an RTX 3090 gives a block
    assert shape.padded_depth - shape.depth < shape.padded_depth / shape.stages
    assert shape.flops(3, 5, 32) == 2 * 3 * 5 * 32 * (shape.channels * shape.taps + shape.second_channels)


def test_packed_weights_hold_every_weight_where_the_kernel_reads_it():
    shape = CONV_SHAPES["down0"]
    first, second = torch.randn(128, 64, 3, 3), torch.randn(128, 96, 1, 1)
    packed = pack_weights(shape, first, second)
    assert packed.shape == (128 // shape.block_channels, shape.padded_depth // SLICE, shape.block_channels, 2, 8)
    flat = packed.flatten()
    for n, k, value in [
        (0, 0, first[0, 0, 0, 0]),
        (5, 64 * 4 + 9, first[5, 9, 1, 1]),
        (127, 576 + 95, second[127, 95, 0, 0]),
    ]:
        row = n % shape.block_channels
        half = (k % SLICE) // 8 ^ (row >> 2 & 1)
        at = (
            (n // shape.block_channels * (shape.padded_depth // SLICE) + k // SLICE) * shape.block_channels + row
        ) * SLICE
        assert flat[at + half * 8 + k % 8] == value
    assert packed.abs().sum() == pytest.approx(float(first.abs().sum() + second.abs().sum()), rel=1e-5)
    with pytest.raises(ValueError, match="depth"):
        pack_weights(shape, first)


@pytest.fixture
def convolutions(monkeypatch) -> Convolutions:
    gpu = FakeGpu(monkeypatch)
    plan = Plan(torch.device("cpu"), torch.float16, gpu.kernels("mirage_up1_f16", "mirage_down1_f16"))
    nothing = torch.zeros(1)
    return Convolutions(plan, ConvContext(nothing.int(), torch.zeros(2, 1, 1, 8), torch.zeros(1, 3, 256), nothing))


def down1() -> ConvCall:
    """[8 x 12 pixels, 128] -> [4 x 6, 256]."""
    x, out = torch.zeros(96, 128), torch.zeros(24, 256)
    weights = (torch.zeros(256, 128, 3, 3),)
    return ConvCall(layer="down1", size=(4, 6), in0=x, weights=weights, bias=None, out=out)


def test_convolution_covers_the_output_with_tiles_and_shares_packed_weights(convolutions):
    call, plan = down1(), convolutions.plan
    convolutions.add(call)
    convolutions.add(replace(call, out=torch.zeros(24, 256)))
    params, again = (launch.arguments[0] for launch in plan.launches)
    assert plan.launches[0].grid == (1, 8, 1) and (params.tiles_x, params.tiles) == (1, 1)
    assert (params.height, params.width, params.extra) == (4, 6, 0) and params.in1 is None
    assert params.weights == again.weights and params.out != again.out
    assert list(convolutions.calls) == [0, 1] and convolutions.calls[0].bias.tolist() == [0.0] * 256
    assert call.flops == 2 * 4 * 6 * 256 * 128 * 9 and call.channels == 256


def test_convolution_of_other_channels_is_refused(convolutions):
    call = down1()
    with pytest.raises(ValueError, match="down1: in0 has 64 channels, the layer 128"):
        convolutions.add(replace(call, in0=torch.zeros(96, 64)))
    with pytest.raises(ValueError, match="down1: out has 128 channels, the layer 256"):
        convolutions.add(replace(call, out=torch.zeros(24, 128)))
    with pytest.raises(ValueError, match="up1: a second input of 128 channels"):
        convolutions.add(
            replace(call, layer="up1", in0=torch.zeros(6, 256), weights=(torch.zeros(128, 384),), out=None)
        )
    assert not convolutions.plan.nodes
