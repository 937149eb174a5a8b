"""The picture bank: photos and film stills, each rendered once in every look, held on the device.

Rendering a look costs more than a training step, so every still is rendered when training starts and
kept as uint8; training then only moves a camera over the pairs. Looks bound to the screen are
finished after the move (``finish``).
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mirage_cli.errors import MediaError

IDENTITY = "identity"
MOST_CHANNELS = 4


@dataclass
class PictureBank:
    """Stills of one size with their styled twins.

    Attributes:
        photos: uint8 [N, 3, H, W].
        styled: uint8 [N, L, 4, H, W]; looks in the model's order. Looks bound to the screen may keep
            one to four channels for the screen stage, the rest is zero.
        channels: how many of the four each look uses.
    """

    photos: Tensor
    styled: Tensor
    channels: list[int]

    def __len__(self) -> int:
        return self.photos.shape[0]

    def gather(self, index: Tensor, look: Tensor) -> Tensor:
        """Photo and styled twin of each stream, [B, 3 + 4, H, W] in [-1, 1]."""
        pair = torch.cat((self.photos[index], self.styled[index, look]), dim=1)
        return pair.float() * (2 / 255) - 1


def read_manifest(root: Path, kind: str, split: str, shippable_only: bool) -> list[Path]:
    """Files of a kind ("photo", "film", "game", "style") from MANIFEST.csv, sorted.

    Raises:
        MediaError: the manifest is missing.
    """
    manifest = root / "MANIFEST.csv"
    if not manifest.is_file():
        raise MediaError(f"no training data: {manifest} is missing", "give the data folder: --set data=DIR")
    with manifest.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["kind"] == kind and r["split"] == split]
    files = [root / r["file"] for r in rows if r["ship_ok"] == "yes" or not shippable_only]
    return sorted(f for f in files if f.is_file())


def read_photos(paths: Iterable[Path]) -> list[np.ndarray]:
    """RGB uint8 pictures [H, W, 3]; a file that does not decode raises MediaError."""
    pictures = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise MediaError(f"cannot decode {path}", "check the data folder")
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    return pictures


def read_stills(path: Path, count: int) -> list[np.ndarray]:
    """``count`` frames spread evenly over a clip, RGB uint8 [H, W, 3]; frames without content are skipped."""
    clip = cv2.VideoCapture(str(path))
    total = int(clip.get(cv2.CAP_PROP_FRAME_COUNT))
    stills, wanted, position = [], set(np.linspace(2, max(total - 3, 2), count).astype(int).tolist()), 0
    while clip.grab():
        if position in wanted:
            ok, picture = clip.retrieve()
            if ok and picture.std() > 12:
                stills.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        position += 1
    clip.release()
    return stills


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale so that the picture covers height x width, then crop the centre. uint8 [H, W, 3]."""
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = (max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale)))
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (resized.shape[0] - height) // 2, (resized.shape[1] - width) // 2
    return np.ascontiguousarray(resized[top : top + height, left : left + width])


def load_stills(root: Path, split: str, shippable_only: bool, film: int, game_each: int) -> list[np.ndarray]:
    """All stills of a split: photos, then film and game frames (those only for training)."""
    stills = read_photos(read_manifest(root, "photo", split, shippable_only))
    if split == "train":
        for path in read_manifest(root, "film", split, shippable_only):
            stills += read_stills(path, film)
        for path in read_manifest(root, "game", split, shippable_only):
            stills += read_stills(path, game_each)
    return stills


Renderer = Callable[[str, Tensor], Tensor]


def render_bank(
    stills: list[np.ndarray],
    looks: Iterable[str],
    render: Renderer,
    height: int,
    width: int,
    device: torch.device,
    batch: int = 8,
) -> PictureBank:
    """Render every still in every look.

    Args:
        render: (look, rgb [B, 3, H, W] in 0..1) -> the part of the look that moves with the scene.
        height, width: size of the bank's pictures, multiples of 8.
    """
    looks = list(looks)
    photos = torch.from_numpy(np.stack([fit(s, height, width) for s in stills])).permute(0, 3, 1, 2).contiguous()
    photos = photos.to(device)
    styled = torch.zeros((len(stills), len(looks), MOST_CHANNELS, height, width), dtype=torch.uint8, device=device)
    channels = []
    for position, look in enumerate(looks):
        for start in range(0, len(stills), batch):
            rgb = photos[start : start + batch].float() / 255
            out = rgb if look == IDENTITY else render(look, rgb)
            used = out.shape[1]
            styled[start : start + batch, position, :used] = (out.clamp(0, 1) * 255).round().to(torch.uint8)
        channels.append(used)
    return PictureBank(photos, styled, channels)


def shuffled(stills: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """The stills in another order, the same for the same seed."""
    order = list(range(len(stills)))
    random.Random(seed).shuffle(order)
    return [stills[i] for i in order]
