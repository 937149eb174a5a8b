"""The short past of a stream, as tensors of fixed shape: three generated frames and one incoming one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_cli.lsd.model import Past, luma
from mirage_cli.stream.motion import CUT_THRESHOLD, cut_score, estimate_motion
from mirage_cli.stream.planes import resize_flow, shrink, warp


@dataclass
class History:
    """What is carried from frame to frame, for a batch of streams.

    Attributes:
        last: F(i), [B, 3, H, W] in [-1, 1].
        older: F(i-1) and F(i-2) at half size, warped to where things are in I(i), [B, 6, H/2, W/2].
        input_luma: luma of I(i), [B, 1, H, W].
        valid: 1 where there is a past, [B].
    """

    last: Tensor
    older: Tensor
    input_luma: Tensor
    valid: Tensor

    @classmethod
    def empty(cls, batch: int, height: int, width: int, device: torch.device | str = "cpu") -> History:
        """No past at all; height and width are multiples of 16."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        return cls(
            zeros(batch, 3, height, width),
            zeros(batch, 6, height // 2, width // 2),
            zeros(batch, 1, height, width),
            zeros(batch),
        )

    def motion_to(self, frame: Tensor) -> Tensor:
        """Where the things of the incoming frame [B, 3, H, W] were in the last one: flow [B, 2, H/2, W/2]."""
        return estimate_motion(self.input_luma, luma(frame))

    def warped_to(self, frame: Tensor, memory: Tensor, null: Tensor, flow: Tensor | None = None) -> tuple[Past, Tensor]:
        """The past where its things are in the incoming frame, and whether that frame cuts.

        Args:
            frame: I(i+1), [B, 3, H, W].
            memory: the bank's tokens [B, M, C]; null: the empty token [1, 1, C]. After a cut the past
                is all zero, invalid, and the memory null, without a branch on the host.
            flow: ``motion_to(frame)``, where the caller has it or wants another.

        Returns:
            The past and the cut flags [B] (0 or 1).
        """
        following = luma(frame)
        if flow is None:
            flow = self.motion_to(frame)
        # Bicubic, or each frame of a pan would soften the strokes once more.
        pictures = torch.cat((self.last, self.input_luma), dim=1)
        pictures = warp(pictures, resize_flow(flow, 2), cubic=True).clamp(-1, 1)
        older = warp(self.older, flow)
        cut = (cut_score(pictures[:, 3:], following) > CUT_THRESHOLD).to(frame.dtype) * self.valid
        valid = self.valid * (1 - cut)
        mask = valid[:, None, None, None]
        keep = valid[:, None, None].bool()
        past = Past(
            pictures[:, :3] * mask, older * mask, pictures[:, 3:] * mask, torch.where(keep, memory, null), valid
        )
        return past, cut

    def advance(self, past: Past, frame: Tensor, generated: Tensor) -> None:
        """Make F(i+1) the last frame; writes in place, so that a captured graph keeps its addresses."""
        self.older.copy_(torch.cat((shrink(past.last, 2), past.older[:, :3]), dim=1))
        self.last.copy_(generated)
        self.input_luma.copy_(luma(frame))
        self.valid.fill_(1.0)

    def clear(self) -> None:
        """Forget the past, in place."""
        for tensor in (self.last, self.older, self.input_luma, self.valid):
            tensor.zero_()
