"""NV12 both ways, against the standards' definition and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.op_cases import Maker, float64

from mirage_cli.engine import reference
from mirage_cli.engine.ops import PtxOps
from mirage_cli.errors import GpuError

NV12_CODES = [reference.Nv12(m, f) for m in ("bt709", "bt601") for f in (False, True)]
codes = pytest.mark.parametrize("code", NV12_CODES, ids=["709", "709-full", "601", "601-full"])
NV12_SIZES = [(2, 2), (1, 1), (35, 67), (16, 130), (18, 65)]


def true_matrix(code: reference.Nv12) -> tuple[np.ndarray, np.ndarray]:
    """RGB in 0..255 -> (Y, U, V): matrix and offset, by the standards' definition."""
    red, blue = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}[code.matrix]
    luma = np.array([red, 1 - red - blue, blue])
    rows = np.stack([luma, (np.array([0, 0, 1]) - luma) / (2 - 2 * blue), (np.array([1, 0, 0]) - luma) / (2 - 2 * red)])
    scale = np.array([1, 1, 1]) if code.full_range else np.array([219, 224, 224]) / 255
    return rows * scale[:, None], np.array([0 if code.full_range else 16, 128, 128])


def planes(make: Maker, height: int, width: int, pitch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Poisoned luma and chroma whose rows are ``pitch`` bytes apart."""
    rows, columns = -(-height // 2), 2 * -(-width // 2)
    whole = torch.full((height + rows, pitch), 77, dtype=torch.uint8, device=make.device)
    return whole[:height, :width], whole[height:, :columns]


@codes
@pytest.mark.parametrize(("height", "width"), NV12_SIZES)
def test_nv12_both_ways(ptx, code, height, width):
    """Kernel and torch against float64, and against each other to the byte; what lies between rows is untouched."""
    make = Maker(ptx.device, torch.float32, seed=height)
    matrix, offset = true_matrix(code)
    luma, chroma = planes(make, height, width, 160)
    for plane in (luma, chroma):
        plane.copy_(torch.from_numpy(make.random.integers(0, 256, plane.shape, np.uint8)))
    yuv = np.stack(
        [float64(luma), *(float64(chroma)[:, c::2].repeat(2, 0).repeat(2, 1)[:height, :width] for c in (0, 1))], axis=2
    )
    truth = ((yuv - offset) @ np.linalg.inv(matrix).T).clip(0, 255)
    pictures = [torch.full((height, width, 3), 99, dtype=torch.uint8, device=ptx.device) for _ in range(2)]
    assert ptx.nv12_to_rgb(luma, chroma, code, pictures[0]) is pictures[0]
    reference.nv12_to_rgb(luma, chroma, code, pictures[1])
    assert torch.equal(*pictures)
    assert np.abs(float64(pictures[0]) - truth).max() <= 0.51

    rgb = make.rgb(height, width)
    results = []
    for ops in (ptx, reference):
        luma, chroma = planes(make, height, width, 160)
        assert ops.rgb_to_nv12(rgb, code, luma, chroma) is luma
        results.append(luma._base if luma._base is not None else luma)
        assert (luma._base[:height, width:] == 77).all() and (luma._base[height:, chroma.shape[1] :] == 77).all()
    assert torch.equal(*results)
    exact = float64(rgb) @ matrix.T + offset
    assert np.abs(float64(luma) - exact[..., 0].clip(0, 255)).max() <= 0.51
    padded = np.pad(exact, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    mean = (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / 4
    assert np.abs(float64(chroma) - mean[..., 1:].reshape(chroma.shape).clip(0, 255)).max() <= 0.51


@codes
def test_grey_through_nv12_is_grey(code):
    rgb = (
        torch.arange(0, 256, dtype=torch.uint8)
        .repeat_interleave(2)
        .repeat(2, 1)[..., None]
        .repeat(1, 1, 3)
        .contiguous()
    )
    luma, chroma = torch.zeros(2, 512, dtype=torch.uint8), torch.zeros(1, 512, dtype=torch.uint8)
    reference.rgb_to_nv12(rgb, code, luma, chroma)
    assert (
        (chroma == 128).all()
        and luma[0, 0] == (0 if code.full_range else 16)
        and luma[0, -1] == (255 if code.full_range else 235)
    )
    back = reference.nv12_to_rgb(luma, chroma, code, torch.zeros_like(rgb)).int()
    assert (back - rgb.int()).abs().max() <= (0 if code.full_range else 1) and torch.equal(back[..., 0], back[..., 2])


def test_nv12_refuses_what_it_cannot_take(emulated):
    with pytest.raises(ValueError, match="matrix 'bt2020'; allowed: bt709, bt601"):
        reference.Nv12("bt2020")
    strict = PtxOps(torch.device("cpu"), "emulated", emulated, strict=True)
    luma, rgb = torch.zeros(4, 6, dtype=torch.uint8), torch.zeros(4, 6, 3, dtype=torch.uint8)
    with pytest.raises(GpuError, match="chroma is"):
        strict.nv12_to_rgb(luma, torch.zeros(2, 5, dtype=torch.uint8), reference.Nv12(), rgb)
    with pytest.raises(GpuError, match="strided inside"):
        strict.nv12_to_rgb(luma.t().contiguous().t(), torch.zeros(2, 6, dtype=torch.uint8), reference.Nv12(), rgb)
