"""The ops that take a picture in and give one out, against float64 closed forms, in torch and as PTX kernels.

The kernels run twice: on the CPU through the emulator (every instruction of the shipped .ptx, with
checks of bounds and alignment), and with ``-m gpu`` on the GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.op_cases import Maker, assert_as_good, float64, shuffled, true_frame_in, unshuffled
from helpers.op_dtypes import dtypes

from mirage_cli.engine import reference

PICTURES = [(16, 16, 4, 4), (37, 53, 16, 16), (30, 47, 8, 16), (1, 1, 4, 4), (64, 200, 16, 56)]


@dtypes
@pytest.mark.parametrize(("height", "width", "rows", "columns"), PICTURES)
def test_frame_in_reference(dtype, height, width, rows, columns):
    make = Maker("cpu", dtype)
    rgb, out = make.rgb(height, width), make.poisoned(48, rows, columns, slice_of=72)
    assert reference.frame_in(rgb, out) is out
    truth = true_frame_in(rgb.numpy(), rows, columns)
    assert np.abs(float64(out)[0] - truth).max() <= torch.finfo(dtype).eps
    assert set(np.unique(float64(out)[0][truth == 1.0])) <= {1.0}


@dtypes
@pytest.mark.parametrize(("height", "width", "rows", "columns"), PICTURES)
def test_frame_in_ptx(ptx, dtype, height, width, rows, columns):
    make = Maker(ptx.device, dtype)
    rgb = make.rgb(height, width)
    ours, theirs = (make.poisoned(48, rows, columns, slice_of=72) for _ in range(2))
    ptx.frame_in(rgb, ours)
    reference.frame_in(rgb, theirs)
    assert torch.equal(ours, theirs)  # the same roundings, so the same bits


def test_frame_in_refuses_a_picture_that_does_not_fit():
    with pytest.raises(ValueError, match="17x8 does not fit"):
        reference.frame_in(torch.zeros(8, 17, 3, dtype=torch.uint8), torch.zeros(1, 48, 4, 4))


def frame_out_case(make: Maker, rows: int, columns: int, blend: bool, base: bool) -> dict:
    tensors = {"x": make.cells(48, rows, columns, slice_of=64, offset=0, spread=0.8)}
    if base:
        tensors["base"] = make.cells(48, rows, columns, slice_of=168, offset=48, spread=0.4)
    if blend:
        tensors["warped"] = make.cells(48, rows, columns, slice_of=168, offset=96, spread=0.6)
        tensors["keep"] = make.cells(16, rows, columns).abs().clamp(max=1).to(memory_format=torch.channels_last)
    return tensors


def true_levels(tensors: dict) -> np.ndarray:
    """float64 [H, W, 3] before rounding, in levels."""
    frame = float64(tensors["x"])[0]
    if "base" in tensors:
        frame = frame + float64(tensors["base"])[0]
    if "warped" in tensors:
        keep = np.tile(float64(tensors["keep"])[0], (3, 1, 1))
        frame = frame + keep * (float64(tensors["warped"])[0] - frame)
    frame = np.clip(np.where(np.isnan(frame), 0, frame), -1, 1)
    return (shuffled(frame).transpose(1, 2, 0) + 1) * 127.5


def true_stats(levels: np.ndarray, nan_values: int) -> list[int]:
    """The five sums of finished uint8 levels, in Python integers."""
    levels = levels.astype(np.int64)
    luma = (levels @ np.array([77, 150, 29]) + 128) >> 8
    gradient = sum(int(np.abs(luma[:, x] - luma[:, x - 1]).sum()) for x in range(1, luma.shape[1]) if x % 4)
    saturation = levels.max(2) - levels.min(2)
    return [int(luma.sum()), int((luma * luma).sum()), int(saturation.sum()), gradient, nan_values]


OUT_PICTURES = [(16, 16, 4, 4), (37, 53, 12, 16), (30, 48, 8, 12), (1, 1, 4, 4), (13, 530, 4, 133)]


@dtypes
@pytest.mark.parametrize("base", [False, True], ids=["", "base"])
@pytest.mark.parametrize("blend", [False, True], ids=["", "blend"])
@pytest.mark.parametrize(("height", "width", "rows", "columns"), OUT_PICTURES)
def test_frame_out_reference(dtype, blend, base, height, width, rows, columns):
    make = Maker("cpu", dtype)
    tensors = frame_out_case(make, rows, columns, blend, base)
    out = torch.full((height, width, 3), 99, dtype=torch.uint8)
    history, stats = make.poisoned(48, rows, columns), torch.full((5,), -1)
    assert reference.frame_out(out=out, history=history, stats=stats, **tensors) is out
    truth = true_levels(tensors)[:height, :width]
    assert np.abs(out.numpy() - truth).max() <= 0.5 + 1e-4
    assert stats.tolist() == true_stats(out.numpy(), 0)
    padded = (shuffled(float64(history)[0]).transpose(1, 2, 0) + 1) * 127.5
    assert np.abs(padded - true_levels(tensors)).max() <= 127.5 * 4 * torch.finfo(dtype).eps


@dtypes
@pytest.mark.parametrize("base", [False, True], ids=["", "base"])
@pytest.mark.parametrize("blend", [False, True], ids=["", "blend"])
@pytest.mark.parametrize(("height", "width", "rows", "columns"), OUT_PICTURES)
def test_frame_out_ptx(ptx, dtype, blend, base, height, width, rows, columns):
    make = Maker(ptx.device, dtype)
    tensors = frame_out_case(make, rows, columns, blend, base)
    results = []
    for ops in (ptx, reference):
        out = torch.full((height, width, 3), 99, dtype=torch.uint8, device=ptx.device)
        history, stats = make.poisoned(48, rows, columns, slice_of=56), torch.full((5,), -1, device=ptx.device)
        ops.frame_out(out=out, history=history, stats=stats, **tensors)
        results.append((out.cpu().numpy(), history, stats))
    (ours, our_history, our_stats), (theirs, their_history, _) = results
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() <= 1e-3
    assert np.abs(ours - true_levels(tensors)[:height, :width]).max() <= 0.5 + 1e-4
    assert our_stats.tolist() == true_stats(ours, 0)
    truth = true_levels(tensors) / 127.5 - 1
    assert_as_good(our_history, their_history, unshuffled(truth.transpose(2, 0, 1)))
    again = torch.full((height, width, 3), 99, dtype=torch.uint8, device=ptx.device)
    ptx.frame_out(out=again, **tensors)  # without history and statistics: the same picture
    assert np.array_equal(again.cpu().numpy(), ours)


@dtypes
def test_frame_out_ptx_rounds_half_to_even(ptx, dtype):
    """Every level and every half level that the dtype holds."""
    levels = np.arange(0, 255.5, 0.5)
    values = np.resize(levels / 127.5 - 1, 48 * 4 * 4)
    cells = torch.from_numpy(values.reshape(1, 4, 4, 48)).to(ptx.device, dtype).permute(0, 3, 1, 2)
    ours, theirs = (torch.zeros(16, 16, 3, dtype=torch.uint8, device=ptx.device) for _ in range(2))
    ptx.frame_out(cells, ours)
    reference.frame_out(cells, theirs)
    assert torch.equal(ours, theirs)


@dtypes
def test_frame_out_counts_and_hides_nan(ptx, dtype):
    make = Maker(ptx.device, dtype)
    x = make.cells(48, 4, 8)
    x[0, 5, 1, 2] = x[0, 37, 1, 2] = x[0, 0, 0, 0] = float("nan")
    x[0, 15, 3, 7] = float("nan")  # row 15, column 31: cropped away, so not counted
    x[0, 20, 2, 2], x[0, 21, 2, 2] = float("inf"), float("-inf")
    for ops in (ptx, reference):
        out = torch.zeros(15, 30, 3, dtype=torch.uint8, device=ptx.device)
        stats, history = torch.zeros(5, dtype=torch.int64, device=ptx.device), make.poisoned(48, 4, 8)
        ops.frame_out(x, out, stats=stats, history=history)
        assert stats[4] == 3 and not history.isnan().any()
        assert stats.tolist() == true_stats(out.cpu().numpy(), 3)
        assert out[0, 0, 0] == 128  # the middle: 127.5 rounds to even
        assert out[9, 8, 1] == 255 and out[9, 9, 1] == 0  # the infinities: channel 16 + 4 * 1 + 0 and + 1


def test_frame_out_finds_nan_in_every_channel(ptx):
    """Cell k has its one NaN in channel k."""
    x = Maker(ptx.device, torch.float16).cells(48, 4, 12, spread=0.3)
    for k in range(48):
        x[0, k, k // 12, k % 12] = float("nan")
    results = []
    for ops in (ptx, reference):
        out = torch.zeros(16, 48, 3, dtype=torch.uint8, device=ptx.device)
        stats = torch.zeros(5, dtype=torch.int64, device=ptx.device)
        ops.frame_out(x, out, stats=stats)
        results.append((out, stats))
    assert results[0][1][4] == 48
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
