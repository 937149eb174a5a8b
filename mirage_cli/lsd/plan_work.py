"""What each launch of a frame's plan works on, for ``mirage bench --floor``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.engine.conv import ConvCall
from mirage_cli.kernels.launch import Launch
from mirage_cli.lsd.plan import FramePlan
from mirage_cli.stream.model import KernelUse


def kernels_of(plan: FramePlan) -> list[KernelUse]:
    """All launches of a frame, those on the side stream last."""
    launches: list[tuple[int | None, Launch]] = [
        *enumerate(plan.launches),
        *((None, launch) for others in plan.beside.values() for launch in others),
    ]
    return [_use(plan, place, launch) for place, launch in launches]


def _use(plan: FramePlan, place: int | None, launch: Launch) -> KernelUse:
    call = None if place is None else plan.layers.get(place)
    flops, bare = 0, None
    if call is not None:
        flops = call.flops
        bare = partial(bare_convolution, call, plan.plan.device)
    elif launch.name.startswith("mirage_attention"):
        queries, channels = plan.mixed.shape
        flops = 4 * queries * plan.packed.shape[0] * channels
    return KernelUse(launch.name.removeprefix("mirage_"), partial(_alone, launch), flops, bare)


def _alone(launch: Launch, stream: int) -> None:
    """Queue a launch that waits for all before it."""
    pdl, launch.pdl = launch.pdl, False
    launch(stream)
    launch.pdl = pdl


def bare_convolution(call: ConvCall, device: torch.device) -> Callable[[], Tensor]:
    """A function that does a layer's convolution in torch, NHWC, and nothing else.

    The bias (in torch a kernel of its own), norm, modulation, activation, residual and concatenation that the layer's
    kernel does as well are left out.
    """
    shape = call.shape
    parts = [w if w.dim() == 4 else w[:, :, None, None] for w in call.weights]
    if shape.taps == 9:
        parts = parts[:1]  # a second input of a 3x3 layer is left out
    weight = torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)
    x = torch.randn(1, weight.shape[1], call.size[0] * shape.stride, call.size[1] * shape.stride, device=device)
    x = x.to(weight.dtype).contiguous(memory_format=torch.channels_last)
    padding = 1 if shape.taps == 9 else 0
    return lambda: F.conv2d(x, weight, stride=shape.stride, padding=padding)
