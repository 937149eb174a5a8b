"""Numbered pictures as a video, and a video as numbered pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import media
from helpers.jobs import Mirror, config, do

from mirage_cli.config import TransformConfig
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.inputs.file import open_file

pytestmark = pytest.mark.usefixtures("echo")


def greys(path: Path) -> list[float]:
    with open_file(path) as source:
        return [float(frame.rgb.mean()) for frame in source]


@pytest.mark.parametrize("name", ["", "/*.png", "/s%d.png"])
def test_pictures_are_a_video(shots, tmp_path, name):
    out = tmp_path / "o.mp4"
    document, _ = do(config(f"{shots}{name}", out, fps=12.0), Mirror())
    assert document["frames"] == 12 and media.probe(out).seconds == pytest.approx(1.0, abs=0.01)
    assert greys(out) == pytest.approx([number * 20 for number in range(12)], abs=3)


def test_pictures_in_and_out(shots, tmp_path):
    (tmp_path / "out").mkdir()
    do(config(shots, tmp_path / "out" / "%03d.png"), Mirror())
    assert sorted(os.listdir(tmp_path / "out")) == [f"{n:03d}.png" for n in range(1, 13)]
    import cv2

    assert cv2.imread(str(tmp_path / "out" / "012.png")).mean() == 220
    with pytest.raises(MediaError, match="exists"):
        do(config(shots, tmp_path / "out" / "%03d.png"), Mirror())
    with pytest.raises(UsageProblem, match="names one picture") as caught:
        do(config(shots, tmp_path / "one.png"), Mirror())
    assert "%05d.png" in caught.value.remedy and not (tmp_path / "one.png").exists()


def test_one_picture(shots):
    document, _ = do(TransformConfig(input=str(shots / "s3.png"), prompts=("night",)), Mirror())
    assert document["output"] == str(shots / "s3.night.png") and document["frames"] == 1
    assert (shots / "s3.night.png").exists()


def test_pictures_that_do_not_fit(shots, tmp_path):
    import cv2

    cv2.imwrite(str(shots / "s5.png"), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(MediaError, match="s5.png is 16x16, and the first picture is 48x32"):
        do(config(shots, tmp_path / "o.mp4"))
    (shots / "s0.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match="s0.png is not a picture"):
        do(config(shots, tmp_path / "o.mp4"))
    with pytest.raises(MediaError, match="no picture is called"):
        do(config(shots / "x%d.png", tmp_path / "o.mp4"))
