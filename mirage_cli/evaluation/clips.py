"""The clips that a model is measured on: decoded once, one shot each, played to and fro without end.

A looped clip must not cut where it begins again: a cut empties the history, and what a long stream
does to itself would be wiped away with it. So a clip's longest shot is taken, and played forwards and
backwards in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from mirage_cli.errors import MediaError, MirageError
from mirage_cli.lsd.model import FRAME_MULTIPLE, luma
from mirage_cli.stream.motion import CUT_THRESHOLD, cut_score, estimate_motion
from mirage_cli.stream.planes import resize_flow, warp
from mirage_cli.training.data import EXAMPLE_CLIP, fit

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
MOST_FRAMES = 600  # of a clip; more would only fill memory
FEWEST_FRAMES = 8  # of a shot
MOST_THREADS = 4  # while clips are read; see ``few_threads``


@dataclass(frozen=True)
class Clip:
    """One shot.

    Attributes:
        name: file or folder name without its ending.
        frames: uint8 [N, H, W, 3].
        note: how it was read and which part was taken, for the record.
    """

    name: str
    frames: np.ndarray
    note: str

    def period(self, longest: int | None = None) -> int:
        """Frames until the same place comes again with the same direction, at most ``longest``."""
        whole = 2 * len(self.frames) - 2
        return whole if longest is None else max(2, min(whole, longest - longest % 2))

    def at(self, number: int, period: int | None = None) -> np.ndarray:
        """Frame ``number`` of the endless to-and-fro, uint8 [H, W, 3]."""
        period = period or self.period()
        place = number % period
        return np.array(self.frames[min(place, period - place)])  # a copy: the frames may lie in a file


@contextmanager
def few_threads(most: int = MOST_THREADS) -> Iterator[None]:
    """torch and OpenCV on ``most`` threads each at most.

    Motion is found on small pictures, by one library and the other in turn. With a thread for each core of a large
    machine they wait for one another, and two evaluations side by side come to a standstill.
    """
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(min(most, before[0]))
    cv2.setNumThreads(min(most, before[1]))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@few_threads()
def load_clips(source: str | None, size: tuple[int, int]) -> list[Clip]:
    """Clips of a folder (videos, and folders of numbered pictures), of one file, or the example clip.

    Args:
        source: None takes the example clip in a clone, else the moving test picture.
        size: (width, height) in pixels; pictures are scaled to cover it and cropped to the middle.

    Raises:
        MediaError: nothing there that can be read.
    """
    if source is None:
        if EXAMPLE_CLIP.is_file():
            return [_clip(EXAMPLE_CLIP, size)]
        from mirage_cli.inputs.landscape import TestPicture

        moving = TestPicture(*size, paced=False, frames=120)
        return [Clip("test-picture", np.stack([frame.rgb for frame in moving]), "moving test picture")]
    path = Path(source)
    if path.is_file():
        return [_clip(path, size)]
    if not path.is_dir():
        raise MediaError(f"no clips at {source!r}: no such file or folder", "Give --clips a folder of videos.")
    if _pictures(path):
        return [_clip(path, size)]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEOS or (p.is_dir() and _pictures(p)))
    if not found:
        raise MediaError(
            f"no clips in {source!r}; looked for {', '.join(VIDEOS)} and folders of numbered pictures",
            "Give --clips a folder of videos.",
        )
    return [_clip(p, size) for p in found]


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)


def _clip(path: Path, size: tuple[int, int]) -> Clip:
    frames, reader = [], ""
    for reader, rgb in _read(path):
        frames.append(fit(rgb, size[1], size[0]))
        if len(frames) == MOST_FRAMES:
            break
    begin, end = longest_shot(frames)
    if end - begin < FEWEST_FRAMES:
        raise MediaError(
            f"{str(path)!r}: its longest shot has {end - begin} frames; {FEWEST_FRAMES} are needed",
            "Give --clips a clip with fewer cuts.",
        )
    note = f"{len(frames)} frames by {reader}, shot {begin} to {end - 1}"
    return Clip(path.stem, np.stack(frames[begin:end]), note)


def _read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(who reads, uint8 [H, W, 3]) for each frame: pictures, else ffmpeg, else OpenCV without it."""
    if path.is_dir():
        for file in _pictures(path):
            picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if picture is None:
                raise MediaError(f"cannot decode {str(file)!r}", "Check the folder given to --clips.")
            yield "OpenCV, pictures", cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        return
    try:
        from mirage_cli.inputs.file import open_file
        from mirage_cli.media.ffmpeg import find_ffmpeg

        find_ffmpeg()
    except (ImportError, MirageError):  # a machine with a GPU and little else
        clip = cv2.VideoCapture(str(path))
        while (got := clip.read())[0]:
            yield "OpenCV", cv2.cvtColor(got[1], cv2.COLOR_BGR2RGB)
        clip.release()
        return
    source = open_file(str(path))
    try:
        for frame in source:
            yield "ffmpeg", frame.rgb
    finally:
        source.close()


def longest_shot(frames: list[np.ndarray]) -> tuple[int, int]:
    """(first, last + 1) of the longest run of frames that the session's own cut detector calls one shot."""
    borders = [0]
    before = None
    for number, rgb in enumerate(frames):
        now = _small_luma(rgb)
        if before is not None:
            warped = warp(before, resize_flow(estimate_motion(before, now), 2))
            if float(cut_score(warped, now)) > CUT_THRESHOLD:
                borders.append(number)
        before = now
    borders.append(len(frames))
    shots = list(zip(borders, borders[1:]))
    return max(shots, key=lambda shot: shot[1] - shot[0]) if frames else (0, 0)


@torch.inference_mode()
def _small_luma(rgb: np.ndarray) -> torch.Tensor:
    """Luma in [-1, 1] as the session sees it, [1, 1, H, W] with sides cropped to multiples of 16."""
    height, width = (side - side % FRAME_MULTIPLE for side in rgb.shape[:2])
    picture = torch.from_numpy(rgb[:height, :width]).permute(2, 0, 1)[None].float() / 127.5 - 1
    return luma(picture)
