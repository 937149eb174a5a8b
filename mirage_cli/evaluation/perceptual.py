"""A learned perceptual distance: Shift-tolerant LPIPS.

Ghildyal and Liu, "Shift-tolerant perceptual similarity metric" (ECCV 2022, arXiv 2207.13686): the
distance of LPIPS (Zhang et al., CVPR 2018, arXiv 1801.03924) on an AlexNet whose strides are replaced by
blurred ones, so that a shift by a pixel does not count as a difference. The weights are those of the
package stlpips-pytorch (extra "eval"); the network is our own, since that package's imports are
not all declared and some of its modules are under another licence than its weights.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirage_cli.errors import ModelError

PACKAGE_FILE = Path("weights") / "vST0.0" / "alex_shift_tolerant.pth"
REMEDY = "pip install --no-deps stlpips-pytorch, or give --lpips the file alex_shift_tolerant.pth"
BATCH = 8


def find_weights(given: str | None) -> Path | None:
    """The weights: the file given, else the installed package's, else None.

    Raises:
        ModelError: a file is given and not there.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ModelError(f"no perceptual weights at {given!r}", REMEDY)
        return Path(given)
    found = importlib.util.find_spec("stlpips_pytorch")  # does not import it
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / PACKAGE_FILE).is_file():
            return Path(folder) / PACKAGE_FILE
    return None


class BlurStride(nn.Module):
    """Every second pixel of the binomially blurred map [B, C, H, W] (Zhang, "Making convolutional networks
    shift-invariant again", ICML 2019), reflected two pixels beyond the border."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = torch.outer(row, row) / 16
        self.filt: Tensor
        self.register_buffer("filt", kernel.expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class PerceptualDistance(nn.Module):
    """Distance of pictures: 0 for the same, about 1 for unlike ones.

    Args:
        weights: file of ``find_weights``; None leaves the network random, for tests of its form.

    Raises:
        ModelError: the file is damaged or foreign.
    """

    WIDTHS = (64, 192, 384, 256, 256)

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        a, b, c, d, e = self.WIDTHS
        relu = nn.ReLU
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, a, 11, padding=2), BlurStride(a), relu()),
                nn.Sequential(nn.MaxPool2d(3, 1), BlurStride(a), nn.Conv2d(a, b, 5, padding=2), relu()),
                nn.Sequential(nn.MaxPool2d(3, 1), BlurStride(b), nn.Conv2d(b, c, 3, padding=1), relu()),
                nn.Sequential(nn.Conv2d(c, d, 3, padding=1), relu()),
                nn.Sequential(nn.Conv2d(d, e, 3, padding=1), relu()),
            ]
        )
        self.weighting = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in self.WIDTHS)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        if weights is not None:
            self._load(weights)
        self.eval().requires_grad_(False)

    def _load(self, file: Path) -> None:
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True)
            convolutions = [m for m in self.stages.modules() if isinstance(m, nn.Conv2d)]
            kernels = [key for key in stored if key.startswith("net.") and stored[key].dim() == 4 and "filt" not in key]
            kernels.sort(key=lambda key: int(key.split(".")[1].removeprefix("slice")))
            if len(kernels) != len(convolutions):
                raise ValueError(f"{len(kernels)} convolutions, not {len(convolutions)}")
            for key, layer in zip(kernels, convolutions):
                layer.load_state_dict({"weight": stored[key], "bias": stored[key.replace("weight", "bias")]})
            for number, weighting in enumerate(self.weighting):
                weighting.load_state_dict({"weight": stored[f"lin{number}.model.1.weight"]})
        except Exception as error:
            raise ModelError(
                f"{file} holds no weights of shift-tolerant LPIPS: {error}".splitlines()[0], REMEDY
            ) from error

    def _features(self, pictures: Tensor) -> list[Tensor]:
        x, result = (pictures - self.shift) / self.scale, []
        for stage in self.stages:
            x = stage(x)
            result.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return result

    @torch.inference_mode()
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances of pairs [B, 3, H, W] in [-1, 1], sides of at least 64: [B]."""
        return torch.cat([self._some(a, b) for a, b in zip(one.split(BATCH), other.split(BATCH))])

    def _some(self, one: Tensor, other: Tensor) -> Tensor:
        pairs = zip(self._features(one.float()), self._features(other.float()), self.weighting)
        distances = [weigh((a - b).square()).mean(dim=(1, 2, 3)) for a, b, weigh in pairs]
        return sum(distances[1:], distances[0])

    def of_frames(self, one: np.ndarray, other: np.ndarray) -> float:
        """Distance of two frames, uint8 [H, W, 3]."""
        a, b = (torch.from_numpy(x).to(self.shift.device).permute(2, 0, 1)[None] / 127.5 - 1 for x in (one, other))
        return float(self(a, b))
