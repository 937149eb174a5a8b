"""The frame on CUDA as hand-written kernels: one list of launches from picture to picture (plan.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mirage_cli.config import Size
from mirage_cli.engine.ops import OpSet
from mirage_cli.errors import GpuError
from mirage_cli.lsd.model import FRAME_MULTIPLE, LSDNet
from mirage_cli.lsd.painter import LsdPainter
from mirage_cli.lsd.plan import plan_frame, plan_refusal
from mirage_cli.lsd.plan_work import kernels_of
from mirage_cli.lsd.sampling import schedule
from mirage_cli.stream.model import KernelUse, Painted, Stage, unmarked
from mirage_cli.stream.pixels import padded


def why_not(net: LSDNet, size: Size) -> str | None:
    """Why the kernels are not made for this network, or for frames of ``size`` (width, height); or None."""
    return plan_refusal(net, net.stem.weight.dtype, padded(size, FRAME_MULTIPLE))


class PlanPainter(LsdPainter):
    """The whole frame as one plan of launches.

    Args:
        ops: the choice of PTX that this follows.
        pdl: kernels begin before the one ahead has ended (programmatic dependent launch), where they can.

    Raises:
        GpuError: this GPU or this network cannot have one; says why.
    """

    def __init__(self, net: LSDNet, size: Size, *, steps: int, seed: int, ops: OpSet, pdl: bool = True) -> None:
        if refusal := why_not(net, size):
            raise GpuError(refusal, "use --backend auto or torch")
        super().__init__(net, size, steps=steps, seed=seed, backend="ptx", reason=ops.reason)
        self.ops = ops
        width, height = size
        self.plan = plan_frame(
            net,
            self.history,
            self.memory,
            self.conditioning.modulations,
            self.noise,
            self.positions,
            schedule(steps),
            (height, width),
            ops.device,
        )
        if not pdl:
            self.plan.plan.use_pdl(False)
        self.reason = f"{ops.reason}; the whole frame is one plan of {len(self.plan.launches)} launches"
        self.derived = frozenset(self._of_plan())

    def _of_plan(self) -> dict[str, Tensor]:
        """What the plan carries from frame to frame beside history and memory."""
        return {f"program.{number}": tensor for number, tensor in enumerate(self.plan.state)}

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self.plan.take_noise()

    def paint(self, rgb: Tensor, done: Stage = unmarked) -> Painted:
        out, flags, self.tokens = self.plan.run(rgb)
        done("denoise")
        return Painted(out, flags)

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), **self._of_plan()}

    @torch.inference_mode()
    def lost(self, names: Sequence[str]) -> None:
        self.history.valid.zero_()  # the past cannot be warped without, so there is none; the memory bank stays

    def kernels(self) -> Sequence[KernelUse]:
        return kernels_of(self.plan)
