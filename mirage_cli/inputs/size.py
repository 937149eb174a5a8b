"""The size that the model runs at, and a source scaled to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mirage_cli.config import MAX_SIDE, MIN_SIDE, Size
from mirage_cli.frames import FrameSource
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


@dataclass(frozen=True)
class Sizing:
    """How large the frames of a run are.

    Attributes:
        asked, on_cpu, limit: ``wanted``, ``cpu`` and ``limit`` of ``choose_size``.
        tell: gets a sentence when the size is not the input's own.
    """

    asked: Size | str | None
    on_cpu: bool
    limit: Size
    tell: Callable[[str], None]

    @property
    def exact(self) -> Size | None:
        """A size that was asked for in pixels: the input is opened at it."""
        return self.asked if isinstance(self.asked, tuple) else None


def fit_source(source: FrameSource, sizing: Sizing, open_at: Callable[[Size], FrameSource] | None) -> FrameSource:
    """The source at the size to run at, which ``choose_size`` chooses.

    Args:
        source: opened at ``sizing.exact``; closed where it is opened again, or on an error.
        open_at: opens the source at another size; None where it can be read only once, and each
            frame is scaled instead.
    """
    try:
        have = (source.info.width, source.info.height)
        size, note = choose_size(have, sizing.asked, sizing.on_cpu, sizing.limit)
        if note:
            sizing.tell(note)
        if size == have:
            return source
        if open_at is None:
            return ResizedSource(source, size)
        source.close()
        return open_at(size)
    except BaseException:
        source.close()
        raise
