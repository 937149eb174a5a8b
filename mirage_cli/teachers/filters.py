"""Filter teachers: what twenty-five looks make of a picture, as batched torch functions.

A look has two stages. ``scene`` is a function of local picture content alone; a trainer warps its
result with the scene. ``screen`` is applied to the warped result, in pixel coordinates of the
frame from its top left corner, and adds what stays on the glass: dots, hatching, tiles, paper,
vignettes. All screen patterns repeat every 32 px (or divisors of it), so a network that knows
its pixel phase modulo 32 can draw them.

    target = render(look, rgb)                                  # no motion
    target = screen(look, warp(scene(look, rgb)))               # with motion
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import filters_cells as cells, filters_drawn as drawn, filters_light as light, filters_print as printed

Stage = Callable[[Tensor], Tensor]

_STAGES: dict[str, tuple[Stage, Stage | None]] = {
    "stained-glass": (cells.stained_glass_scene, cells.stained_glass_screen),
    "mosaic": (cells.mosaic_scene, cells.mosaic_screen),
    "low-poly": (cells.low_poly_scene, cells.low_poly_screen),
    "comic-halftone": (drawn.comic_halftone_scene, drawn.comic_halftone_screen),
    "cartoon": (drawn.cartoon_scene, None),
    "pencil-sketch": (drawn.pencil_sketch_scene, drawn.pencil_sketch_screen),
    "ink-wash": (drawn.ink_wash_scene, None),
    "charcoal": (drawn.charcoal_scene, drawn.charcoal_screen),
    "linocut": (drawn.linocut_scene, drawn.linocut_screen),
    "blueprint": (drawn.blueprint_scene, drawn.blueprint_screen),
    "pixel-art": (cells.pixel_art_scene, cells.pixel_art_screen),
    "night": (light.night_scene, None),
    "golden-sunset": (light.golden_sunset_scene, None),
    "snow-frost": (light.snow_frost_scene, None),
    "thermal": (light.thermal_scene, None),
    "neon-cyberpunk": (light.neon_cyberpunk_scene, None),
    "film-noir": (light.film_noir_scene, light.film_noir_screen),
    "old-photograph": (light.old_photograph_scene, light.old_photograph_screen),
    "watercolour": (drawn.watercolour_scene, drawn.watercolour_screen),
    "cubism": (cells.cubism_scene, cells.cubism_screen),
    "engraving": (printed.engraving_scene, printed.engraving_screen),
    "pop-art": (printed.pop_art_scene, None),
    "chalkboard": (printed.chalkboard_scene, printed.chalkboard_screen),
    "infrared": (printed.infrared_scene, None),
    "cross-stitch": (printed.cross_stitch_scene, printed.cross_stitch_screen),
}

LOOKS: list[str] = list(_STAGES)
SCREEN_BOUND: set[str] = {look for look, (_, screen) in _STAGES.items() if screen is not None}


@torch.no_grad()
def scene(look: str, rgb: Tensor) -> Tensor:
    """The part of a look that moves with the scene.

    Args:
        look: one of ``LOOKS``.
        rgb: float [B,3,H,W] in 0..1, sides of at least 64 px.

    Returns:
        [B,C,H,W] in 0..1, C between 1 and 4; for a look outside ``SCREEN_BOUND`` C is 3 and this
        is the finished picture.

    Raises:
        KeyError: no such look.
    """
    return _STAGES[look][0](rgb).clamp(0, 1)


@torch.no_grad()
def screen(look: str, warped: Tensor) -> Tensor:
    """The part of a look that stays on the screen; [B,C,H,W] of ``scene`` -> [B,3,H,W] in 0..1.

    The tensor's top left pixel must be the frame's top left pixel.

    Raises:
        KeyError: no such look.
    """
    stage = _STAGES[look][1]
    return warped if stage is None else stage(warped).clamp(0, 1)


def render(look: str, rgb: Tensor) -> Tensor:
    """Both stages without motion between them, [B,3,H,W] -> [B,3,H,W]."""
    return screen(look, scene(look, rgb))
