"""The ways in which a network of LSD can paint, each with one optimisation more: rungs of ``mirage bench --ladder``."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mirage_cli.config import Size
from mirage_cli.engine import reference
from mirage_cli.engine.ops import OpSet, select_backend
from mirage_cli.lsd.layers import BlockOps, in_memory_order
from mirage_cli.lsd.model import LSDNet
from mirage_cli.lsd.packed_painter import cpu_painter
from mirage_cli.lsd.painter import LsdPainter, TorchPainter
from mirage_cli.lsd.plan_painter import PlanPainter
from mirage_cli.stream.model import Variant
from mirage_cli.stream.placement import dtype_name

SEED = 0
ASKED = "torch: asked for"
KERNELS = (
    ("norms", "channel norm, modulation and SiLU in one kernel", "channel_norm_film_silu"),
    ("sums", "residual sums", "residual_add"),
    ("doubling", "nearest doubling beside the skip connection", "upsample_concat"),
)


@dataclass(frozen=True)
class SomeOps:
    """Operations of which only those in ``taken`` are kernels, the others torch."""

    kernels: BlockOps
    taken: frozenset[str]

    def _of(self, op: str) -> BlockOps:
        return self.kernels if op in self.taken else reference

    def channel_norm_film_silu(self, x: Tensor, scale: Tensor, shift: Tensor, *, normalise: bool = True) -> Tensor:
        return self._of("channel_norm_film_silu").channel_norm_film_silu(x, scale, shift, normalise=normalise)

    def residual_add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._of("residual_add").residual_add(x, residual)

    def upsample_concat(self, x: Tensor, skip: Tensor) -> Tensor:
        return self._of("upsample_concat").upsample_concat(x, skip)


def variants(net: LSDNet) -> list[Variant]:
    """From the plainest to the one that a session takes, on the network's device."""
    return on_cuda(net) if net.stem.weight.is_cuda else on_cpu(net)


def on_cuda(net: LSDNet) -> list[Variant]:
    """Eager NCHW, channels_last, one CUDA graph, the single-op kernels group by group, then the whole frame as a plan,
    first with launches that wait for one another, then as it runs."""

    def plain(size: Size, steps: int) -> LsdPainter:
        return TorchPainter(net, size, steps=steps, seed=SEED, reason=ASKED)

    def in_nchw(size: Size, steps: int) -> LsdPainter:
        return TorchPainter(_copy(net, channels_last=False), size, steps=steps, seed=SEED, reason=ASKED)

    def with_kernels(taken: frozenset[str], size: Size, steps: int) -> LsdPainter:
        kernels = SomeOps(_kernels(net), taken)
        return TorchPainter(net, size, steps=steps, seed=SEED, reason=ASKED, backend="ptx", ops=kernels)

    def planned(pdl: bool, size: Size, steps: int) -> LsdPainter:
        return PlanPainter(net, size, steps=steps, seed=SEED, ops=_kernels(net), pdl=pdl)

    result = [
        Variant("eager", "torch, NCHW, a launch an op", in_nchw, graph=False),
        Variant("channels_last", "torch, NHWC", plain, graph=False),
        Variant("graph", "the same in one CUDA graph", plain),
    ]
    taken: frozenset[str] = frozenset()
    for name, what, op in KERNELS:
        taken |= {op}
        result.append(Variant(f"+ {name}", f"kernel: {what}", partial(with_kernels, taken)))
    whole = "the whole frame as fused kernels: convolutions, attention, motion, frame in and out"
    return [
        *result,
        Variant("program", whole, partial(planned, False)),
        Variant("all", "kernels begin before the one ahead has ended", partial(planned, True)),
    ]


def on_cpu(net: LSDNet) -> list[Variant]:
    """Plain fp32, channels_last, and as a session runs there."""

    def in_fp32(channels_last: bool, size: Size, steps: int) -> LsdPainter:
        exact = _copy(net, channels_last=channels_last, dtype=torch.float32)
        return TorchPainter(exact, size, steps=steps, seed=SEED, reason=ASKED)

    def as_it_runs(size: Size, steps: int) -> LsdPainter:
        return cpu_painter(net, size, steps=steps, seed=SEED, reason=ASKED)

    kind = dtype_name(net.stem.weight.dtype)
    return [
        Variant("fp32", "torch, NCHW, fp32", partial(in_fp32, False)),
        Variant("channels_last", "torch, NHWC, fp32", partial(in_fp32, True)),
        Variant("all", f"as it runs here: NHWC, {kind}, packed weights where there is oneDNN", as_it_runs),
    ]


def _kernels(net: LSDNet) -> OpSet:
    """The kernels of the network's device; GpuError where there are none."""
    return select_backend(net.stem.weight.device, "ptx")[0]


def _copy(net: LSDNet, *, channels_last: bool, dtype: torch.dtype | None = None) -> LSDNet:
    """The network in another memory order or type."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    return in_memory_order(copy.deepcopy(net).to(dtype=dtype or net.stem.weight.dtype), order)
