"""The ops on the cells of a picture against float64 closed forms, in torch and as PTX kernels.

The kernels run twice: on the CPU through the emulator (every instruction of the shipped .ptx, with
checks of bounds and alignment), and with ``-m gpu`` on the GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.op_cases import Maker, assert_as_good, float64, silu, true_norm
from helpers.op_dtypes import dtypes

from mirage_cli.engine import reference

NORM_SHAPES = [
    (8, 1, 1),
    (64, 5, 7),
    (72, 3, 3),
    (96, 3, 5),
    (128, 2, 9),
    (192, 3, 3),
    (256, 3, 5),
    (384, 1, 7),
    (512, 2, 3),
]
MODES = {"all": (True, True), "plain": (False, False), "norm": (True, False), "silu": (False, True)}


@dtypes
@pytest.mark.parametrize(("normalise", "activate"), MODES.values(), ids=MODES.keys())
def test_norm_reference(dtype, normalise, activate):
    make = Maker("cpu", dtype)
    x, scale, shift = make.cells(72, 3, 5, spread=2), make.vector(72, 0.3), make.vector(72, 0.5)
    result = reference.channel_norm_film_silu(x, scale, shift, normalise=normalise, activate=activate)
    truth = true_norm(float64(x), float64(scale), float64(shift), normalise, activate)
    assert np.abs(float64(result)[0] - truth).max() <= 4 * torch.finfo(dtype).eps * max(1, np.abs(truth).max())
    batched = reference.channel_norm_film_silu(x, scale[None], shift[None], normalise=normalise, activate=activate)
    assert torch.equal(batched, result)


@dtypes
@pytest.mark.parametrize(("channels", "height", "width"), NORM_SHAPES)
def test_norm_ptx(ptx, dtype, channels, height, width):
    make = Maker(ptx.device, dtype, seed=channels)
    x = make.cells(channels, height, width, spread=2, slice_of=channels + 24)
    scale, shift = make.vector(channels, 0.3), make.vector(channels, 0.5)
    for normalise, activate in MODES.values():
        how = {"normalise": normalise, "activate": activate}
        out = make.poisoned(channels, height, width, slice_of=channels + 16)
        assert ptx.channel_norm_film_silu(x, scale, shift, out=out, **how) is out
        by_torch = reference.channel_norm_film_silu(x, scale, shift, **how)
        assert_as_good(out, by_torch, true_norm(float64(x), float64(scale), float64(shift), **how)[None])


@dtypes
def test_norm_ptx_without_film_and_in_place(ptx, dtype):
    make = Maker(ptx.device, dtype)
    x = make.cells(64, 5, 3)
    zero = np.zeros(64)
    truth = true_norm(float64(x), zero, zero)[None]
    by_torch = reference.channel_norm_film_silu(x)
    assert_as_good(ptx.channel_norm_film_silu(x), by_torch, truth)
    ptx.channel_norm_film_silu(x, out=x)
    assert_as_good(x, by_torch, truth)


@dtypes
def test_norm_ptx_of_hard_values(ptx, dtype):
    """A large mean with a small spread, a constant pixel, and SiLU far from zero."""
    make = Maker(ptx.device, dtype)
    x = make.cells(64, 1, 4, spread=0.25)
    x[:, :, 0, 0] += 30
    x[:, :, 0, 1] = 3
    zero = torch.zeros(64, dtype=dtype, device=ptx.device)
    by_torch = reference.channel_norm_film_silu(x, zero, zero)
    assert_as_good(
        ptx.channel_norm_film_silu(x, zero, zero), by_torch, true_norm(float64(x), float64(zero), float64(zero))[None]
    )
    far = make.cells(64, 1, 4)
    far[0, :8, 0, 0] = torch.tensor([-100, -60, -20, -1, 0, 1, 20, 100], dtype=dtype)
    result = ptx.channel_norm_film_silu(far, normalise=False)
    assert_as_good(result, reference.channel_norm_film_silu(far, normalise=False), silu(float64(far)))


def test_silu_of_an_overflowing_exponential_is_zero(ptx):
    x = torch.full((1, 8, 1, 1), -1e4, device=ptx.device).to(memory_format=torch.channels_last)
    assert (ptx.channel_norm_film_silu(x, normalise=False) == 0).all()


@dtypes
@pytest.mark.parametrize(("channels", "height", "width"), [(8, 1, 1), (48, 5, 7), (64, 3, 3), (256, 3, 11)])
def test_add_ptx(ptx, dtype, channels, height, width):
    make = Maker(ptx.device, dtype)
    x = make.cells(channels, height, width, slice_of=channels + 8)
    residual, bias = make.cells(channels, height, width), make.vector(channels)
    plain = float64(x) + float64(bias)[:, None, None]
    cases = [
        (ptx.residual_add(x, residual), reference.residual_add(x, residual), float64(x) + float64(residual)),
        (
            ptx.residual_add(x, residual, bias=bias, activate=True),
            reference.residual_add(x, residual, bias=bias, activate=True),
            silu(plain + float64(residual)),
        ),
    ]
    for ours, theirs, truth in cases:
        assert np.abs(float64(theirs) - truth).max() <= 4 * torch.finfo(dtype).eps * np.abs(truth).max()
        assert_as_good(ours, theirs, truth)
    out = make.poisoned(channels, height, width, slice_of=channels + 16)
    assert ptx.residual_add(x, residual, out=out) is out
    assert torch.equal(out, ptx.residual_add(x, residual))
    ptx.residual_add(residual, x, out=residual)  # in place
    assert torch.equal(out, residual)


@dtypes
@pytest.mark.parametrize(("c1", "c2", "height", "width"), [(8, 8, 1, 1), (64, 24, 3, 5), (16, 128, 5, 2)])
def test_upsample_concat(ptx, dtype, c1, c2, height, width):
    make = Maker(ptx.device, dtype)
    x = make.cells(c1, height, width, slice_of=c1 + 8)
    skip = make.cells(c2, 2 * height, 2 * width, slice_of=c2 + 16)
    truth = np.concatenate((float64(x).repeat(2, 2).repeat(2, 3), float64(skip)), 1)
    out = make.poisoned(c1 + c2, 2 * height, 2 * width)
    for result in (
        ptx.upsample_concat(x, skip),
        ptx.upsample_concat(x, skip, out=out),
        reference.upsample_concat(x, skip),
    ):
        assert np.array_equal(float64(result), truth)
