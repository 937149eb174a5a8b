"""The picture bank: photos and film stills, each rendered once in every look, held on the device.

Rendering a look costs more than a training step, so every still is rendered when training starts and
kept as uint8; training then only moves a camera over the pairs. Looks bound to the screen are
finished after the move (``finish``).
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_cli.errors import MediaError
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.stream.planes import warp

EXAMPLE_CLIP = Path(__file__).resolve().parents[2] / "examples" / "bunny.mp4"  # in a clone
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

    def gather(self, index: Tensor, *looks: Tensor) -> Tensor:
        """Photo and styled twins of each stream in these looks [B], [B, 3 + 4 len(looks), H, W] in [-1, 1]."""
        together = torch.cat((self.photos[index], *(self.styled[index, look] for look in looks)), dim=1)
        return together.float() * (2 / 255) - 1


@dataclass
class VideoBank:
    """Real clips of one length, frame after frame, with targets that are coherent in time."""

    pictures: PictureBank
    length: int

    @property
    def clips(self) -> int:
        return len(self.pictures) // self.length


def read_manifest(root: Path, kind: str, split: str, shippable_only: bool) -> list[Path]:
    """Files of a kind ("photo", "film", "game", "style") from MANIFEST.csv, sorted.

    Raises:
        MediaError: the manifest is missing.
    """
    manifest = root / "MANIFEST.csv"
    if not manifest.is_file():
        raise MediaError(f"no training data: {manifest} is missing", "give the data folder: data=DIR")
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


def load_clips(
    root: Path, split: str, shippable_only: bool, film: int, game_each: int, length: int
) -> list[list[np.ndarray]]:
    """Runs of ``length`` successive frames inside one shot: ``film`` of the film, ``game_each`` of each game clip.

    The film's shots are the rows of film/shots.csv (start_frame, end_frame: inclusive).
    """
    clips = []
    for path in read_manifest(root, "film", split, shippable_only) if film else ():
        with (path.parent / "shots.csv").open(newline="") as file:
            shots = [(int(row["start_frame"]), int(row["end_frame"])) for row in csv.DictReader(file)]
        shots = [shot for shot in shots if shot[1] - shot[0] + 1 >= length]
        chosen = [shots[i] for i in np.linspace(0, len(shots) - 1, min(film, len(shots))).round().astype(int)]
        clips += read_runs(path, [(first + last + 1 - length) // 2 for first, last in chosen], length)
    for path in read_manifest(root, "game", split, shippable_only) if game_each else ():
        capture = cv2.VideoCapture(str(path))
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        clips += read_runs(path, np.linspace(0, max(total - length, 0), game_each).astype(int).tolist(), length)
    return clips


def read_runs(path: Path, starts: list[int], length: int) -> list[list[np.ndarray]]:
    """Successive frames from each start on, RGB uint8 [H, W, 3]; runs that the file cuts short are left out."""
    if not starts:
        return []
    runs: dict[int, list[np.ndarray]] = {start: [] for start in starts}
    capture, position = cv2.VideoCapture(str(path)), 0
    while capture.grab() and position < max(starts) + length:
        ours = [start for start in runs if start <= position < start + length]
        if ours:
            ok, picture = capture.retrieve()
            for start in ours if ok else ():
                runs[start].append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        position += 1
    capture.release()
    return [run for run in runs.values() if len(run) == length]


Renderer = Callable[[str, Tensor], Tensor]


def render_bank(
    stills: Sequence[np.ndarray],
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


CARRY = 0.5  # share of a clip's target that comes from the moved target before, where motion is sure
SURE = 12.0  # levels of luma: above this error the motion of a pixel is not believed


def render_clips(
    clips: list[list[np.ndarray]], looks: Iterable[str], render: Renderer, height: int, width: int, device: torch.device
) -> VideoBank:
    """Render real clips of one length in every look, then make the targets coherent in time.

    A teacher paints each frame on its own and flickers. Each target is therefore mixed with the target
    before it, moved along the optical flow of the clip (DIS, Kroeger et al., arXiv 1603.03590).
    """
    length = len(clips[0])
    bank = render_bank([frame for clip in clips for frame in clip], looks, render, height, width, device)
    greys = [cv2.cvtColor(p.permute(1, 2, 0).cpu().numpy(), cv2.COLOR_RGB2GRAY) for p in bank.photos]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for frame in range(len(bank)):
        if frame % length == 0:
            continue
        flow = torch.from_numpy(dis.calc(greys[frame], greys[frame - 1], None)).to(device).permute(2, 0, 1)

        def moved(pictures: Tensor, flow: Tensor = flow) -> Tensor:
            flow = flow.expand(len(pictures), -1, -1, -1)
            return warp(pictures.float(), flow, cubic=True).clamp(0, 255)

        before, now = bank.photos[frame - 1][None], bank.photos[frame][None].float()
        error = (moved(before) - now).abs().mean(dim=1, keepdim=True)
        error = F.avg_pool2d(error, 5, stride=1, padding=2)
        target = bank.styled[frame].float()
        mixed = torch.lerp(target, moved(bank.styled[frame - 1]), CARRY * (error < SURE).float())
        bank.styled[frame] = mixed.round().to(torch.uint8)
    return VideoBank(bank, length)


def shuffled(stills: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """The stills in another order, the same for the same seed."""
    order = list(range(len(stills)))
    random.Random(seed).shuffle(order)
    return [stills[i] for i in order]
