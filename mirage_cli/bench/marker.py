"""A frame number drawn into the picture itself, to measure latency and count frames where they are seen.

A strip along the top edge holds 34 grey blocks: two for the levels (light, dark), 24 bits of a counter
and 8 of a checksum. A block is a flat square of up to 16 pixels, of which the inner half is read, so the
strip survives H.264, chroma subsampling, another range and a picture that is not scaled.

A style would paint the strip over. Where frames are measured, the strip is therefore carried around the
model: what comes out gets the strip of the frame that it was made from (``carry``). It says when that
frame went in; it does not prove that the styled pixels below it are that frame's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mirage_cli.errors import UsageProblem
from mirage_cli.frames import Frame, FrameSource, SourceWrapper
from mirage_cli.measure import summary

COUNTER_BITS, CHECK_BITS = 24, 8
BLOCKS = 2 + COUNTER_BITS + CHECK_BITS
MIN_WIDTH = 4 * BLOCKS
_DARK, _LIGHT = 32, 224
_LEAST_CONTRAST = 48.0


def block_pixels(width: int) -> int:
    """Side of a block in pixels: even, 4 to 16.

    Raises:
        UsageProblem: the frame is too narrow for the strip.
    """
    side = min(16, width // BLOCKS // 2 * 2)
    if side < 4:
        raise UsageProblem(
            f"frames of {width} pixels are too narrow for the marker; it needs {MIN_WIDTH}", "Try --size 512x288."
        )
    return side


def _checksum(counter: int) -> int:
    """CRC-8, polynomial x^8 + x^2 + x + 1, of the counter's three bytes; not 0 for 0."""
    crc = 0xFF
    for byte in counter.to_bytes(COUNTER_BITS // 8, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc


def stamp(rgb: np.ndarray, counter: int) -> None:
    """Draw the counter, modulo 2**24, into a frame: uint8 [H, W, 3], changed in place."""
    side = block_pixels(rgb.shape[1])
    counter %= 1 << COUNTER_BITS
    word = 0b10 << COUNTER_BITS + CHECK_BITS | counter << CHECK_BITS | _checksum(counter)
    bits = np.array([word >> BLOCKS - 1 - place & 1 for place in range(BLOCKS)])
    row = np.where(bits, _LIGHT, _DARK).astype(np.uint8).repeat(side)
    rgb[:side, : row.size] = row[None, :, None]


def read(rgb: np.ndarray) -> int | None:
    """The counter in a frame, uint8 [H, W, 3]; None where there is none or it is damaged."""
    side = block_pixels(rgb.shape[1])
    strip = rgb[side // 4 : side - side // 4, : BLOCKS * side].mean(axis=(0, 2))
    levels = strip.reshape(BLOCKS, side)[:, side // 4 : side - side // 4].mean(axis=1)
    light, dark = levels[0], levels[1]
    if light - dark < _LEAST_CONTRAST:
        return None
    word = 0
    for level in levels[2:]:
        word = word << 1 | int(level > (light + dark) / 2)
    counter, check = word >> CHECK_BITS, word & (1 << CHECK_BITS) - 1
    return counter if check == _checksum(counter) else None


def carry(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``after`` with the strip of ``before``; both uint8 [H, W, 3] of one size."""
    side = block_pixels(before.shape[1])
    result = after.copy()
    result[:side, : BLOCKS * side] = before[:side, : BLOCKS * side]
    return result


class MarkedSource(SourceWrapper):
    """Another source's frames, numbered 0, 1, 2 ... in the strip, with the moment each was handed over."""

    def __init__(self, source: FrameSource, clock: Callable[[], float]) -> None:
        super().__init__(source)
        self._clock = clock
        block_pixels(source.info.width)
        self.born_seconds: list[float] = []

    def __iter__(self) -> Iterator[Frame]:
        for counter, frame in enumerate(self.inner):
            rgb = frame.rgb.copy()
            stamp(rgb, counter)
            self.born_seconds.append(self._clock())
            yield Frame(rgb, frame.pts_seconds, frame.index)


@dataclass
class Sightings:
    """What was read at the other end.

    Attributes:
        latency_ms: of each first sight of a frame, from being handed over to being read.
        doubled: sights of a frame that was seen before; ``backward``: of one older than the newest.
        unreadable: pictures without a marker that can be trusted.
    """

    latency_ms: list[float] = field(default_factory=list)
    doubled: int = 0
    backward: int = 0
    unreadable: int = 0
    _seen: set[int] = field(default_factory=set, repr=False)
    _newest: int = -1

    def add(self, rgb: np.ndarray, now_seconds: float, born_seconds: list[float]) -> None:
        """Read one picture that was there at ``now_seconds``."""
        counter = read(rgb)
        if counter is None or counter >= len(born_seconds):
            self.unreadable += 1
        elif counter in self._seen:
            self.doubled += 1
        else:
            self.backward += counter < self._newest
            self._newest = max(self._newest, counter)
            self._seen.add(counter)
            self.latency_ms.append((now_seconds - born_seconds[counter]) * 1e3)

    def summary(self, warmup: int) -> dict[str, Any]:
        """The document's part: latencies without the first ``warmup`` sights, and the counts of all.

        ``dropped`` are the numbers missing between the first and the last that were seen.
        """
        kept = self.latency_ms[warmup:]
        span = self._newest - min(self._seen) + 1 if self._seen else 0
        result: dict[str, Any] = {
            "frames_seen": len(self.latency_ms),
            "dropped": span - len(self._seen),
            "doubled": self.doubled,
            "backward": self.backward,
            "unreadable": self.unreadable,
        }
        if kept:
            result["latency_ms"] = {"min": round(min(kept), 3), **summary(kept), "count": len(kept)}
        return result
