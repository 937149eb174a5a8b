"""Frames of a hardware decoder: NV12 in and out around a painter that sees RGB."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from mirage_cli.config import Size
from mirage_cli.engine.ops import OpSet
from mirage_cli.engine.reference import Nv12
from mirage_cli.stream.model import Painted, Painter, Stage, unmarked


class Nv12Frames:
    """``paint`` of a painter, from NV12 to NV12; inside of the captured graph on CUDA.

    Args:
        code: how the frames are coded.
        size: width and height of the pictures, both even.
        ops: converts.
    """

    def __init__(self, painter: Painter, code: Nv12, size: Size, ops: OpSet) -> None:
        self._painter, self._code, self._ops = painter, code, ops
        self._height = size[1]
        self._rgb = torch.empty(frame_shape(size, None), dtype=torch.uint8, device=ops.device)
        self._planes = torch.empty(frame_shape(size, code), dtype=torch.uint8, device=ops.device)

    def paint(self, planes: Tensor, done: Stage = unmarked) -> Painted:
        """uint8 [3 H / 2, W] -> the same, a static buffer."""
        luma, chroma = self._split(planes)
        painted = self._painter.paint(self._ops.nv12_to_rgb(luma, chroma, self._code, self._rgb), done)
        self._ops.rgb_to_nv12(painted.rgb, self._code, *self._split(self._planes))
        return Painted(self._planes, painted.flags)

    def _split(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        return planes[: self._height], planes[self._height :]


def frame_shape(size: Size, code: Nv12 | None) -> tuple[int, ...]:
    """Shape of a session's frames of ``size`` (width, height): RGB, or NV12 where there is a ``code``."""
    width, height = size
    return (height, width, 3) if code is None else (height * 3 // 2, width)


def rgb_of(planes: np.ndarray) -> np.ndarray:
    """uint8 [3 H / 2, W] as RGB for the drift guard, which compares what is read alike: one matrix does for all."""
    return cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_NV12)
