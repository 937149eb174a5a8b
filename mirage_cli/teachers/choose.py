"""One door to all teachers: which look is painted by whom, and in which of its two stages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from mirage_cli.errors import UsageProblem
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.teachers import filters
from mirage_cli.teachers.neural_recipes import RECIPES


def filter_looks(prefer_filters: Iterable[str]) -> set[str]:
    """Looks that are painted by filters: those that no network paints, and those preferred from them."""
    return (set(filters.LOOKS) - set(RECIPES)) | (set(prefer_filters) & set(filters.LOOKS))


class Teachers:
    """Renders looks: ``scene`` once a still, ``screen`` on each view of it.

    Args:
        root: the data folder, with ``teachers/`` and ``styles/`` where a look is painted by a network;
            None does without, and only ``filter_looks`` can be painted.
        looks: the model's looks, in order.
        prefer_filters: looks that both kinds of teacher know and the filters paint better.
    """

    def __init__(
        self, root: Path | None, looks: Iterable[str], prefer_filters: Iterable[str], device: torch.device
    ) -> None:
        self.looks = list(looks)
        self.by_filter = filter_looks(prefer_filters)
        missing = set(self.looks) - self.by_filter - {IDENTITY}
        if missing and root is not None:
            from mirage_cli.teachers.neural_teachers import NeuralTeachers

            self.neural = NeuralTeachers(root / "teachers", root / "styles", device)
            missing -= set(self.neural.looks)
        if missing:
            raise UsageProblem(f"no teacher knows the looks {sorted(missing)}", "take them out of the config's looks")
        self.screen_bound = [
            i for i, look in enumerate(self.looks) if look in self.by_filter and look in filters.SCREEN_BOUND
        ]

    def scene(self, look: str, rgb: Tensor) -> Tensor:
        """What moves with the scene: [B, 3, H, W] in 0..1 -> [B, 1 to 4, H, W] in 0..1."""
        return filters.scene(look, rgb) if look in self.by_filter else self.neural.render(look, rgb)

    def screen(self, look: int, scene: Tensor) -> Tensor:
        """The look's finished picture from its moved scene stage: -> [B, 3, H, W] in 0..1."""
        return filters.screen(self.looks[look], scene)

    def render(self, look: str, rgb: Tensor) -> Tensor:
        """Both stages on a picture that does not move: [B, 3, H, W] -> [B, 3, H, W]."""
        if look == IDENTITY:
            return rgb
        scene = self.scene(look, rgb)
        return filters.screen(look, scene) if look in self.by_filter else scene
