"""Clips and sessions for ``mirage eval``, without a network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch

from helpers.sessions import moving
from mirage_cli.cli import main
from mirage_cli.evaluation import drift
from mirage_cli.evaluation.clips import Clip

SMALL = (64, 48)


class Painter:
    """A session's shape around a function (frame number, rgb) -> rgb."""

    def __init__(self, paint) -> None:
        self.paint, self.number = paint, 0
        self.counters = {"frames": 0, "cuts": 0, "guard_events": 0, "guard_opinions": 0}
        self.report = SimpleNamespace(guard_event=None)
        self.device = torch.device("cpu")
        self.hidden = False

    def reset(self) -> None:
        self.number = 0

    def forget(self) -> None:
        self.hidden = True

    def step(self, rgb: np.ndarray) -> np.ndarray:
        out = self.paint(self.number, rgb)
        self.number += 1
        return out


def clip(frames: int = 24) -> Clip:
    return Clip("moving", np.stack(moving(frames)), "")


def of(paint, frames: int = 200, **options) -> dict:
    *_, document = drift.measure_drift(Painter(paint), clip(), frames, **options)
    return document


def toned(number: int, rgb: np.ndarray) -> np.ndarray:
    """A look without a past: the same frame always gives the same picture."""
    return (255 - rgb // 2).astype(np.uint8)


def mixed(a: np.ndarray, b: np.ndarray | float, share: float) -> np.ndarray:
    return np.clip(a * (1 - share) + b * share, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, frames: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for number, rgb in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:04d}.png"), rgb[..., ::-1])


def evaluate(*words: str) -> int:
    return main(["eval", "--size", "64x48", "--no-progress", *words])
