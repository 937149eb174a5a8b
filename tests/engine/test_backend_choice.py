"""Which ops a device gets, why, and what a kernel cannot take."""

from __future__ import annotations

import pytest
import torch
from mirage_cli.kernels import loader

from mirage_cli.engine import reference
from mirage_cli.engine.ops import PtxOps, select_backend
from mirage_cli.errors import GpuError, UsageProblem


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
