"""The size that the model runs at, and a source scaled to it."""

from __future__ import annotations

import math
from collections.abc import Callable

from mirage_cli.config import MAX_SIDE, MIN_SIDE, Size
from mirage_cli.frames import FrameSource, Ui
from mirage_cli.inputs.wrappers import ResizedSource


def choose_size(have: Size, wanted: Size | str | None, cpu: bool, limit: Size) -> tuple[Size, str]:
    """The size to run at, and a sentence when it is not the input's own.

    Args:
        have: of the input, in pixels.
        wanted: a size, ``"native"`` or None.
        cpu: the model runs on the CPU, where big frames take seconds each.
        limit: a CPU's default gets no more pixels than this has; aspect is kept, sides are even.
    """
    width, height = have
    if isinstance(wanted, tuple):
        return wanted, ""
    pixels = limit[0] * limit[1]
    if min(have) >= MIN_SIDE and (wanted == "native" or not cpu or width * height <= pixels):
        return have, ""
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    side = [min(MAX_SIDE, max(MIN_SIDE, 2 * round(value * scale / 2))) for value in have]
    why = "large for a CPU" if scale < 1.0 else f"and the model needs {MIN_SIDE} pixels a side"
    return (side[0], side[1]), (
        f"size {side[0]}x{side[1]}: the input is {width}x{height}, {why} (--size native keeps it, --size WxH sets it)"
    )


def fit_source(
    source: FrameSource,
    asked: Size | str | None,
    cpu: bool,
    limit: Size,
    ui: Ui,
    reopen: Callable[[Size], FrameSource] | None,
) -> tuple[FrameSource, Size]:
    """The source at the size to run at, which ``choose_size`` chooses.

    Args:
        reopen: opens the source at another size; None where it can be read only once, and each
            frame is scaled instead.
    """
    have = (source.info.width, source.info.height)
    size, note = choose_size(have, asked, cpu, limit)
    if note:
        ui.note(note)
    if size == have:
        return source, size
    if reopen is None:
        return ResizedSource(source, size), size
    source.close()
    return reopen(size), size
