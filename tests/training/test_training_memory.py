"""Gradient checkpointing: the same gradients from less that is kept for the backward pass."""

from __future__ import annotations

import weakref

import pytest
import torch

from mirage_cli.lsd.model import LSDConfig, LSDNet, Past, position_channels
from mirage_cli.training.state import RunningMean

pytestmark = pytest.mark.usefixtures("one_thread")


class Kept:
    """Bytes that autograd keeps for the backward pass, each tensor counted from pack until it is let go.

    Weights are left out: they are there anyway.
    """

    def __init__(self, net: LSDNet) -> None:
        self.weights = {parameter.data_ptr() for parameter in net.parameters()}
        self.now = self.peak = 0

    def pack(self, tensor: torch.Tensor):
        holder = [tensor]
        whole = tensor if tensor._base is None else tensor._base
        size = 0 if whole.data_ptr() in self.weights else tensor.numel() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)

        class Box:
            value = holder

        box = Box()
        weakref.finalize(box, self.free, size)
        return box

    def free(self, size: int) -> None:
        self.now -= size

    @staticmethod
    def unpack(box) -> torch.Tensor:
        return box.value[0]


def network(seed: int = 1) -> LSDNet:
    """A small one whose zero-initialised layers do something."""
    torch.manual_seed(seed)
    net = LSDNet(
        LSDConfig(looks=("a", "b"), widths=(32, 48, 64), encoder_blocks=(2, 2), middle_blocks=4, decoder_blocks=(3, 2))
    )
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.03)
    return net


def gradients(net: LSDNet, kept: Kept) -> dict[str, torch.Tensor]:
    """Gradients of one frame's L1, float32 on the CPU."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    n, size = 2, 64
    past = Past(
        random(n, 3, size, size),
        random(n, 6, size // 2, size // 2),
        random(n, 1, size, size),
        net.empty_memory(n),
        torch.ones(n),
    )
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        look = net.look_vector(torch.eye(2))
        modulation = net.modulation(look, torch.zeros(n), torch.ones(n), torch.zeros(n, 3), torch.ones(n))
        out = net(random(n, 3, size, size), random(n, 3, size, size), past, position_channels(size, size), modulation)
        loss = (out.frame - 0.2).abs().mean() + out.keep.mean() + out.tokens.abs().mean()
    loss.backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def test_recomputing_gives_the_same_gradients_from_less_memory():
    plain, again = network(), network()
    again.recompute = True
    kept, less = Kept(plain), Kept(again)
    expected, found = gradients(plain, kept), gradients(again, less)
    assert expected.keys() == found.keys() and len(found) > 50
    for name, value in expected.items():
        assert value is not None and value.abs().max() > 0, name
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)
    assert less.peak < 0.45 * kept.peak, (less.peak, kept.peak)


def test_recomputing_changes_nothing_without_gradients_and_is_not_saved():
    net = network()
    kept = list(net.state_dict())
    net.recompute = True
    assert list(net.state_dict()) == kept
    teacher = RunningMean(net, 0.9).network(net)
    x = torch.zeros(1, 3, 32, 32)
    past = Past(x, torch.zeros(1, 6, 16, 16), x[:, :1], net.empty_memory(1), torch.ones(1))
    calls = []
    for block in teacher.blocks():
        block.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad():
        modulation = teacher.modulation(
            teacher.look_vector(torch.eye(2)[:1]), *torch.zeros(2, 1), torch.zeros(1, 3), torch.ones(1)
        )
        teacher(x, x, past, position_channels(32, 32), modulation)
    assert calls == [False] * len(teacher.blocks())
