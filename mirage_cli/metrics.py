"""Numbers that say how a styled stream looks: tone, sharpness, drift, coherence in time.

Frames are uint8 [H, W, 3], RGB; every statistic works on values in [0, 1]. A metric is only worth
what its tests show: each has one case it must call good and one it must call bad.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields

import cv2
import numpy as np

# Rec. ITU-R BT.709 luma weights for R, G, B.
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


@dataclass(frozen=True)
class Look:
    """What one frame looks like, in four numbers.

    Attributes:
        luma_mean: mean BT.709 luma, 0..1.
        luma_spread: standard deviation of luma, 0..0.5; falls toward 0 as a frame greys out.
        saturation: mean of max(R, G, B) - min(R, G, B), 0..1 (chroma of the HSV hexcone: Smith,
            "Color gamut transform pairs", SIGGRAPH 1978); 0 is grey.
        sharpness: variance of the 4-neighbour Laplacian of luma (Pech-Pacheco et al., "Diatom
            autofocusing in brightfield microscopy", ICPR 2000); falls with blur.
    """

    luma_mean: float
    luma_spread: float
    saturation: float
    sharpness: float


def luma(rgb: np.ndarray) -> np.ndarray:
    """BT.709 luma of gamma-coded RGB: uint8 [H, W, 3] -> float32 [H, W] in [0, 1]."""
    _require_frame(rgb)
    return (rgb.astype(np.float32) @ _LUMA) / 255.0


def frame_look(rgb: np.ndarray) -> Look:
    """The four numbers of one frame, uint8 [H, W, 3]."""
    grey = luma(rgb)
    chroma = rgb.max(axis=2).astype(np.float32) - rgb.min(axis=2).astype(np.float32)
    return Look(
        luma_mean=float(grey.mean()),
        luma_spread=float(grey.std()),
        saturation=float(chroma.mean()) / 255.0,
        sharpness=float(cv2.Laplacian(grey, cv2.CV_32F).var()),
    )


def mean_look(looks: Iterable[Look]) -> Look:
    """The mean of each number over frames.

    Raises:
        ValueError: no frame.
    """
    rows = [[getattr(look, field.name) for field in fields(Look)] for look in looks]
    if not rows:
        raise ValueError("mean_look needs at least one frame")
    return Look(*(float(value) for value in np.mean(rows, axis=0)))


class DriftMeter:
    """Does a long stream still look as it did at its start? In bounded memory.

    A ratio of the mean over the last frames to the mean over the first ones, number by number: 1
    is no drift. The scene must be the same at both ends (a loop, say), or the drift of the scenery
    is counted as the model's.

    Args:
        head: (first, last) frame numbers of the start, last not included; the first frames of a
            stream have no history and are softer, so they are left out.
        tail_frames: how many frames at the end count.
    """

    def __init__(self, head: tuple[int, int] = (10, 110), tail_frames: int = 100) -> None:
        if not 0 <= head[0] < head[1] or tail_frames < 1:
            raise ValueError(f"head {head} must be first < last from 0, tail_frames at least 1")
        self.head = head
        self.frames = 0
        self._head_looks: list[Look] = []
        self._tail_looks: deque[Look] = deque(maxlen=tail_frames)

    def add(self, rgb: np.ndarray) -> Look:
        """Count the next frame, uint8 [H, W, 3]; returns its look."""
        look = frame_look(rgb)
        if self.head[0] <= self.frames < self.head[1]:
            self._head_looks.append(look)
        self._tail_looks.append(look)
        self.frames += 1
        return look

    def ratios(self) -> dict[str, float]:
        """Tail mean / head mean for each number of ``Look``; 0 / 0 is 1, x / 0 is infinity.

        Raises:
            ValueError: head and tail overlap, that is, the stream is too short to tell.
        """
        needed = self.head[1] + (self._tail_looks.maxlen or 0)
        if self.frames < needed:
            raise ValueError(f"drift needs {needed} frames, had {self.frames}")
        start, end = mean_look(self._head_looks), mean_look(self._tail_looks)
        result = {}
        for field in fields(Look):
            before, after = getattr(start, field.name), getattr(end, field.name)
            if before > 1e-9:
                result[field.name] = after / before
            else:
                result[field.name] = 1.0 if after <= 1e-9 else float("inf")
        return result


def drifted(ratios: dict[str, float], tolerance: float = 0.15) -> list[str]:
    """The numbers that left 1 +- ``tolerance``; mean luma is left to the scene and not judged."""
    return [
        name
        for name, ratio in ratios.items()
        if name != "luma_mean" and not abs(ratio - 1.0) <= tolerance
    ]


class FlowWarper:
    """Backward warping along dense motion, measured on the input and applied to the output.

    Motion is DIS optical flow (Kroeger et al., "Fast Optical Flow using Dense Inverse Search",
    ECCV 2016, arXiv 1603.03590). Pixels whose forward and backward flow disagree count as occluded
    (Sundaram et al., "Dense Point Trajectories by GPU-Accelerated Large Displacement Optical Flow",
    ECCV 2010, section 3).
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def motion(self, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the pixels of ``after`` were in ``before``.

        Args:
            before, after: uint8 [H, W, 3] RGB.

        Returns:
            (map, seen): map float32 [H, W, 2] of (x, y) in ``before``; seen bool [H, W], True where
            the pixel was visible and inside the frame.
        """
        first, second = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (before, after))
        back = self._dis.calc(second, first, None)
        forth = self._dis.calc(first, second, None)
        height, width = first.shape
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        where = np.stack([x + back[..., 0], y + back[..., 1]], axis=-1)
        forth_there = cv2.remap(forth, where, None, cv2.INTER_LINEAR)
        gap = ((back + forth_there) ** 2).sum(axis=-1)
        size = (back**2).sum(axis=-1) + (forth_there**2).sum(axis=-1)
        inside = (
            (where[..., 0] >= 0) & (where[..., 0] <= width - 1)
            & (where[..., 1] >= 0) & (where[..., 1] <= height - 1)
        )  # fmt: skip
        return where, inside & (gap <= 0.01 * size + 0.5)


def warped_error(
    inputs: tuple[np.ndarray, np.ndarray],
    outputs: tuple[np.ndarray, np.ndarray],
    warper: FlowWarper | None = None,
) -> float:
    """How much the look flickers: RMS difference of an output to its predecessor, motion undone.

    The short-term warping error of Lai et al., "Learning Blind Video Temporal Consistency" (ECCV
    2018, arXiv 1808.00449), equation 6, as a root so that it has the unit of pixel values. Its floor
    is the same number of the inputs themselves: report both.

    Args:
        inputs: frames i and i+1 of the input, uint8 [H, W, 3]; motion comes from these.
        outputs: frames i and i+1 of the output, same size.

    Returns:
        0 (motion explains all) to 1; NaN when no pixel was seen in both frames.
    """
    for frame in (*inputs, *outputs):
        _require_frame(frame)
        if frame.shape != inputs[0].shape:
            raise ValueError(f"frames differ in size: {frame.shape} and {inputs[0].shape}")
    where, seen = (warper or FlowWarper()).motion(*inputs)
    if not seen.any():
        return float("nan")
    moved = cv2.remap(outputs[0], where, None, cv2.INTER_LINEAR).astype(np.float32)
    gap = (outputs[1].astype(np.float32) - moved)[seen] / 255.0
    return float(np.sqrt((gap**2).mean()))


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 frames in dB (ITU-T J.340); infinity when equal."""
    if one.shape != other.shape:
        raise ValueError(f"frames differ in size: {one.shape} and {other.shape}")
    error = float(((one.astype(np.float32) - other.astype(np.float32)) ** 2).mean())
    return float("inf") if error == 0.0 else float(10.0 * np.log10(255.0**2 / error))


def _require_frame(rgb: np.ndarray) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"a frame is uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
