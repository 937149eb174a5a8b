"""Hand an ``LSDNet`` and a session's state to the engine's whole-frame program, as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mirage_cli.engine.program import FrameProgram, Network, Stream, why_not
from mirage_cli.lsd.history import History
from mirage_cli.lsd.memory import MemoryBank
from mirage_cli.lsd.model import LSDNet
from mirage_cli.stream.motion import CUT_THRESHOLD, STEPS


def describe_network(net: LSDNet) -> Network:
    """The denoiser as the engine sees it."""
    config = net.config
    return Network(
        weights={name: tensor.detach() for name, tensor in net.state_dict().items()},
        widths=tuple(config.widths),
        encoder=tuple(config.encoder_blocks),
        middle=config.middle_blocks,
        decoder=(config.decoder_blocks[0], config.decoder_blocks[1]),
        memory_grid=tuple(config.memory_grid),
        keep_limit=config.keep_limit,
        cut_threshold=CUT_THRESHOLD,
        motion_steps=STEPS,
    )


def program_refusal(net: LSDNet, dtype: torch.dtype, padded: tuple[int, int]) -> str | None:
    """Why the engine's program is not for this network, or None."""
    return why_not(describe_network(net), dtype, padded)


def compile_frame(
    net: LSDNet,
    history: History,
    memory: MemoryBank,
    modulations: Tensor,
    noise: Tensor,
    screen: Tensor,
    schedule: Sequence[tuple[float, float]],
    size: tuple[int, int],
    device: torch.device,
) -> FrameProgram:
    """The program of a session's frame; ``size`` is height and width of the frames in and out.

    Raises:
        GpuError: with the reason why this GPU or this network cannot have one.
    """
    stream = Stream(
        last=history.last,
        older=history.older,
        input_luma=history.input_luma,
        valid=history.valid,
        memory=memory.tokens,
        modulations=modulations,
        noise=noise,
        screen=screen,
        schedule=schedule,
        height=size[0],
        width=size[1],
    )
    return FrameProgram(describe_network(net), stream, device)
