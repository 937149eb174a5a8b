"""The frame of an LSDNet as a plan: the launches on any machine; its kernels against float64, and its frames against
torch, on a GPU.

    PYTHONPATH=tests python tests/lsd/test_plan.py    # records the launches, when they are meant to change
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_gpu import FakeGpu, described
from mirage_cli.kernels.shapes import CONV_SHAPES

from mirage_cli.errors import GpuError
from mirage_cli.lsd import family, model as lsd_model, plan as plan_module, plan_painter
from mirage_cli.lsd.family import LsdModel
from mirage_cli.lsd.history import History
from mirage_cli.lsd.memory import MemoryBank
from mirage_cli.lsd.model import LSDConfig, LSDNet, luma, position_channels
from mirage_cli.lsd.painter import TorchPainter
from mirage_cli.lsd.plan import WIDTHS, FramePlan, plan_frame, plan_refusal
from mirage_cli.lsd.sampling import schedule
from mirage_cli.stream.motion import estimate_motion
from mirage_cli.stream.session import Session

gpu = pytest.mark.gpu
SIZES = [(16, 16), (48, 80), (272, 144), (512, 512)]  # padded heights and widths
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "frame_plan.json"
# padded size, size of the frames, steps, type
CASES = {
    "70x41": ((48, 80), (41, 70), 1, torch.float16),
    "144x272, 2 steps": ((272, 144), (272, 144), 2, torch.bfloat16),
    "512x512": ((512, 512), (512, 512), 1, torch.float16),
    "512x512, 2 steps": ((512, 512), (512, 512), 2, torch.float16),
    "1280x704": ((704, 1280), (704, 1280), 1, torch.float16),
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def make_plan(
    height: int, width: int, dtype: torch.dtype, steps: int = 1, size=None, device: str = "cuda"
) -> FramePlan:
    """A plan of a random network, with random numbers in every buffer that is read; height and width are padded."""
    torch.manual_seed(height * width)
    net = LSDNet(LSDConfig(looks=("a", "b")))
    for name, parameter in net.named_parameters():
        scale = 0.02 if "modulate" in name else (parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
        torch.nn.init.normal_(parameter, std=scale)
    on = torch.device(device, 0) if device == "cuda" else torch.device(device)
    net = net.to(on, dtype, memory_format=torch.channels_last)

    def random(*shape, kind=torch.float32):
        return torch.randn(shape, device=on).to(kind)

    history = History.empty(1, height, width, on)
    for tensor in (history.last, history.older, history.input_luma):
        tensor.copy_(random(*tensor.shape).clamp(-1, 1))
    history.valid.fill_(1.0)
    memory = MemoryBank(net)
    memory.tokens.copy_(random(*memory.tokens.shape))
    return plan_frame(
        net,
        history,
        memory,
        0.3 * random(2, steps, 1, net.modulate.out_features).to(dtype),
        random(1, 3, height, width),
        position_channels(height, width, on).to(dtype),
        schedule(steps),
        size or (height, width),
        on,
    )


# launches ------------------------------------------------------------------------------------------------


def recorded(fake: FakeGpu, case: str) -> dict:
    """What a frame queues: a line each, and a hash of these with all arguments."""
    (height, width), size, steps, dtype = CASES[case]
    frame = make_plan(height, width, dtype, steps, size, device="cpu")
    rgb = torch.zeros(*size, 3, dtype=torch.uint8)
    fake.queued.clear()
    frame.run(rgb)
    whole = described(fake.queued, [*frame.plan.kept, rgb])
    digest = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
    return {"sha256": digest, "queued": [line for line, _ in whole]}


@pytest.mark.parametrize("case", CASES)
def test_the_launches_are_those_that_were_recorded(monkeypatch, case):
    """Order, streams, grids, shared memory and PDL as lines; in the hash also the values of all arguments."""
    golden = json.loads(GOLDEN.read_text())[case]
    found = recorded(FakeGpu(monkeypatch), case)
    assert found["queued"] == golden["queued"]
    assert found["sha256"] == golden["sha256"], "the same launches with other arguments"


def test_frames_of_another_kind_are_refused(monkeypatch):
    FakeGpu(monkeypatch)
    frame = make_plan(16, 32, torch.float16, size=(10, 30), device="cpu")
    good = torch.zeros(10, 30, 3, dtype=torch.uint8)
    for bad in (good[:9], good.int(), good.to("meta"), torch.zeros(30, 10, 3, dtype=torch.uint8).transpose(0, 1)):
        with pytest.raises(ValueError, match=r"the plan takes uint8 \(10, 30, 3\)"):
            frame.run(bad)
    out, flags, tokens = frame.run(good)
    assert out.shape == (10, 30, 3) and flags.shape == (2,) and tokens.shape == (1, 48, 256)


def test_noise_is_read_again_when_it_is_taken(monkeypatch):
    FakeGpu(monkeypatch)
    frame = make_plan(16, 32, torch.float16, device="cpu")
    frame.noise.fill_(0.5)
    assert not (frame.noise_cells == 0.5).all()
    frame.take_noise()
    assert (frame.noise_cells == 0.5).all()


def test_the_kernels_shapes_are_the_networks():
    """Channels that shapes.py repeats as numbers."""
    net = LSDNet(LSDConfig(looks=("a",)))
    assert net.config.widths == WIDTHS
    stem, down0 = CONV_SHAPES["stem"], CONV_SHAPES["down0"]
    assert (stem.channels, stem.second_channels) == (lsd_model.SEEN_CHANNELS, lsd_model.PICTURE_CHANNELS)
    assert stem.depth + lsd_model.POSITION_CHANNELS == net.stem.in_channels
    assert (down0.channels, down0.second_channels) == (WIDTHS[0], lsd_model.OLDER_CHANNELS)
    assert net.attention.heads * plan_module.HEAD_WIDTH == WIDTHS[2]


def test_what_the_plan_is_not_made_for_is_said():
    fitting = LSDNet(LSDConfig(looks=("a",)))
    assert plan_refusal(fitting, torch.float16, (512, 512)) is None
    assert "the network is float32" in plan_refusal(fitting, torch.float32, (512, 512))
    assert "at most 8192" in plan_refusal(fitting, torch.bfloat16, (16, 8208))
    wide = LSDNet(LSDConfig(looks=("a",), widths=(64, 128, 320)))
    assert "(64, 128, 320)" in plan_refusal(wide, torch.float16, (512, 512))


class NoKernels:
    """A PTX choice whose plan cannot be had."""

    backend, reason, device = "ptx", "ptx: chosen", torch.device("cpu")


@pytest.mark.parametrize("strict", [False, True], ids=["auto", "ptx"])
def test_a_plan_that_cannot_be_had_is_torch_with_the_reason_or_an_error(monkeypatch, strict):
    def refused(*_):
        raise GpuError("the driver refuses motion.sm90.ptx", "use --backend torch")

    net = (
        LSDNet(LSDConfig(looks=("a",)))
        .eval()
        .requires_grad_(False)
        .to(torch.bfloat16, memory_format=torch.channels_last)
    )
    model = LsdModel("tiny", None, net, torch.device("cpu"), torch.bfloat16, "test")
    monkeypatch.setattr(family, "select_backend", lambda device, backend: (NoKernels(), NoKernels.reason))
    monkeypatch.setattr(plan_painter, "plan_frame", refused)
    if strict:
        with pytest.raises(GpuError, match="refuses motion"):
            Session(model, width=32, height=16, backend="ptx")
        return
    session = Session(model, width=32, height=16)
    about = session.describe()
    assert about["backend"] == "torch" and about["backend_reason"].startswith(
        "torch: the driver refuses motion.sm90.ptx"
    )
    assert session.step(np.zeros((16, 32, 3), np.uint8)).shape == (16, 32, 3)


def test_a_network_that_the_plan_is_not_made_for_takes_kernels_op_by_op_and_says_so(monkeypatch):
    net = LSDNet(LSDConfig(looks=("a",))).eval().requires_grad_(False)
    model = LsdModel("tiny", None, net, torch.device("cpu"), torch.float32, "test")
    monkeypatch.setattr(family, "select_backend", lambda device, backend: (NoKernels(), NoKernels.reason))
    painter = model.painter((32, 16), steps=1, seed=0, backend="ptx")
    assert (type(painter), painter.backend) == (TorchPainter, "ptx") and isinstance(painter.ops, NoKernels)
    assert painter.reason.startswith("ptx: chosen; op by op: ") and "float32" in painter.reason


# kernels -------------------------------------------------------------------------------------------------


def refill(frame: FramePlan, past: bool) -> None:
    """Random activations everywhere, and whether there is a past."""
    buffers = [frame.motion.cells, frame.motion.older_cells, frame.packed, frame.mixed, frame.noise_cells]
    for buffer in [*buffers, *frame.hidden, *(b for pair in frame.features for b in pair)]:
        buffer.copy_(torch.randn(buffer.shape, device=buffer.device))
    frame.flags[0] = int(past)


def picture(rows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[pixels, C] -> [1, C, h, w]."""
    return rows[: height * width].reshape(1, height, width, -1).permute(0, 3, 1, 2)


def by_torch(frame: FramePlan, call, past: bool, kind: torch.dtype) -> torch.Tensor:
    """What a layer should give, computed by torch in ``kind``: [pixels, N]."""
    shape = call.shape
    height, width = call.height, call.width
    source = (height // 2, width // 2) if shape.doubled else (height * shape.stride, width * shape.stride)
    x = picture(call.in0.clone(), *source).to(kind)
    row = frame.modulations[0 if past else 1].flatten().to(kind)

    def film(value, first):
        channels = value.shape[1]
        scale, shift = (row[first + k * channels : first + (k + 1) * channels, None, None] for k in (0, 1))
        return F.silu(value * (1 + scale) + shift)

    def norm(value):
        return F.layer_norm(value.permute(0, 2, 3, 1), (value.shape[1],)).permute(0, 3, 1, 2)

    if call.memory:
        bank = frame.memory[0] if past else frame.null_row.expand(frame.memory.shape[1], -1)
        tokens = torch.cat((norm(x).permute(0, 2, 3, 1).reshape(-1, 256), F.layer_norm(bank.to(kind), (256,))))
        return tokens @ call.weights[0].to(kind).T + call.bias.to(kind)
    if call.masked0 and not past:
        x[:, call.masked0 :] = 0
    if call.film_in is not None:
        x = film(norm(x), call.film_in)
    if shape.doubled:
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
    frame = make_plan(height, width, dtype)
    queue = torch.cuda.current_stream().cuda_stream
    for past in (True, False):
        for place, call in frame.layers.items():
            if call.layer == "out":
                continue
            refill(frame, past)
            truth, theirs = (by_torch(frame, call, past, kind) for kind in (torch.float64, dtype))
            own = call.residual is not None and call.residual.data_ptr() == call.out.data_ptr()
            if not own:
                call.out.fill_(float("nan"))
            frame.launches[place](queue)
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
    monkeypatch.setattr(plan_module, "MANY_TOKENS", 0 if queries == 64 else 1 << 30)
    frame = make_plan(height, width, dtype)
    refill(frame, True)
    frame.mixed.fill_(float("nan"))
    launch = next(x for x in frame.launches if x.name == f"mirage_attention{queries}")
    pixels = frame.mixed.shape[0]

    def by(kind):
        q, k, v = (t.reshape(-1, 4, 64).transpose(0, 1) for t in frame.packed.to(kind).chunk(3, dim=1))
        return F.scaled_dot_product_attention(q[:, :pixels], k, v).transpose(0, 1).reshape(pixels, 256)

    launch(torch.cuda.current_stream().cuda_stream)
    truth = by(torch.float64)
    error, allowed = (frame.mixed.double() - truth).abs().max(), (by(dtype).double() - truth).abs().max()
    assert error <= 2 * allowed, f"error {error:.3g}, torch's {allowed:.3g}"


@gpu
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tokens_are_the_means_of_their_cells(height, width):
    frame = make_plan(height, width, torch.float16)
    refill(frame, True)
    others = [launch for launches in frame.beside.values() for launch in launches]
    next(x for x in others if x.name == "mirage_pool_tokens")(torch.cuda.current_stream().cuda_stream)
    x = picture(frame.features[2][0], height // 16, width // 16).double()
    truth = F.adaptive_avg_pool2d(x, (6, 8)).flatten(2).transpose(1, 2)
    assert (frame.tokens.double() - truth).abs().max() <= 2e-3


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
def test_motion_is_that_of_torch(height, width):
    frame = make_plan(height, width, torch.float16)
    first, second = moving(height, width, 2)
    frame.run(first)
    frame.run(second)
    torch.cuda.synchronize()
    previous, following = (luma(f.permute(2, 0, 1)[None].float() * (1 / 127.5) - 1) for f in (first, second))
    truth = estimate_motion(previous, following)
    ours = frame.motion.flow.reshape(1, 2, height // 2, width // 2)
    assert truth.abs().max() > 1.0  # it moves
    wrong = ((ours - truth).abs() > 2e-3).double().mean()
    assert wrong < 2e-3, f"{wrong:.4%} of the vectors differ"
    assert frame.flags[:2].tolist() == [1, 0]


def record() -> None:
    """Write the golden file."""
    with pytest.MonkeyPatch.context() as patches, torch.inference_mode():
        fake = FakeGpu(patches)
        GOLDEN.write_text(json.dumps({case: recorded(fake, case) for case in CASES}, indent=1) + "\n")


if __name__ == "__main__":
    record()
