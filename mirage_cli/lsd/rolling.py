"""A video from a given one, several streams at once and a frame at a time, in the network's own numbers.

Training and ``mirage eval`` measure this way; a ``Session`` makes the same frames for one stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mirage_cli.lsd.history import History
from mirage_cli.lsd.memory import MemoryBank
from mirage_cli.lsd.model import LSDNet, position_channels
from mirage_cli.lsd.sampling import compose, sample, step_modulations


@torch.inference_mode()
def rolling(
    net: LSDNet,
    frames: Iterable[Tensor],
    look: Tensor,
    noise: Tensor,
    steps: int,
    use_past: bool = True,
    strength: float = 1.0,
    memory: bool = True,
    motion: bool = True,
) -> Iterator[Tensor]:
    """Generate a video from a given one, a frame at a time: each [B, 3, H, W] in [-1, 1] -> the same shape.

    Args:
        look: mixtures [B, L]; noise: [B, 3, H, W], the same for all frames.
        use_past: False hides history and memory, frame by frame translation.
        strength: 0 to 1, of all streams.
        memory, motion: False leaves the memory bank empty, or the past where it was.
    """
    batch, _, height, width = noise.shape
    device = noise.device
    positions = position_channels(height, width, device)
    vector = net.look_vector(look)
    modulations = {v: step_modulations(net, vector, steps, v, strength) for v in (True, False)}
    constant = net.stem_constant(noise, positions)
    history, bank = History.empty(batch, height, width, device), MemoryBank(net, batch)
    for number, frame in enumerate(frames):
        if not use_past:
            history.clear()
            bank.clear()
        flow = None if motion else frame.new_zeros(batch, 2, height // 2, width // 2)
        past, _ = history.warped_to(frame, bank.tokens, bank.null, flow)
        conditioned = modulations[number > 0 and use_past]
        prediction = sample(net, noise, frame, past, positions, conditioned, constant=constant)
        out = compose(prediction, past.last)
        history.advance(past, frame, out)
        if memory:
            bank.offer(prediction.tokens)
        yield out
