"""The CPU's network on packed weights is the network: same numbers, any look, with and without a past."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirage_cli.lsd import packed as module
from mirage_cli.lsd.model import LSDConfig, LSDNet, Past, position_channels
from mirage_cli.lsd.packed import PackedNet, packed
from mirage_cli.lsd.packed_painter import PackedPainter
from mirage_cli.lsd.painter import TorchPainter
from mirage_cli.stream.families import open_model
from mirage_cli.stream.session import Session

SMALL = LSDConfig(looks=("a", "b"), widths=(16, 32, 64), middle_blocks=2, encoder_blocks=(1, 1), decoder_blocks=(2, 1))


def random_net(dtype: torch.dtype) -> LSDNet:
    """A network none of whose weights is zero, so that every layer counts."""
    torch.manual_seed(2)
    net = LSDNet(SMALL).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.5 / max(parameter[0].numel(), 1) ** 0.5 + 0.02))
    return net.to(dtype).to(memory_format=torch.channels_last)


def inputs(net: LSDNet, height: int, width: int) -> tuple:
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).clamp(-1, 1)

    memory = net.empty_memory(1) + 0.1 * random(1, SMALL.memory_tokens, SMALL.widths[2]).to(net.memory_null.dtype)
    past = Past(
        random(1, 3, height, width),
        random(1, 6, height // 2, width // 2),
        random(1, 1, height, width),
        memory,
        torch.ones(1),
    )
    return (
        random(1, 3, height, width),
        random(1, 3, height, width),
        past,
        position_channels(height, width).to(net.stem.weight.dtype),
    )


def modulation(net: LSDNet, weight: float) -> torch.Tensor:
    one = torch.ones(1)
    look = net.look_vector(torch.tensor([[weight, 1 - weight]], dtype=net.stem.weight.dtype))
    return net.modulation(look, 0 * one, one, torch.zeros(1, 3), one)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(48, 80), (16, 16), (64, 32)])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_packed_is_the_network(size, weight):
    net = random_net(torch.float32)
    given, film = inputs(net, *size), modulation(net, weight)
    wanted = net(*given, film)
    fast = PackedNet(net, *size)
    for constant in (None, net.stem_constant(given[0], given[3])):
        for a, b in zip(fast(*given, fast.fold(film), constant=constant), wanted):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert wanted.frame.std() > 0.1 and wanted.keep.std() > 0.01


@torch.inference_mode()
def test_bfloat16_is_as_near_to_float32_as_plain_torch_is():
    size = (64, 96)
    exact, net = random_net(torch.float32), random_net(torch.bfloat16)
    exact.load_state_dict({k: v.float() for k, v in net.state_dict().items()})
    truth = exact(*inputs(exact, *size), modulation(exact, 0.6)).frame
    given, film = inputs(net, *size), modulation(net, 0.6)
    fast = PackedNet(net, *size)
    plain, quick = ((x.frame.float() - truth).abs().mean() for x in (net(*given, film), fast(*given, fast.fold(film))))
    assert quick <= 1.3 * plain


def test_a_session_folds_each_prompt_once_and_again_when_it_changes(monkeypatch):
    folds = []
    fold = PackedNet.fold
    monkeypatch.setattr(PackedNet, "fold", lambda self, film: folds.append(1) or fold(self, film))
    session = Session(open_model("lsd-small", device="cpu"), width=64, height=48)
    assert isinstance(session.painter, PackedPainter) and "packed" in session.describe()["backend_reason"]
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    first = [session.step(frame) for _ in range(3)]
    assert len(folds) == 2  # with a past, and without
    session.set_look({"night": 1.0})
    assert np.abs(session.step(frame).astype(int) - first[-1]).mean() > 5
    assert len(folds) == 3


@pytest.mark.parametrize("fault", ["missing operator", "wrong numbers"])
def test_without_the_operators_plain_torch_does_it(monkeypatch, fault):
    if fault == "missing operator":

        def refuse(*arguments, **named):
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'\nmore")

        monkeypatch.setattr(module.PackedConv, "__call__", refuse)
    else:
        monkeypatch.setattr(module, "_self_test", lambda dtype: 0.7)
    net, reason = packed(random_net(torch.float32), 32, 32)
    assert net is None and reason.startswith("plain torch: ") and "\n" not in reason
    session = Session(open_model("lsd-small", device="cpu"), width=64, height=48)
    assert type(session.painter) is TorchPainter
    assert session.step(np.zeros((48, 64, 3), np.uint8)).shape == (48, 64, 3)
