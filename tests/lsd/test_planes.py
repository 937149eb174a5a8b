"""The CPU's way with pictures gives what torch's operators give, for all shapes and borders."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F

from mirage_cli.stream.planes import box, resize_flow, shrink, warp


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_torch(function, *tensors):
    """The same call by torch's operators: a wanted gradient keeps OpenCV out."""
    return function(*(t.clone().requires_grad_() if torch.is_tensor(t) else t for t in tensors)).detach()


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 3, 48, 80), (1, 4, 32, 16)])
@pytest.mark.parametrize("factor", [2, 4, 16])
def test_shrink(shape, factor):
    x = picture(*shape)
    torch.testing.assert_close(shrink(x, factor), F.avg_pool2d(x, factor), rtol=1e-5, atol=1e-6)


def test_shrink_of_sizes_that_do_not_divide():
    x = picture(1, 2, 17, 22)
    torch.testing.assert_close(shrink(x, 4), F.avg_pool2d(x, 4))


@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (1, 49, 1, 1), (1, 49, 18, 32), (2, 5, 40, 33)])
@pytest.mark.parametrize("radius", [1, 2, 3, 6, 12])
def test_box_counts_only_what_lies_inside(shape, radius):
    x = picture(*shape)
    torch.testing.assert_close(box(x, radius), by_torch(box, x, radius), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_resize_flow(factor):
    flow = picture(2, 2, 9, 13) * 6 - 3
    torch.testing.assert_close(resize_flow(flow, factor), by_torch(resize_flow, flow, factor), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_warp_repeats_the_borders(channels, cubic):
    x, flow = picture(2, channels, 24, 40), picture(2, 2, 24, 40) * 30 - 15
    torch.testing.assert_close(
        warp(x, flow, cubic=cubic), by_torch(functools.partial(warp, cubic=cubic), x, flow), rtol=0, atol=5e-3
    )
    still = warp(x, torch.zeros_like(flow), cubic=cubic)
    torch.testing.assert_close(still, x, rtol=0, atol=1e-6)
    outside = warp(x, torch.full_like(flow, -100.0), cubic=cubic)
    torch.testing.assert_close(outside, x[..., :1, :1].expand_as(x), rtol=0, atol=1e-6)


def test_a_cubic_warp_keeps_fine_waves_that_a_bilinear_one_softens():
    at = torch.arange(80.0)

    def wave(shift: float) -> torch.Tensor:
        return torch.sin((at + shift) * 1.4).expand(1, 1, 16, 80).contiguous()  # 4.5 pixels long

    halfway = torch.zeros(1, 2, 16, 80)
    halfway[:, 0] = 0.5
    inner = (..., slice(3, -3))
    error = {cubic: (warp(wave(0), halfway, cubic=cubic) - wave(0.5))[inner].abs().max() for cubic in (False, True)}
    assert error[True] < 0.02 and error[False] > 0.2


def test_views_need_not_be_contiguous():
    x = picture(1, 6, 16, 24)[:, ::2]
    torch.testing.assert_close(shrink(x, 2), F.avg_pool2d(x, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(box(x, 2), box(x.contiguous(), 2))
