"""What feeds a stream with pictures: a camera that walks over stills, or real clips played to and fro.

Both have ``choices`` (pictures or clips to choose from), ``restart``, ``advance`` and ``view``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_cli.training.camera import CameraWalk, WalkConfig
from mirage_cli.training.data import PictureBank, VideoBank


class StillWalk(CameraWalk):
    """Camera walks over a bank of stills."""

    def __init__(
        self, bank: PictureBank, streams: int, size: int, config: WalkConfig, generator: torch.Generator
    ) -> None:
        device = bank.photos.device
        height, width = bank.photos.shape[2:]
        super().__init__(streams, (size, size), (height, width), config, device, generator)
        self.bank, self.choices = bank, len(bank)

    def view(self, index: Tensor, look: Tensor, other: Tensor) -> Tensor:
        """Frames with their styled twins in two looks: [B, 3 + 4 + 4, h, w] in [-1, 1].

        Args:
            index: stills of background and object [2, B]; look, other: [B], positions in the bank.
        """
        return self.look(*(self.bank.gather(i, look, other) for i in index))


class ClipPlayer:
    """Windows of ``size`` on real clips, each played forwards and backwards without end.

    Motion is the clip's own: parallax, people, things that turn. Half of the windows are mirrored.
    """

    def __init__(self, bank: VideoBank, streams: int, size: int, generator: torch.Generator) -> None:
        self.bank, self.size, self.generator = bank, size, generator
        self.device, self.choices = bank.pictures.photos.device, bank.clips
        self.position = torch.zeros(streams, dtype=torch.long, device=self.device)
        self.corner = torch.zeros(streams, 2, dtype=torch.long, device=self.device)
        self.mirrored = torch.zeros(streams, dtype=torch.bool, device=self.device)
        self.restart(torch.ones(streams, dtype=torch.bool, device=self.device))

    def restart(self, which: Tensor) -> None:
        """New windows and places in time for the streams in the mask [B]."""
        n = len(which)

        def pick(count: int) -> Tensor:
            return torch.randint(0, count, (n,), device=self.device, generator=self.generator)

        height, width = self.bank.pictures.photos.shape[2:]
        self.position = torch.where(which, pick(2 * self.bank.length - 2), self.position)
        corner = torch.stack((pick(height - self.size + 1), pick(width - self.size + 1)), dim=1)
        self.corner = torch.where(which[:, None], corner, self.corner)
        self.mirrored = torch.where(which, pick(2) > 0, self.mirrored)

    def advance(self) -> None:
        """One frame on."""
        self.position = (self.position + 1) % (2 * self.bank.length - 2)

    def view(self, index: Tensor, look: Tensor, other: Tensor) -> Tensor:
        """As ``StillWalk.view``; the clips are index[0]."""
        last = self.bank.length - 1
        frame = index[0] * self.bank.length + last - (self.position - last).abs()
        pictures = self.bank.pictures.gather(frame, look, other)
        at = torch.arange(self.size, device=self.device)
        columns = torch.where(self.mirrored[:, None], self.size - 1 - at, at) + self.corner[:, 1:]
        rows = at + self.corner[:, :1]
        streams = torch.arange(len(frame), device=self.device)[:, None, None]
        # [B, h, w, C], since indices come first, back to [B, C, h, w]
        return pictures[streams, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
