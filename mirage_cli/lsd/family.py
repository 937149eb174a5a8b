"""The family of Live Stream Diffusion models: how to open one, and which painter it takes where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from mirage_cli.config import Size
from mirage_cli.engine.ops import select_backend
from mirage_cli.errors import GpuError
from mirage_cli.lsd.checkpoint import load_net, read_config
from mirage_cli.lsd.model import FRAME_MULTIPLE, LSDNet
from mirage_cli.lsd.packed_painter import cpu_painter
from mirage_cli.lsd.painter import LsdPainter, TorchPainter
from mirage_cli.lsd.plan_painter import PlanPainter, why_not
from mirage_cli.lsd.rolling import rolling
from mirage_cli.lsd.sampling import MAX_STEPS
from mirage_cli.lsd.variants import ASKED, variants
from mirage_cli.prompts.reader import PromptReader
from mirage_cli.stream.model import Look, Model, Variant
from mirage_cli.stream.placement import choose_dtype

# Memory of a stream. Measured on the CPU with lsd-small, one step: peak resident memory beyond the loaded model was
# 470 MB at 1920x1080 and 770 MB at 2560x1440 in bf16, 695 MB and 960 MB in fp32 (3 frames each). These lie above all.
BASE_BYTES = 64 << 20
PIXEL_BYTES = {torch.float32: 400, torch.bfloat16: 260, torch.float16: 260}


def open_model(name: str, folder: Path, device: torch.device, dtype: str) -> LsdModel:
    """See ``stream.families.Family``."""
    kind, reason = choose_dtype(dtype, device)
    return LsdModel(name, folder, load_net(folder, device, kind), device, kind, reason)


def look_names(folder: Path) -> list[str]:
    """See ``stream.families.Family``."""
    return list(read_config(folder).looks)


def open_prompts(folder: Path) -> PromptReader:
    """See ``stream.families.Family``."""
    return PromptReader(folder)


@dataclass(eq=False)
class LsdModel(Model):
    """A denoiser ready to paint.

    Attributes:
        name: as the catalogue or the user calls it; path: its folder.
        net: in evaluation mode, on ``device``, in ``dtype``, channels_last.
        dtype_reason: why this type, one sentence.
    """

    name: str
    path: Path
    net: LSDNet
    device: torch.device
    dtype: torch.dtype
    dtype_reason: str

    stride = FRAME_MULTIPLE
    steps_allowed = range(1, MAX_STEPS + 1)

    @property
    def looks(self) -> Sequence[str]:
        """Names of the looks in the order of the look table."""
        return self.net.config.looks

    @property
    def first_look(self) -> Look:
        return {self.looks[0]: 1.0}

    @cached_property
    def prompts(self) -> PromptReader:
        return open_prompts(self.path)

    def accepts(self, key: str) -> bool:
        return key in self.looks

    def needed_bytes(self, size: Size, steps: int) -> int:
        """One step or several: what they hold is the same."""
        return needed_bytes(size, self.dtype)

    def painter(self, size: Size, *, steps: int, seed: int, backend: str = "auto") -> LsdPainter:
        """The whole frame as kernels; for a network that these are not made for, kernels op by op; else torch, on a CPU
        with packed weights."""
        ops, reason = select_backend(self.device, backend)
        if ops.backend == "ptx":
            if refusal := why_not(self.net, size):
                reason = f"{ops.reason}; op by op: {refusal}"
                return TorchPainter(self.net, size, steps=steps, seed=seed, reason=reason, backend="ptx", ops=ops)
            try:
                return PlanPainter(self.net, size, steps=steps, seed=seed, ops=ops)
            except GpuError as error:
                if backend == "ptx":
                    raise
                reason = f"torch: {error.message}"
        if self.device.type != "cpu":
            return TorchPainter(self.net, size, steps=steps, seed=seed, reason=reason)
        return cpu_painter(self.net, size, steps=steps, seed=seed, reason=reason)

    def plain(self, size: Size, *, steps: int, seed: int) -> TorchPainter:
        return TorchPainter(self.net, size, steps=steps, seed=seed, reason=ASKED)

    def variants(self) -> Sequence[Variant]:
        return variants(self.net)

    def roll(
        self,
        frames: Iterable[Tensor],
        look: Look,
        *,
        steps: int,
        seed: int,
        history: bool = True,
        without: Sequence[str] = (),
    ) -> Iterator[Tensor]:
        """See ``Model.roll``; ``without`` may name "memory" and "motion"."""
        frames = iter(frames)
        first = next(frames)
        mixture = torch.tensor([[look.get(name, 0.0) for name in self.looks]]).to(self.device, self.dtype)
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        left = {part: part not in without for part in ("memory", "motion")}
        return rolling(self.net, chain([first], frames), mixture.repeat(len(first), 1), noise, steps, history, **left)


def needed_bytes(size: Size, dtype: torch.dtype) -> int:
    """Of a stream of frames of ``size``, the loaded model not counted."""
    return BASE_BYTES + size[0] * size[1] * PIXEL_BYTES[dtype]
