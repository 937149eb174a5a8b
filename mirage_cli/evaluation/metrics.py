"""Numbers that say how a styled picture looks and how it moves: tone, sharpness, streaks, coherence.

Frames are uint8 [H, W, 3], RGB; every statistic works on values in [0, 1]. A metric is only worth
what its tests show: each has one case it must call good and one it must call bad.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Rec. ITU-R BT.709 luma weights for R, G, B.
_LUMA = np.array([[0.2126, 0.7152, 0.0722]], dtype=np.float32) / 255.0
GREY_LEVELS = 10  # max - min of a pixel's channels below which it counts as grey
STRIPE_BLOCK = 16  # pixels a side of the blocks whose direction is looked at
STRIPE_COHERENCE = 0.9
STRIPE_ENERGY = 1e-4  # mean squared gradient a pixel; flatter blocks have no direction


@dataclass(frozen=True)
class Look:
    """What one frame looks like, in six numbers.

    Attributes:
        luma_mean: mean BT.709 luma, 0..1.
        luma_spread: standard deviation of luma, 0..0.5; falls toward 0 as a frame greys out.
        saturation: mean of max(R, G, B) - min(R, G, B), 0..1 (chroma of the HSV hexcone: Smith,
            "Color gamut transform pairs", SIGGRAPH 1978); 0 is grey.
        sharpness: variance of the 4-neighbour Laplacian of luma (Pech-Pacheco et al., "Diatom
            autofocusing in brightfield microscopy", ICPR 2000); falls with blur.
        grey: share of pixels without colour (max - min under ``GREY_LEVELS``), 0..1.
        stripes: share of blocks in which all gradients point one way, 0..1: the coherence of their
            structure tensor (Bigun and Granlund, "Optimal orientation detection of linear
            symmetry", ICCV 1987) is above ``STRIPE_COHERENCE``. Edges of things count, too, so
            compare with the same scene; smears and streaks make it rise.
    """

    luma_mean: float
    luma_spread: float
    saturation: float
    sharpness: float
    grey: float
    stripes: float


def luma(rgb: np.ndarray) -> np.ndarray:
    """BT.709 luma of gamma-coded RGB: uint8 [H, W, 3] -> float32 [H, W] in [0, 1]."""
    _require_frame(rgb)
    return cv2.transform(rgb.astype(np.float32), _LUMA)


def frame_look(rgb: np.ndarray) -> Look:
    """The six numbers of one frame, uint8 [H, W, 3]; about a millisecond at 512x288."""
    light = luma(rgb)
    mean, spread = (float(value[0, 0]) for value in cv2.meanStdDev(light))
    red, green, blue = cv2.split(rgb)
    chroma = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return Look(
        luma_mean=mean,
        luma_spread=spread,
        saturation=cv2.mean(chroma)[0] / 255.0,
        sharpness=float(cv2.meanStdDev(cv2.Laplacian(light, cv2.CV_32F))[1][0, 0]) ** 2,
        grey=1.0 - cv2.countNonZero(cv2.compare(chroma, GREY_LEVELS, cv2.CMP_GE)) / chroma.size,
        stripes=_stripes(light),
    )


def _stripes(light: np.ndarray) -> float:
    """Share of blocks with one direction: float32 [H, W] -> 0..1."""
    gx, gy = (cv2.Sobel(light, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
    blocks = tuple(max(1, side // STRIPE_BLOCK) for side in light.shape[::-1])
    xx, yy, xy = (cv2.resize(product, blocks, interpolation=cv2.INTER_AREA) for product in (gx * gx, gy * gy, gx * gy))
    energy = xx + yy
    along = np.hypot(xx - yy, 2 * xy)
    return float(((energy > STRIPE_ENERGY) & (along > STRIPE_COHERENCE * energy)).mean())


def edges_kept(picture: np.ndarray, styled: np.ndarray, reach: int = 2, share: float = 0.06) -> float:
    """Does the styled picture have its edges where the picture has its strong ones?

    The strongest ``share`` of the picture's gradients count as found where one of the strongest
    ``share`` of the styled picture's lies within ``reach`` pixels (boundary matching with a
    tolerance, as Martin, Fowlkes and Malik, "Learning to detect natural image boundaries", PAMI
    2004), corrected for finds by chance as in Cohen's kappa (1960): a picture full of strokes
    finds many edges anywhere.

    Args:
        picture, styled: uint8 [H, W, 3].

    Returns:
        1 where every edge is kept, 0 where they lie no better than at random, below it worse.
    """
    wanted, found = (_strong_edges(rgb, share) for rgb in (picture, styled))
    near = cv2.dilate(found, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    if not wanted.any() or near.all():
        return float("nan")
    recall, chance = near[wanted > 0].mean(), near.mean()
    return float((recall - chance) / (1.0 - chance))


def _strong_edges(rgb: np.ndarray, share: float) -> np.ndarray:
    """1 at the strongest gradients of the slightly smoothed luma: uint8 [H, W]."""
    light = cv2.GaussianBlur(luma(rgb), (0, 0), 1.0)
    gx, gy = (cv2.Sobel(light, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    strength = np.hypot(gx, gy)
    return (strength > max(float(np.quantile(strength, 1.0 - share)), 1e-3)).astype(np.uint8)


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
            (where[..., 0] >= 0) & (where[..., 0] <= width - 1) & (where[..., 1] >= 0) & (where[..., 1] <= height - 1)
        )
        return where, inside & (gap <= 0.01 * size + 0.5)


def warped_error(
    inputs: tuple[np.ndarray, np.ndarray], outputs: tuple[np.ndarray, np.ndarray], warper: FlowWarper | None = None
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
    return warped_gap(*outputs, *(warper or FlowWarper()).motion(*inputs))


def warped_gap(before: np.ndarray, after: np.ndarray, where: np.ndarray, seen: np.ndarray) -> float:
    """``warped_error`` with a motion that is known already, as from ``FlowWarper.motion``."""
    if not seen.any():
        return float("nan")
    warped = cv2.remap(before, where, None, cv2.INTER_LINEAR).astype(np.float32)
    gap = (after.astype(np.float32) - warped)[seen] / 255.0
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
