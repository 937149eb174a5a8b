"""A small network of random weights, and a stream of frames for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mirage_cli.lsd.family import LsdModel
from mirage_cli.lsd.model import LSDConfig, LSDNet


def tiny_model() -> LsdModel:
    """A network of random weights, all paths alive; the same on every machine."""
    config = LSDConfig(
        looks=("first", "second", "identity"),
        widths=(16, 16, 64),
        encoder_blocks=(1, 1),
        middle_blocks=2,
        decoder_blocks=(1, 1),
        look_width=8,
        condition_width=16,
        memory_grid=(2, 2),
    )
    net = LSDNet(config)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in net.parameters():
            scale = 0.6 / max(1, parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.02
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return LsdModel("tiny", Path("."), net, torch.device("cpu"), torch.float32, "a test")


def moving(frames: int, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray]:
    """A smooth random plane under a panning window."""
    rng = np.random.default_rng(seed)
    plane = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2 + frames // 4 + 1, 3)).astype(np.float32)
    plane = np.kron(plane, np.ones((8, 8, 1)))
    for axis in (0, 1):
        plane = sum(np.roll(plane, k, axis) for k in range(-3, 4)) / 7
    plane = plane.astype(np.uint8)
    return [np.ascontiguousarray(plane[4 : 4 + height, 4 + 2 * i : 4 + 2 * i + width]) for i in range(frames)]
