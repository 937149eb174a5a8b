"""Context memory bank: a few frames' low-level features that outlive the short history.

Constant size however long the stream: ``anchors`` slots are written once after a reset and never
leave, the others form a ring. Empty slots hold the network's null token, so shapes never change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_cli.lsd.model import LSDNet

WRITE_EVERY = 8  # frames between two writes; the ring then reaches some 32 frames back


class MemoryBank:
    """The bank of one batch of streams.

    ``tokens`` [B, M, C] is allocated once and only ever written in place, so a captured CUDA graph may
    read it.
    """

    def __init__(self, net: LSDNet, batch: int = 1, dtype: torch.dtype | None = None) -> None:
        self.config = net.config
        self.null = net.memory_null.detach().to(dtype or net.memory_null.dtype)
        self.tokens = net.empty_memory(batch).detach().to(self.null.dtype).clone()
        self.frames = 0
        self.writes = 0

    def clear(self) -> None:
        """Forget everything, anchors included."""
        self.tokens.copy_(self.null.expand_as(self.tokens))
        self.frames = self.writes = 0

    def offer(self, tokens: Tensor) -> None:
        """Show the bank the newest frame's tokens [B, m, C]; it takes every WRITE_EVERY-th."""
        if self.frames % WRITE_EVERY == 0:
            self.slot(self.next_slot()).copy_(tokens)
            self.writes += 1
        self.frames += 1

    def next_slot(self) -> int:
        """Where the next write goes: anchors first, then round the ring."""
        anchors, slots = self.config.memory_anchors, self.config.memory_slots
        if self.writes < anchors:
            return self.writes
        return anchors + (self.writes - anchors) % (slots - anchors)

    def slot(self, index: int) -> Tensor:
        """View of one slot's tokens: [B, m, C]."""
        size = self.config.memory_grid[0] * self.config.memory_grid[1]
        return self.tokens[:, index * size : (index + 1) * size]
