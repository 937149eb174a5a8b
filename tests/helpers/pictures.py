"""Pictures to write, send and measure."""

from __future__ import annotations

import cv2
import numpy as np

from mirage_cli.frames import StreamInfo


def pictures(count: int, width: int = 64, height: int = 48, seed: int = 0) -> list[np.ndarray]:
    """Smooth colours that move, so that 4:2:0 loses little."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    found = []
    for n in range(count):
        waves = [127 + 90 * np.sin((x * a + y * b) / 12 + n / 6 + seed) for a, b in ((1, 0.3), (-0.4, 1), (0.5, -0.7))]
        found.append(np.stack(waves, axis=2).astype(np.uint8))
    return found


def still_info(width: int = 64, height: int = 48, fps: float = 30.0, **more) -> StreamInfo:
    return StreamInfo(width=width, height=height, fps=fps, **more)


def texture(height: int = 96, width: int = 128, seed: int = 3, grain: float = 2.0) -> np.ndarray:
    """Coloured noise smoothed to the grain of a picture, in pixels: uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain)
    return np.clip(128 + smooth / smooth.std() * 40, 0, 255).astype(np.uint8)
