"""Numbered pictures, or one, as a source; their names: ``media/picture_names.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from mirage_cli.errors import MediaError, plain_text, reason_of
from mirage_cli.frames import Frame, FrameSource, StreamInfo
from mirage_cli.inputs.opencv import quiet_opencv

DEFAULT_FPS = 25.0


class ImageSource(FrameSource):
    """Pictures as frames, all at the size of the first.

    Args:
        paths: in order.
        size: (width, height) to scale to; None for that of the first picture.
        fps: pictures a second; 25 by default.

    Raises:
        MediaError: the first one cannot be read. A later one raises when its turn comes.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.fps = fps or DEFAULT_FPS
        begin = round(start_seconds * self.fps)
        end = len(paths) if duration_seconds is None else begin + round(duration_seconds * self.fps)
        self.paths = list(paths)[begin:end]
        if not self.paths:
            raise MediaError(
                f"no picture is left after {start_seconds:g} s: there are {len(paths)} at {self.fps:g} a second",
                "Give a smaller --start.",
            )
        first = read_image(self.paths[0])
        self._own_size = (first.shape[1], first.shape[0])
        self.size = size or self._own_size
        self._closed = False
        name = Path(self.paths[0]).name
        if len(self.paths) > 1:
            name += f" and {len(self.paths) - 1} more"
        self.info = StreamInfo(
            width=self.size[0],
            height=self.size[1],
            fps=self.fps,
            frame_count=len(self.paths),
            duration_seconds=len(self.paths) / self.fps,
            name=name,
        )

    @property
    def own_size(self) -> tuple[int, int]:
        return self._own_size

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.paths):
            if self._closed:
                return
            rgb = read_image(path)
            have = (rgb.shape[1], rgb.shape[0])
            if have != self.own_size:
                raise MediaError(
                    f"{plain_text(path)} is {have[0]}x{have[1]}, and the first picture is "
                    f"{self.own_size[0]}x{self.own_size[1]}",
                    "All pictures need the same size.",
                )
            if have != self.size:
                rgb = cv2.resize(rgb, self.size, interpolation=cv2.INTER_AREA)
            yield Frame(rgb, index / self.fps, index)

    def close(self) -> None:
        self._closed = True


def read_image(path: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB, turned upright by its EXIF tag, without its alpha.

    Raises:
        MediaError: it cannot be read.
    """
    quiet_opencv()
    try:
        data = np.fromfile(path, np.uint8)
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as problem:
        reason = reason_of(problem) if isinstance(problem, OSError) else "not a picture"
        raise MediaError(f"{plain_text(path)} cannot be read: {reason}", "Check the file.") from None
    if bgr is None:
        raise MediaError(f"{plain_text(path)} is not a picture that can be read", "Take the file out or repair it.")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
