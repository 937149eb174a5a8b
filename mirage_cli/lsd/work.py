"""What a frame of the network costs at least."""

from __future__ import annotations

import torch

from mirage_cli.lsd.model import LSDNet, Past, position_channels
from mirage_cli.stream.model import Work


def network_work(net: LSDNet, padded: tuple[int, int], steps: int) -> Work:
    """All denoising steps of a frame of ``padded`` (height, width): convolutions, linear layers and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    height, width = padded
    weight = net.stem.weight
    frame = torch.zeros(1, 3, height, width, device=weight.device)
    older = torch.zeros(1, 6, height // 2, width // 2, device=weight.device)
    past = Past(frame, older, frame[:, :1], net.empty_memory(1), torch.ones(1, device=weight.device))
    positions = position_channels(height, width, weight.device).to(weight.dtype)
    modulation = weight.new_zeros(1, net.modulate.out_features)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(frame, frame, past, positions, modulation)
    weight_bytes = sum(p.numel() * p.element_size() for p in net.parameters())
    return Work(counter.get_total_flops() * steps, weight_bytes)
