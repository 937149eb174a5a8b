"""Strokes: does a picture hold as much of them as its teacher's, wherever they lie?

L1, edges and steadiness are all best with faint strokes: where a stroke may lie anywhere, the mean of all
places has none. So their strength is measured in bands of a Laplacian pyramid (Burt and Adelson, IEEE Trans.
Communications 1983), window by window, and compared as SSIM compares contrast (Wang et al., IEEE Trans. Image
Processing 2004, eq. 9). A stroke that lies elsewhere in its window costs nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.training.losses import cell_pattern

BANDS = 4  # details of about 2, 4, 8 and 16 pixels
REACH = 32  # pixels a side of a window; windows overlap by half
STABILISER = 0.01  # of values in [-1, 1], about one level: less contrast than that counts as none


def band_strengths(pictures: Tensor) -> list[Tensor]:
    """RMS of a picture's details, band by band and window by window: [B, C, H, W] -> BANDS of [B, h, w].

    Raises:
        ValueError: less than a window of pixels a side.
    """
    if min(pictures.shape[-2:]) < REACH:
        raise ValueError(f"pictures of {tuple(pictures.shape)}; at least {REACH} pixels a side")
    result, level = [], pictures.float()
    for band in range(BANDS):
        smooth = _binomial(level)
        window = REACH >> band
        power = F.avg_pool2d((level - smooth) ** 2, window, window // 2).mean(dim=1)
        result.append(power.sqrt())
        level = smooth[..., ::2, ::2]
    return result


def stroke_numbers(shown: Tensor, teacher: Tensor, source: Tensor) -> dict[str, float]:
    """How strong a picture's strokes are compared with its teacher's, where the incoming frame itself has least detail.

    Only the plainer half of the windows counts (below the median, in each band): there strokes are the look's
    own doing, elsewhere most of the detail is the scene's.

    Args:
        shown, teacher, source: [B, 3, H, W] in [-1, 1].

    Returns:
        "strength": details over the teacher's, mean of the bands: 0 none, 1 as many, more than 1 too many or
        noise. "likeness": the same without regard to the sign, by windows: 1 alike, 0 nothing in common.
    """
    strength, likeness = [], []
    for own, wanted, plain in zip(*map(band_strengths, (shown, teacher, source))):
        here = plain <= plain.flatten(1).median(dim=1).values[:, None, None]
        own, wanted = own[here], wanted[here]
        strength.append((own.sum() + STABILISER * own.numel()) / (wanted.sum() + STABILISER * own.numel()))
        likeness.append(((2 * own * wanted + STABILISER**2) / (own**2 + wanted**2 + STABILISER**2)).mean())
    return {"strength": float(torch.stack(strength).mean()), "likeness": float(torch.stack(likeness).mean())}


def weave_levels(shown: Tensor, teacher: Tensor) -> float:
    """What is added alike to every cell of 4x4 pixels, in levels of 255: RMS over places in the cell and colours.

    The network paints each place in a cell from channels of its own, so that a pattern of its making repeats with the
    cells: a weave that the eye sees on plain places and no other number here does. Strokes lie anywhere and cancel
    out in the mean over all cells of a picture; to a hundredth or two of their own contrast, which is the floor of
    this number. A look whose teacher has such a pattern itself (tiles, stitches) is held to that.

    Args:
        shown, teacher: [B, 3, H, W] in [-1, 1].
    """
    return float(cell_pattern(shown - teacher).square().mean().sqrt()) * 127.5


def _binomial(x: Tensor) -> Tensor:
    """Blur by (1, 4, 6, 4, 1) / 16 along both axes, reflected at the border."""
    row = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    channels = x.shape[1]
    kernel = torch.outer(row, row).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)
