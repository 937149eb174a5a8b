"""What the tests of ops and of captured frames share: float64 closed forms, random tensors, the measure."""

from __future__ import annotations

import numpy as np
import torch

# closed forms, from numpy alone -------------------------------------------------------------


def unshuffled(picture: np.ndarray) -> np.ndarray:
    """[C, H, W] -> [16 C, H/4, W/4], written out index by index."""
    colours, height, width = picture.shape
    cells = np.empty((16 * colours, height // 4, width // 4), picture.dtype)
    for c in range(colours):
        for dy in range(4):
            for dx in range(4):
                cells[c * 16 + dy * 4 + dx] = picture[c, dy::4, dx::4]
    return cells


def shuffled(cells: np.ndarray) -> np.ndarray:
    """The inverse of ``unshuffled``."""
    channels, rows, columns = cells.shape
    picture = np.empty((channels // 16, 4 * rows, 4 * columns), cells.dtype)
    for channel in range(channels):
        c, dy, dx = channel // 16, channel % 16 // 4, channel % 4
        picture[c, dy::4, dx::4] = cells[channel]
    return picture


def true_frame_in(rgb: np.ndarray, rows: int, columns: int) -> np.ndarray:
    height, width, _ = rgb.shape
    padded = np.pad(rgb, ((0, 4 * rows - height), (0, 4 * columns - width), (0, 0)), mode="edge")
    return unshuffled(padded.transpose(2, 0, 1).astype(np.float64) / 127.5 - 1)


def true_norm(x, scale, shift, normalise=True, activate=True) -> np.ndarray:
    y = x[0].astype(np.float64)
    if normalise:
        y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
    y = y * (1 + scale[:, None, None]) + shift[:, None, None]
    return silu(y) if activate else y


def silu(y: np.ndarray) -> np.ndarray:
    return y / (1 + np.exp(-y))


def float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


# tensors ---------------------------------------------------------------------------------------------


class Maker:
    """Random tensors on a device; feature maps are slices of a wider NHWC buffer filled with NaN."""

    def __init__(self, device: str, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype, self.random = device, dtype, np.random.default_rng(seed)

    def cells(self, channels: int, height: int, width: int, *, slice_of: int = 0, offset: int = 8, spread: float = 1.0):
        """[1, channels, height, width], NHWC; with ``slice_of`` a channel slice of so many."""
        values = torch.from_numpy(self.random.normal(0, spread, (1, height, width, channels)))
        out = self.poisoned(channels, height, width, slice_of=slice_of, offset=offset)
        return out.copy_(values.permute(0, 3, 1, 2))

    def poisoned(self, channels: int, height: int, width: int, *, slice_of: int = 0, offset: int = 8):
        whole = torch.full((1, height, width, slice_of or channels), float("nan"), dtype=self.dtype, device=self.device)
        start = offset if slice_of else 0
        return whole.permute(0, 3, 1, 2)[:, start : start + channels]

    def vector(self, channels: int, spread: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(self.random.normal(0, spread, channels)).to(self.device, self.dtype)

    def rgb(self, height: int, width: int) -> torch.Tensor:
        return torch.from_numpy(self.random.integers(0, 256, (height, width, 3), np.uint8)).to(self.device)


def assert_as_good(result: torch.Tensor, by_torch: torch.Tensor, truth: np.ndarray) -> None:
    """Error against float64 at most twice torch's in the same precision (plus one fp32 ulp)."""
    ours = np.abs(float64(result).reshape(truth.shape) - truth).max()
    theirs = np.abs(float64(by_torch).reshape(truth.shape) - truth).max()
    assert ours <= 2 * theirs + 2.0**-23 * np.abs(truth).max(), f"error {ours:.3g}, torch's {theirs:.3g}"
