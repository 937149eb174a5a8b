"""What the network is told beside the pictures: look, strength, flow time, and how far the past can be trusted.

All of it stays the same from one prompt to the next, so the modulation of every block is computed once a
prompt instead of once a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_cli.lsd.checkpoint import ModelBundle
from mirage_cli.lsd.packed import FoldedBlock, PackedNet
from mirage_cli.lsd.sampling import step_modulations


class Conditioning:
    """The modulations of one stream.

    Attributes:
        modulations: [2, steps, 1, modulation width], first with a past, then without. Allocated once and only
            ever written in place, so that a captured CUDA graph sees new prompts.
    """

    def __init__(self, bundle: ModelBundle, steps: int) -> None:
        self.bundle, self.steps = bundle, steps
        size = bundle.net.modulate.out_features
        self.modulations = torch.zeros(2, steps, 1, size, device=bundle.device, dtype=bundle.dtype)
        self._folded: dict[bool, list[list[FoldedBlock]]] = {}

    @torch.inference_mode()
    def tell(self, weights: dict[str, float], strength: float) -> None:
        """Condition on a mixture of looks, whose weights sum to one, and on a strength of 0 to 1."""
        self._folded.clear()
        net = self.bundle.net
        mixture = torch.tensor([[weights.get(look, 0.0) for look in self.bundle.looks]])
        look = net.look_vector(mixture.to(self.bundle.device, self.bundle.dtype))
        for row, has_past in zip(self.modulations, (True, False)):
            for entry, modulation in zip(row, step_modulations(net, look, self.steps, has_past, strength)):
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
