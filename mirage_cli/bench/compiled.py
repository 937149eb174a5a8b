"""A painter through torch.compile, the rival of ``mirage bench --race``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mirage_cli.stream.model import Look, Painted, Painter, Stage, unmarked

MODES = ("default", "max-autotune-no-cudagraphs")


class CompiledPainter(Painter):
    """Another painter's frames, compiled; all else is that painter's.

    Args:
        inner: of plain torch operations.
        mode: of ``MODES``.
        whole: one graph with every size known; False lets the compiler break it where it must, as at OpenCV's
            functions on a CPU.
    """

    def __init__(self, inner: Painter, mode: str, *, whole: bool) -> None:
        self.inner = inner
        self.backend, self.reason, self.derived = inner.backend, f"torch.compile, {mode}", inner.derived
        self._paint = torch.compile(
            inner.paint, mode=None if mode == "default" else mode, fullgraph=whole, dynamic=False if whole else None
        )

    def paint(self, rgb: Tensor, done: Stage = unmarked) -> Painted:
        painted: Painted = self._paint(rgb, done)
        return painted

    def between(self, cut: bool) -> None:
        self.inner.between(cut)

    def condition(self, look: Look, strength: float) -> None:
        self.inner.condition(look, strength)

    def passes_through(self, look: Look, strength: float) -> bool:
        return self.inner.passes_through(look, strength)

    def reseed(self, seed: int) -> None:
        self.inner.reseed(seed)

    def forget(self) -> None:
        self.inner.forget()

    def state(self) -> dict[str, Tensor]:
        return self.inner.state()

    def host_state(self) -> dict[str, int]:
        return self.inner.host_state()

    def load_host_state(self, counters: Mapping[str, int]) -> None:
        self.inner.load_host_state(counters)
