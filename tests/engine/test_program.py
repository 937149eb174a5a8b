"""The whole-frame program: its tables on any machine; its kernels against float64, and its frames against
torch, on a GPU."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mirage_cli.kernels import loader

from mirage_cli.engine.layers import LAYERS, SLICE, LayerShape, pack_weights
from mirage_cli.engine.program import FrameProgram, Stream, why_not
from mirage_cli.errors import GpuError
from mirage_cli.lsd.checkpoint import ModelBundle
from mirage_cli.lsd.model import LSDConfig, LSDNet, luma, screen_channels
from mirage_cli.lsd.program import describe_network
from mirage_cli.lsd.sampling import schedule
from mirage_cli.stream import session as stream
from mirage_cli.stream.motion import estimate_motion

gpu = pytest.mark.gpu
SIZES = [(16, 16), (48, 80), (272, 144), (512, 512)]  # padded heights and widths
LEVELS = {64: 0, 128: 1, 256: 2}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


# tables ------------------------------------------------------------------------------------------------


def test_the_table_of_layers_is_that_of_the_kernels():
    text = (loader.HERE / "conv_layers.cuh").read_text()
    rows = re.findall(r"^LAYER\((\w+), SUFFIX,([\d,\s]+),\s*\w+,\s*\w+\)", text, re.MULTILINE)
    found = {name: LayerShape(*(int(n) for n in numbers.split(","))) for name, numbers in rows}
    out = re.search(r"Conv<ELEMENT, ([\d, ]+), AS_IS, COMPOSE>", text)
    found["out"] = LayerShape(*(int(n) for n in out.group(1).split(",")))
    assert found == LAYERS
    assert all(shape.shared_bytes <= 101376 for shape in LAYERS.values())  # what an RTX 3090 gives a block


def test_packed_weights_hold_every_weight_where_the_kernel_reads_it():
    shape = LAYERS["down0"]
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


def test_what_the_program_is_not_made_for_is_said():
    fitting = describe_network(LSDNet(LSDConfig(looks=("a",))))
    assert why_not(fitting, torch.float16, (512, 512)) is None
    assert "the network is float32" in why_not(fitting, torch.float32, (512, 512))
    assert "at most 8192" in why_not(fitting, torch.bfloat16, (16, 8208))
    wide = describe_network(LSDNet(LSDConfig(looks=("a",), widths=(64, 128, 320))))
    assert "(64, 128, 320)" in why_not(wide, torch.float16, (512, 512))


class NoKernels:
    """A PTX choice whose program cannot be had."""

    backend, reason, device = "ptx", "ptx: chosen", torch.device("cpu")


@pytest.mark.parametrize("strict", [False, True], ids=["auto", "ptx"])
def test_a_program_that_cannot_be_had_is_torch_with_the_reason_or_an_error(monkeypatch, strict):
    def refused(*_):
        raise GpuError("the driver refuses motion.sm90.ptx", "use --backend torch")

    net = (
        LSDNet(LSDConfig(looks=("a",)))
        .eval()
        .requires_grad_(False)
        .to(torch.bfloat16, memory_format=torch.channels_last)
    )
    bundle = ModelBundle("tiny", None, net, torch.device("cpu"), torch.bfloat16, "test")
    torch_choice = stream.select_backend("cpu", "torch")
    monkeypatch.setattr(
        stream, "select_backend", lambda d, b: torch_choice if b == "torch" else (NoKernels(), NoKernels.reason)
    )
    monkeypatch.setattr(stream, "compile_frame", refused)
    if strict:
        with pytest.raises(GpuError, match="refuses motion"):
            stream.Session(bundle, width=32, height=16, backend="ptx")
        return
    session = stream.Session(bundle, width=32, height=16)
    about = session.describe()
    assert about["backend"] == "torch" and about["backend_reason"].startswith(
        "torch: the driver refuses motion.sm90.ptx"
    )
    assert session.step(np.zeros((16, 32, 3), np.uint8)).shape == (16, 32, 3)


# kernels -------------------------------------------------------------------------------------------------


def make_program(height: int, width: int, dtype: torch.dtype, steps: int = 1, size=None) -> FrameProgram:
    """A program of a random network, with random numbers in every buffer that is read."""
    torch.manual_seed(height * width)
    net = LSDNet(LSDConfig(looks=("a", "b")))
    for name, parameter in net.named_parameters():
        scale = 0.02 if "modulate" in name else (parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
        torch.nn.init.normal_(parameter, std=scale)
    net = net.to("cuda", dtype, memory_format=torch.channels_last)
    device = torch.device("cuda", 0)

    def random(*shape, kind=torch.float32):
        return torch.randn(shape, device=device).to(kind)

    state = Stream(
        last=random(1, 3, height, width).clamp(-1, 1),
        older=random(1, 6, height // 2, width // 2).clamp(-1, 1),
        input_luma=random(1, 1, height, width).clamp(-1, 1),
        valid=torch.ones(1, device=device),
        memory=random(1, net.config.memory_tokens, 256, kind=dtype),
        modulations=0.3 * random(2, steps, 1, net.modulate.out_features).to(dtype),
        noise=random(1, 3, height, width),
        screen=screen_channels(height, width, device).to(dtype),
        schedule=schedule(steps),
        height=(size or (height, width))[0],
        width=(size or (height, width))[1],
    )
    return FrameProgram(describe_network(net), state, device)


def refill(program: FrameProgram, past: bool) -> None:
    """Random activations everywhere, and whether there is a past."""
    buffers = [program.cells, program.older_cells, program.packed, program.mixed, program.noise_cells]
    for buffer in [*buffers, *program.hidden, *(b for pair in program.features for b in pair)]:
        buffer.copy_(torch.randn(buffer.shape, device=buffer.device))
    program.flags[0] = int(past)


def picture(rows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[pixels, C] -> [1, C, h, w]."""
    return rows[: height * width].reshape(1, height, width, -1).permute(0, 3, 1, 2)


def by_torch(program: FrameProgram, call, past: bool, kind: torch.dtype) -> torch.Tensor:
    """What a layer should give, computed by torch in ``kind``: [pixels, N]."""
    shape = LAYERS[call.layer]
    height, width = call.height, call.width
    source = (height // 2, width // 2) if shape.up else (height * shape.stride, width * shape.stride)
    x = picture(call.in0.clone(), *source).to(kind)
    row = program.stream.modulations[0 if past else 1].flatten().to(kind)

    def film(value, first):
        channels = value.shape[1]
        scale, shift = (row[first + k * channels : first + (k + 1) * channels, None, None] for k in (0, 1))
        return F.silu(value * (1 + scale) + shift)

    def norm(value):
        return F.layer_norm(value.permute(0, 2, 3, 1), (value.shape[1],)).permute(0, 3, 1, 2)

    if call.memory:
        bank = program.stream.memory[0] if past else program.null_row.expand(program.stream.memory.shape[1], -1)
        tokens = torch.cat((norm(x).permute(0, 2, 3, 1).reshape(-1, 256), F.layer_norm(bank.to(kind), (256,))))
        return tokens @ call.weights[0].to(kind).T + call.bias.to(kind)
    if call.masked0 and not past:
        x[:, call.masked0 :] = 0
    if call.film_in is not None:
        x = film(norm(x), call.film_in)
    if shape.up:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
    first = call.weights[0].to(kind)
    first = first if first.dim() == 4 else first[:, :, None, None]
    y = F.conv2d(x, first, call.bias.to(kind), stride=shape.stride, padding=1 if shape.taps == 9 else 0)
    if call.in1 is not None:
        second = picture(call.in1, height, width).to(kind) * (0 if call.masked1 and not past else 1)
        y = y + F.conv2d(second, call.weights[1].to(kind).reshape(len(first), -1, 1, 1))
    if call.film_out is not None:
        y = film(y, call.film_out)
    if call.residual is not None:
        y = y + picture(call.residual, height, width).to(kind)
    return y[0].permute(1, 2, 0).reshape(height * width, -1)


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_convolution_is_as_good_as_torch(height, width, dtype):
    program = make_program(height, width, dtype)
    queue = torch.cuda.current_stream().cuda_stream
    for past in (True, False):
        for place, call in program.layers.items():
            if call.layer == "out":
                continue
            refill(program, past)
            truth, theirs = (by_torch(program, call, past, kind) for kind in (torch.float64, dtype))
            own = call.residual is not None and call.residual.data_ptr() == call.out.data_ptr()
            if not own:
                call.out.fill_(float("nan"))
            program.launches[place](queue)
            torch.cuda.synchronize()
            ours = call.out.double()
            if call.memory:  # the bank's rows have no queries
                pixels = call.height * call.width
                ours[pixels:, :256] = truth[pixels:, :256]
            error, allowed = (ours - truth).abs().max(), (theirs.double() - truth).abs().max()
            assert error <= 2 * allowed, (
                f"{call.layer} at launch {place}, past {past}: error {error:.3g}, torch's {allowed:.3g}"
            )


@gpu
@pytest.mark.parametrize("queries", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_attention_is_as_good_as_torch(monkeypatch, height, width, dtype, queries):
    monkeypatch.setattr(
        FrameProgram, "attention_queries", property(lambda self: queries, lambda self, value: None), raising=False
    )
    program = make_program(height, width, dtype)
    refill(program, True)
    program.mixed.fill_(float("nan"))
    launch = next(x for x in program.launches if x.name == f"mirage_attention{queries}")
    pixels = program.mixed.shape[0]

    def by(kind):
        q, k, v = (t.reshape(-1, 4, 64).transpose(0, 1) for t in program.packed.to(kind).chunk(3, dim=1))
        return F.scaled_dot_product_attention(q[:, :pixels], k, v).transpose(0, 1).reshape(pixels, 256)

    launch(torch.cuda.current_stream().cuda_stream)
    truth = by(torch.float64)
    error, allowed = (program.mixed.double() - truth).abs().max(), (by(dtype).double() - truth).abs().max()
    assert error <= 2 * allowed, f"error {error:.3g}, torch's {allowed:.3g}"


@gpu
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tokens_are_the_means_of_their_cells(height, width):
    program = make_program(height, width, torch.float16)
    refill(program, True)
    others = [launch for launches in program.beside.values() for launch in launches]
    next(x for x in others if x.name == "mirage_pool_tokens")(torch.cuda.current_stream().cuda_stream)
    x = picture(program.features[2][0], height // 16, width // 16).double()
    truth = F.adaptive_avg_pool2d(x, (6, 8)).flatten(2).transpose(1, 2)
    assert (program.tokens.double() - truth).abs().max() <= 2e-3


def moving(height: int, width: int, count: int) -> list[torch.Tensor]:
    """Frames of a textured plane under a panning camera, uint8 [H, W, 3] on the GPU."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (height // 8 + 14, width // 8 + 14, 3)).astype(np.float32)
    plane = np.kron(coarse, np.ones((8, 8, 1), np.float32))
    plane = (plane + np.roll(plane, 3, 0) + np.roll(plane, 5, 1)) / 3
    return [
        torch.from_numpy(plane[i : i + height, 3 * i : 3 * i + width].astype(np.uint8).copy()).cuda()
        for i in range(count)
    ]


@gpu
@pytest.mark.parametrize(("height", "width"), [(48, 80), (272, 144), (512, 512)])
def test_motion_is_that_of_consistency(height, width):
    program = make_program(height, width, torch.float16)
    first, second = moving(height, width, 2)
    program.run(first)
    program.run(second)
    torch.cuda.synchronize()
    previous, following = (luma(f.permute(2, 0, 1)[None].float() * (1 / 127.5) - 1) for f in (first, second))
    truth = estimate_motion(previous, following)
    ours = program.flow.reshape(1, 2, height // 2, width // 2)
    assert truth.abs().max() > 1.0  # it moves
    wrong = ((ours - truth).abs() > 2e-3).double().mean()
    assert wrong < 2e-3, f"{wrong:.4%} of the vectors differ"
    assert program.flags[:2].tolist() == [1, 0]
