"""A moving test picture: a landscape that a camera pans over."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from mirage_cli.frames import Frame, FrameSource, StreamInfo
from mirage_cli.inputs.wrappers import SLEPT_SECONDS, Clock


class TestPicture(FrameSource):
    """A landscape that scrolls, a sun that wanders and a clock: a live source with no camera.

    The same seed and size give the same frames.

    Args:
        width, height: pixels.
        fps: frames a second, of the pictures and of the pace.
        paced: wait for each frame's time; False gives frames as fast as they are taken.
        frames: end after this many; None for no end.
    """

    __test__ = False  # the name is not a test case's
    pausing: bool = True

    def __init__(
        self,
        width: int = 512,
        height: int = 288,
        fps: float = 30.0,
        *,
        paced: bool = True,
        frames: int | None = None,
        seed: int = 0,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__()
        self.live = self.pausing = paced
        self.info = StreamInfo(width=width, height=height, fps=fps, frame_count=frames, name="test picture")
        self._frames, self._clock = frames, clock
        self._closed = threading.Event()
        self._layers = _landscape(width, height, np.random.default_rng(seed))

    def __iter__(self) -> Iterator[Frame]:
        begin = self._clock()
        index = 0
        while not self._closed.is_set() and (self._frames is None or index < self._frames):
            pts = index / self.info.fps
            if self.live:
                late = self._clock() - begin - pts
                if late > SLEPT_SECONDS:
                    begin += late
                if self._closed.wait(max(0.0, -late)):
                    return
            yield Frame(self.draw(pts), pts, index)
            index += 1

    def draw(self, time_seconds: float) -> np.ndarray:
        """The picture at a time: uint8 [H, W, 3]."""
        width, height = self.info.width, self.info.height
        rgb = self._layers[0][0].copy()
        sun_x = width * (0.5 + 0.38 * math.sin(0.5 * time_seconds))
        sun_y = height * (0.26 + 0.12 * math.cos(0.9 * time_seconds))
        radius = max(2, int(0.09 * height))
        cv2.circle(rgb, (int(sun_x * 16), int(sun_y * 16)), radius * 16, (255, 236, 170), -1, 16, 4)
        for picture, mask, speed in self._layers[1:]:
            shift = int(speed * time_seconds * width) % picture.shape[1]
            view = picture[:, shift : shift + width]
            cut = mask[:, shift : shift + width]
            if view.shape[1] < width:  # the panorama begins again
                rest = width - view.shape[1]
                view = np.concatenate([view, picture[:, :rest]], axis=1)
                cut = np.concatenate([cut, mask[:, :rest]], axis=1)
            cv2.copyTo(view, cut, rgb)
        if height >= 96 and width >= 160:
            scale = height / 480.0
            thick = max(1, int(2 * scale))
            clock = f"{time_seconds:7.2f} s"
            for shift, tone in ((thick, (20, 20, 20)), (0, (250, 250, 250))):
                place = (int(0.02 * width) + shift, int(0.96 * height) + shift)
                cv2.putText(rgb, clock, place, cv2.FONT_HERSHEY_SIMPLEX, scale, tone, thick, cv2.LINE_AA)
        return rgb

    def close(self) -> None:
        self._closed.set()


def _landscape(width: int, height: int, random: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Sky, and panoramas (rgb, mask, screens a second) of hills and of a meadow with trees."""
    rows = np.linspace(0.0, 1.0, height)[:, None, None]
    sky = (1 - rows) * np.array([70, 130, 215.0]) + rows * np.array([235, 215, 190.0])
    sky = np.broadcast_to(sky, (height, width, 3)).astype(np.uint8).copy()
    layers = [(sky, np.full((height, width), 255, np.uint8), 0.0)]
    span = 4 * width
    columns = np.arange(span)
    looks = (  # top of the ridge, its swing, colour, screens a second
        (0.52, 0.12, (110, 125, 160), 0.02),
        (0.62, 0.09, (80, 125, 85), 0.06),
        (0.78, 0.05, (95, 150, 60), 0.15),
    )
    for number, (top, swing, colour, speed) in enumerate(looks):
        ridge = np.full(span, top)
        for wave in range(1, 6):  # whole waves a panorama, so that it joins up
            turns = wave * (2 + number)
            phase = random.uniform(0, 2 * math.pi)
            ridge += swing / wave * 0.6 * np.sin(2 * math.pi * turns * columns / span + phase)
        edge = (np.clip(ridge, 0.05, 0.97) * height).astype(int)
        depth = np.arange(height)[:, None] - edge[None, :]
        mask = np.where(depth >= 0, 255, 0).astype(np.uint8)
        shade = np.clip(1.1 - 0.9 * depth / height, 0.5, 1.15)[..., None]
        grain = random.normal(0.0, 7.0, (height, span, 1))
        picture = np.clip(np.array(colour) * shade + grain, 0, 255).astype(np.uint8)
        if number == 2:
            _plant_trees(picture, mask, edge, random)
        layers.append((picture, mask, speed))
    return layers


def _plant_trees(picture: np.ndarray, mask: np.ndarray, edge: np.ndarray, random: np.random.Generator) -> None:
    height, span = mask.shape
    for place in random.uniform(0.05, 0.95, 14):
        x = int(place * span)
        size = int(height * random.uniform(0.07, 0.15))
        base = int(edge[x]) + size // 3
        green = tuple(int(v) for v in random.integers((20, 80, 20), (90, 140, 50)))
        half = max(1, size // 12)
        crown = (x, base - size - size // 3)
        for canvas, bark, leaf in ((picture, (96, 66, 40), green), (mask, 255, 255)):
            cv2.rectangle(canvas, (x - half, base - size), (x + half, base), bark, -1)
            cv2.circle(canvas, crown, int(size * 0.7), leaf, -1, cv2.LINE_AA)
