"""The painters of LSD: one stream's state around the denoiser, and the frame in plain torch.

Each frame is three moves. Prepare: the past (the last three generated frames) is warped to where its things are in the
incoming frame; at a cut it is forgotten. Denoise: the network makes the clean frame from noise, the incoming frame, the
past, the memory bank and the look. Compose: the clean frame takes over from the warped past, a pixel at a time, and
becomes the past of the next frame.

``TorchPainter`` is written down here and is what the others must equal: ``PackedPainter`` (packed_painter.py) has the
network's weights as a CPU wants them, ``PlanPainter`` (plan_painter.py) the whole frame as hand-written kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mirage_cli.config import Size
from mirage_cli.lsd.conditioning import Conditioning
from mirage_cli.lsd.history import History
from mirage_cli.lsd.layers import BlockOps
from mirage_cli.lsd.memory import MemoryBank
from mirage_cli.lsd.model import FRAME_MULTIPLE, LSDNet, Past, Prediction, position_channels
from mirage_cli.lsd.sampling import compose, sample
from mirage_cli.lsd.work import network_work
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.stream.model import Look, Painted, Painter, Stage, Work, unmarked
from mirage_cli.stream.pixels import from_levels, padded, to_levels


class LsdPainter(Painter):
    """What all painters of LSD have: noise, conditioning, history and memory bank of one stream.

    Args:
        net: in evaluation mode, on its device.
        size: width and height of the frames in and out.

    Attributes:
        padded: height and width inside.
        noise: standard normal [1, 3, H, W], fp32, the same for all frames.
        positions: ``position_channels`` of the frame, [1, 8, H/4, W/4], in the network's type.
        history, memory, conditioning: allocated once and written in place.
        tokens: memory tokens of the last frame, [1, m, C]; the next frame overwrites them.
    """

    def __init__(self, net: LSDNet, size: Size, *, steps: int, seed: int, backend: str, reason: str) -> None:
        self.net, self.size, self.steps = net, size, steps
        self.backend, self.reason = backend, reason
        self.padded = height, width = padded(size, FRAME_MULTIPLE)
        weight = net.stem.weight
        self.noise = self._noise(seed).to(weight.device)
        self.positions = position_channels(height, width, weight.device).to(weight.dtype)
        self.history = History.empty(1, height, width, weight.device)
        self.memory = MemoryBank(net)
        self.conditioning = Conditioning(net, steps)
        self.tokens = self.memory.slot(0).clone()
        self._look: Look = {}

    def _noise(self, seed: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)  # the same noise on every device
        return torch.randn(1, 3, *self.padded, generator=generator)

    def between(self, cut: bool) -> None:
        if cut:
            self.memory.clear()
        else:
            self.memory.offer(self.tokens)

    def condition(self, look: Look, strength: float) -> None:
        if set(look) != set(self._look):
            self.memory.clear()  # it remembers pictures in the old looks
        self._look = dict(look)
        self.conditioning.condition(look, strength)

    def passes_through(self, look: Look, strength: float) -> bool:
        return strength == 0 or set(look) == {IDENTITY}

    def reseed(self, seed: int) -> None:
        self.noise.copy_(self._noise(seed))

    def forget(self) -> None:
        self.history.clear()
        self.memory.clear()

    def state(self) -> dict[str, Tensor]:
        return {**{f"history.{name}": t for name, t in vars(self.history).items()}, "memory.tokens": self.memory.tokens}

    def host_state(self) -> dict[str, int]:
        return {"frames": self.memory.frames, "writes": self.memory.writes}

    def load_host_state(self, counters: Mapping[str, int]) -> None:
        self.memory.frames, self.memory.writes = int(counters["frames"]), int(counters["writes"])

    def work(self) -> Work:
        return network_work(self.net, self.padded, self.steps)


class TorchPainter(LsdPainter):
    """The frame as torch operations.

    Args:
        ops: hand-written kernels for single operations of the network's blocks; None: torch's own.
    """

    def __init__(
        self,
        net: LSDNet,
        size: Size,
        *,
        steps: int,
        seed: int,
        reason: str,
        backend: str = "torch",
        ops: BlockOps | None = None,
    ) -> None:
        super().__init__(net, size, steps=steps, seed=seed, backend=backend, reason=reason)
        self.ops = ops
        with torch.inference_mode():
            self.stem_constant = net.stem_constant(self.noise, self.positions)

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self.stem_constant.copy_(self.net.stem_constant(self.noise, self.positions))

    def paint(self, rgb: Tensor, done: Stage = unmarked) -> Painted:
        frame = from_levels(rgb, *self.padded)
        past, cut = self.history.warped_to(frame, self.memory.tokens, self.memory.null)
        done("prepare")
        prediction = self.denoise(frame, past)
        done("denoise")
        generated = compose(prediction, past.last)
        finite = torch.isfinite(generated.sum())  # values are clamped: only a NaN makes the sum not finite
        self.history.advance(past, frame, generated)
        self.tokens.copy_(prediction.tokens)
        out = to_levels(generated, self.size)
        done("compose")
        return Painted(out, torch.stack((cut[0], finite.to(cut.dtype))).int())

    def denoise(self, frame: Tensor, past: Past) -> Prediction:
        """The network's prediction (clean frame, keep mask, memory tokens) for the incoming frame [1, 3, H, W] in
        [-1, 1] and the past that was warped to it."""
        modulations = self.conditioning.chosen(past.valid[0] > 0)
        return sample(self.net, self.noise, frame, past, self.positions, modulations, self.ops, self.stem_constant)
