"""The clips of ``mirage eval``: folders, videos, shots, and what cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.sessions import moving
from helpers.streams import SMALL, write_pictures

from mirage_cli.errors import MediaError
from mirage_cli.evaluation import clips
from mirage_cli.evaluation.clips import Clip, load_clips, longest_shot


def test_a_clip_goes_to_and_fro_without_a_jump() -> None:
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    walk = [int(Clip("c", frames, "").at(i)[0, 0, 0]) for i in range(11)]
    assert walk == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
    assert Clip("c", frames, "").period(5) == 4 and Clip("c", frames, "").period() == 8


def test_the_longest_shot_is_taken() -> None:
    one, other = moving(12, seed=1), moving(20, seed=9)
    assert longest_shot(one + other) == (12, 32)
    assert longest_shot(other) == (0, 20)


@pytest.mark.slow
def test_folders_of_pictures_and_videos_are_clips(tmp_path: Path, example_clip: Path) -> None:
    frames = moving(10)
    write_pictures(tmp_path / "clips" / "walk", frames)
    (tmp_path / "clips" / "bunny.mp4").symlink_to(example_clip)
    found = load_clips(str(tmp_path / "clips"), SMALL)
    assert [c.name for c in found] == ["bunny", "walk"]
    assert found[0].frames.shape[1:] == (48, 64, 3) and len(found[0].frames) > 40
    assert np.array_equal(found[1].frames, np.stack(frames)) and "pictures" in found[1].note
    assert load_clips(str(tmp_path / "clips" / "walk"), SMALL)[0].name == "walk"


@pytest.mark.slow
def test_without_ffmpeg_opencv_reads(example_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_clips(str(example_clip), SMALL)[0]
    monkeypatch.setitem(sys.modules, "mirage_cli.inputs.file", None)  # importing it raises ImportError
    plain = load_clips(str(example_clip), SMALL)[0]
    assert "ffmpeg" in whole.note and "OpenCV" in plain.note
    assert len(plain.frames) == len(whole.frames)
    assert np.abs(plain.frames.astype(int) - whole.frames).mean() < 3


@pytest.mark.parametrize(("cores", "taken"), [(9, clips.MOST_THREADS), (1, 1)])
def test_clips_are_read_on_few_threads(cores: int, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two evaluations on a machine of 32 cores found no end of reading when each library took a thread a core."""
    seen, before = [], (torch.get_num_threads(), cv2.getNumThreads())

    def watched(frames: list[np.ndarray]) -> tuple[int, int]:
        seen.append((torch.get_num_threads(), cv2.getNumThreads()))
        return longest_shot(frames)

    monkeypatch.setattr(clips, "longest_shot", watched)
    write_pictures(tmp_path / "walk", moving(10))
    try:
        torch.set_num_threads(cores)
        cv2.setNumThreads(cores)
        load_clips(str(tmp_path / "walk"), SMALL)
        assert seen == [(taken, taken)]
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (cores, cores)
        with pytest.raises(MediaError):
            load_clips(str(tmp_path / "none"), SMALL)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


@pytest.mark.parametrize("what", ["nothing", "empty", "broken", "short"])
def test_clips_that_cannot_be_used(what: str, tmp_path: Path) -> None:
    place = tmp_path / what
    if what == "empty":
        place.mkdir()
    if what == "broken":
        place.mkdir()
        (place / "0.png").write_bytes(b"no picture")
    if what == "short":
        write_pictures(place, moving(4))
    with pytest.raises(MediaError):
        load_clips(str(place), SMALL)
