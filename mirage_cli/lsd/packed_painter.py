"""The frame on a CPU: as ``TorchPainter``, with the network on packed weights where torch can do that."""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_cli.config import Size
from mirage_cli.lsd.model import FRAME_MULTIPLE, LSDNet, Past, Prediction
from mirage_cli.lsd.packed import PackedNet, packed
from mirage_cli.lsd.painter import TorchPainter
from mirage_cli.lsd.sampling import sample
from mirage_cli.stream.pixels import padded


class PackedPainter(TorchPainter):
    """Weights in oneDNN's layout, and the look folded into them once a prompt.

    Args:
        packed: from ``packed.packed``, for frames of ``size`` padded.
    """

    def __init__(self, net: LSDNet, packed: PackedNet, size: Size, *, steps: int, seed: int, reason: str) -> None:
        super().__init__(net, size, steps=steps, seed=seed, reason=reason)
        self.packed = packed

    def denoise(self, frame: Tensor, past: Past) -> Prediction:
        blocks = self.conditioning.folded(self.packed, bool(past.valid[0] > 0))
        return sample(self.packed, self.noise, frame, past, self.positions, blocks, constant=self.stem_constant)


def cpu_painter(net: LSDNet, size: Size, *, steps: int, seed: int, reason: str) -> TorchPainter:
    """Packed where this torch can and gives the same numbers, else plain; its ``reason`` says which and why."""
    with torch.inference_mode():
        fast, how = packed(net, *padded(size, FRAME_MULTIPLE))
    reason = f"{reason}; {how}"
    if fast is None:
        return TorchPainter(net, size, steps=steps, seed=seed, reason=reason)
    return PackedPainter(net, fast, size, steps=steps, seed=seed, reason=reason)
