"""What the tests of jobs and batches share: clips, pictures, and the output of a job that nothing disturbed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import media
from helpers.jobs import config, do


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """60 frames of 96x64 with sound: six segments."""
    return media.clip(tmp_path_factory.mktemp("jobs") / "in.mp4", seconds=2, fps=30)


@pytest.fixture()
def echo(monkeypatch):
    """The stand-in model's frames depend on all that came before."""
    monkeypatch.setenv("FAKE_ECHO", "1")


@pytest.fixture(scope="module")
def golden(clip, tmp_path_factory) -> bytes:
    """The output of a job that nothing disturbed."""
    os.environ["FAKE_ECHO"] = "1"
    out = tmp_path_factory.mktemp("golden") / "out.mp4"
    try:
        document, _ = do(config(clip, out))
    finally:
        del os.environ["FAKE_ECHO"]
    assert document["frames"] == 60 and document["resumed_at_frame"] == 0
    assert os.listdir(out.parent) == ["out.mp4"] and media.probe(out).frames == 60
    return out.read_bytes()


@pytest.fixture()
def films(clip, tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("take 10.mp4", "take 9.mp4"):
        (folder / name).write_bytes(clip.read_bytes())
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture()
def shots(tmp_path) -> Path:
    """Twelve pictures of one grey each, numbered without leading zeros."""
    import cv2

    folder = tmp_path / "shots"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"s{number}.png"), np.full((32, 48, 3), number * 20, np.uint8))
    return folder
