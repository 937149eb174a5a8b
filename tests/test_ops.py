"""Ops: the torch definitions against float64 closed forms, and the PTX kernels against both.

The kernels run twice: on the CPU through the emulator (every instruction of the shipped .ptx, with
checks of bounds and alignment), and with ``-m gpu`` on the GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mirage_cli.kernels import loader
from op_cases import Maker, assert_as_good, float64, shuffled, silu, true_frame_in, true_norm, true_warp, unshuffled
from ptx_emulator import EmulatedKernels

from mirage_cli.engine import reference
from mirage_cli.engine.ops import OpSet, PtxOps, select_backend
from mirage_cli.errors import GpuError, UsageProblem

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.values())


@pytest.fixture(scope="module")
def emulated() -> EmulatedKernels:
    return EmulatedKernels([(loader.HERE / file).read_text() for file in loader.FILES])


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def ptx(request, emulated) -> OpSet:
    """The PTX ops: on the CPU through the emulator, or on the GPU."""
    if request.param == "emulated":
        return PtxOps(torch.device("cpu"), "emulated", emulated, strict=True)
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return select_backend("cuda", "ptx")[0]


# frame in and out ------------------------------------------------------------------------------------

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


# per-pixel ops ---------------------------------------------------------------------------------------

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
        (ptx.add_bias_silu(x, bias), reference.add_bias_silu(x, bias), silu(plain)),
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


@dtypes
@pytest.mark.parametrize("own_flow", [False, True], ids=["flow-fp32", "flow-own"])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (20, 36), (8, 68)])
def test_warp(ptx, dtype, own_flow, height, width):
    make = Maker(ptx.device, dtype)
    frame = make.cells(3, height, width)
    flow = torch.from_numpy(make.random.normal(0, 4, (1, 2, height, width))).to(
        ptx.device, dtype if own_flow else torch.float32
    )
    flow[0, :, 0, 0], flow[0, :, 1, 1] = 0, 1e4  # no motion, and far outside
    truth = true_warp(float64(frame)[0], float64(flow)[0])
    by_torch = reference.warp(frame, flow)
    # torch computes fp32 positions through [-1, 1]; they are off by a few 1e-6 of the width
    assert np.abs(float64(by_torch)[0] - truth).max() <= 2e-4 + 4 * torch.finfo(dtype).eps
    assert_as_good(ptx.warp(frame, flow), by_torch, truth[None])
    planar = frame.contiguous()
    assert torch.equal(ptx.warp(planar, flow), ptx.warp(frame, flow))
    cells = make.poisoned(48, height // 4, width // 4, slice_of=72)
    cells.copy_(torch.nn.functional.pixel_unshuffle(frame, 4))
    out = make.poisoned(48, height // 4, width // 4, slice_of=168)
    assert ptx.warp(cells, flow, out=out) is out
    assert torch.equal(torch.nn.functional.pixel_shuffle(out, 4), ptx.warp(frame, flow))
    reference.warp(cells, flow, out=out)
    assert torch.equal(torch.nn.functional.pixel_shuffle(out, 4), by_torch)


@dtypes
def test_warp_of_frame_and_luma_together_into_the_network_input(ptx, dtype):
    """Four colours at once: 64 neighbouring channels of the input buffer."""
    make = Maker(ptx.device, dtype)
    pictures, out = make.cells(4, 8, 20).contiguous(), make.poisoned(64, 2, 5, slice_of=168, offset=96)
    flow = torch.from_numpy(make.random.normal(0, 2, (1, 2, 8, 20))).float().to(ptx.device)
    by_torch = reference.warp(pictures, flow)
    ptx.warp(pictures, flow, out=out)
    assert_as_good(
        torch.nn.functional.pixel_shuffle(out, 4), by_torch, true_warp(float64(pictures)[0], float64(flow)[0])[None]
    )


def test_warp_equals_grid_sample_on_odd_sizes():
    make = Maker("cpu", torch.float32)
    frame = make.cells(3, 7, 13)
    flow = torch.from_numpy(make.random.normal(0, 3, (1, 2, 7, 13))).float()
    assert np.abs(float64(reference.warp(frame, flow))[0] - true_warp(float64(frame)[0], float64(flow)[0])).max() < 1e-5


@dtypes
def test_sampler_step(ptx, dtype):
    make = Maker(ptx.device, dtype)
    x0, noise = make.cells(48, 3, 5, slice_of=168, offset=96), make.cells(48, 3, 5)
    coefficients = torch.tensor([0.3, 0.7], device=ptx.device)
    a, b = float64(coefficients)
    truth = a * float64(x0) + b * float64(noise)
    by_torch = reference.sampler_step(x0, noise, coefficients)
    assert np.abs(float64(by_torch) - truth).max() <= 2 * torch.finfo(dtype).eps * np.abs(truth).max()
    out = make.poisoned(48, 3, 5, slice_of=56)
    assert_as_good(ptx.sampler_step(x0, noise, coefficients, out=out), by_torch, truth)


# NV12 ------------------------------------------------------------------------------------------------

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


# dispatch --------------------------------------------------------------------------------------------


def test_auto_on_the_cpu_is_torch_and_says_so():
    ops, reason = select_backend("cpu")
    assert ops.backend == "torch" and reason == ops.reason and "cpu" in reason
    assert ops.describe() == {"backend": "torch", "reason": reason, "fallbacks": {}}
    assert select_backend("cpu", "torch")[1] == "torch: asked for"


def test_ptx_on_the_cpu_is_an_error_with_its_reason():
    with pytest.raises(GpuError, match="--backend ptx is not possible: the device is cpu") as caught:
        select_backend("cpu", "ptx")
    assert caught.value.exit_code == 5 and caught.value.remedy


def test_unknown_backend_is_a_usage_problem():
    with pytest.raises(UsageProblem, match="'cuda'"):
        select_backend("cpu", "cuda")


def test_auto_on_a_gpu_without_cupy_is_torch_and_ptx_an_error(monkeypatch):
    def missing(index):
        raise GpuError("the PTX kernels need CuPy, which is not installed", "install it")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(loader, "load", missing)
    ops, reason = select_backend("cuda")
    assert ops.backend == "torch" and reason == "torch: the PTX kernels need CuPy, which is not installed"
    with pytest.raises(GpuError, match="not possible: the PTX kernels need CuPy") as caught:
        select_backend("cuda", "ptx")
    assert caught.value.remedy == "install it"


def test_kernels_that_load_are_chosen(monkeypatch, emulated):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(loader, "load", lambda index: emulated)
    for backend, how, strict in (("auto", "chosen", False), ("ptx", "asked for", True)):
        ops, reason = select_backend("cuda:1", backend)
        assert ops.backend == "ptx" and ops.device == torch.device("cuda:1") and ops.strict is strict
        assert reason == f"ptx: {how}; {len(emulated.entries)} kernels loaded on a GPU"


def test_what_a_kernel_cannot_take_is_refused_or_noted(emulated):
    device = torch.device("cpu")
    strict = PtxOps(device, "emulated", emulated, strict=True)
    lenient = PtxOps(device, "emulated", emulated, strict=False)
    planar = torch.randn(1, 16, 3, 5)
    with pytest.raises(GpuError, match="not channels_last"):
        strict.channel_norm_film_silu(planar)
    assert torch.equal(lenient.channel_norm_film_silu(planar), reference.channel_norm_film_silu(planar))
    assert "not channels_last" in lenient.fallbacks["channel_norm_film_silu"]
    wide = torch.randn(1, 520, 2, 2).to(memory_format=torch.channels_last)
    with pytest.raises(GpuError, match="at most 512"):
        strict.channel_norm_film_silu(wide)
    grown = torch.randn(1, 8, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    with pytest.raises(GpuError, match="gradients"):
        strict.residual_add(grown, grown)
    odd = torch.zeros(1, 1, 4, 4, 24)[0].permute(0, 3, 1, 2)[:, 4:20]  # starts between 16-byte words
    with pytest.raises(GpuError, match="aligned"):
        strict.residual_add(odd.half().contiguous(memory_format=torch.channels_last)[:, 4:12], odd.half()[:, :8])
