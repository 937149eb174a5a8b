"""What the network is conditioned on beside the pictures: look, strength, flow time, and how far the past can be
trusted.

All of it stays the same from one prompt to the next, so the modulation of every block is computed once a
prompt instead of once a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_cli.lsd.model import LSDNet
from mirage_cli.lsd.packed import FoldedBlock, PackedNet
from mirage_cli.lsd.sampling import step_modulations
from mirage_cli.stream.model import Look


class Conditioning:
    """The modulations of one stream.

    Attributes:
        modulations: [2, steps, 1, modulation width], first with a past, then without. Allocated once and only
            ever written in place, so that a captured CUDA graph sees new prompts.
    """

    def __init__(self, net: LSDNet, steps: int) -> None:
        self.net, self.steps = net, steps
        weight = net.modulate.weight
        self.modulations = torch.zeros(2, steps, 1, len(weight), device=weight.device, dtype=weight.dtype)
        self._folded: dict[bool, list[list[FoldedBlock]]] = {}

    @torch.inference_mode()
    def condition(self, look: Look, strength: float) -> None:
        """Condition on a mixture of looks, whose weights sum to one, and on a strength of 0 to 1."""
        self._folded.clear()
        mixture = torch.tensor([[look.get(name, 0.0) for name in self.net.config.looks]])
        vector = self.net.look_vector(mixture.to(self.modulations.device, self.modulations.dtype))
        for row, has_past in zip(self.modulations, (True, False)):
            for entry, modulation in zip(row, step_modulations(self.net, vector, self.steps, has_past, strength)):
                entry.copy_(modulation)

    def chosen(self, has_past: Tensor) -> list[Tensor]:
        """The modulation of each step, [1, modulation width], by a flag on the device: nothing waits for it."""
        return list(torch.where(has_past, self.modulations[0], self.modulations[1]))

    def folded(self, packed: PackedNet, has_past: bool) -> list[list[FoldedBlock]]:
        """The packed network's blocks of each step with the modulation folded in; made when first wanted."""
        if has_past not in self._folded:
            row = self.modulations[0 if has_past else 1]
            self._folded[has_past] = [packed.fold(modulation) for modulation in row]
        return self._folded[has_past]
