"""What the input has besides its pictures through ``mirage transform``: sound tracks, subtitles, tags, chapters."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from helpers import media
from helpers.numbered import X264, make, run, to_yuv

from mirage_cli.media.ffmpeg import find_ffmpeg
from mirage_cli.media.formats import CONTAINERS
from mirage_cli.media.probe import MediaProbe
from mirage_cli.media.sound_plan import plan_subtitles
from mirage_cli.styling.loading import Models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


SUBTITLES = "1\n00:00:00,200 --> 00:00:00,600\nFirst\n\n2\n00:00:01,000 --> 00:00:01,400\nSecond\n"
TAGS = (
    ";FFMETADATA1\ntitle=A \\= b\\; \\#1 \\\\ é\nartist=Somebody\ncomment=two\\\nlines\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=800\ntitle=One\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=800\nEND=1600\ntitle=Two \\= 2\n"
)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """1.6 s with two sound tracks, subtitles in two languages, tags and chapters."""
    folder = tmp_path_factory.mktemp("film")
    (folder / "s.srt").write_text(SUBTITLES, "utf-8")
    (folder / "tags.txt").write_text(TAGS, "utf-8")
    inputs = (
        "-f",
        "lavfi",
        "-i",
        "sine=d=1.6",
        "-f",
        "lavfi",
        "-i",
        "sine=f=880:d=1.6",
        "-i",
        folder / "s.srt",
        "-i",
        folder / "s.srt",
        "-i",
        folder / "tags.txt",
    )
    output = (
        "-map",
        0,
        "-map",
        1,
        "-map",
        2,
        "-map",
        3,
        "-map",
        4,
        "-map_metadata",
        5,
        "-map_chapters",
        5,
        "-metadata:s:a:1",
        "language=ita",
        "-metadata:s:s:0",
        "language=eng",
        "-metadata:s:s:1",
        "language=fra",
        *X264,
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        "-c:s",
        "srt",
    )
    return make(folder / "film.mkv", output, inputs=inputs, count=40)


def subtitles_of(path: Path, track: int = 0) -> str:
    return media.ffmpeg("-i", path, "-map", f"0:s:{track}", "-f", "srt", "-").decode().strip()


@pytest.mark.parametrize(
    "suffix, kind", [(".mp4", "mov_text"), (".mkv", "subrip"), (".mov", "mov_text"), (".webm", "webvtt")]
)
def test_sound_tracks_subtitles_tags_and_chapters_are_kept(tmp_path, models, film, suffix, kind):
    target = tmp_path / f"out{suffix}"
    document, _ = run(models, film, target)
    assert document["frames"] == 40 and document["warnings"] == []
    shown = media.streams_of(target)
    assert shown.count("Audio:") == 2 and "(ita): Audio" in shown
    assert f"(eng): Subtitle: {kind}" in shown and re.search(rf"\(fr[ae]\): Subtitle: {kind}", shown)
    assert subtitles_of(target) == subtitles_of(target, 1) == SUBTITLES.strip()
    kept = media.ffmpeg("-i", target, "-f", "ffmetadata", "-").decode().lower()
    assert "title=a \\= b\\; \\#1 \\\\ é\n" in kept and "artist=somebody" in kept
    assert "comment=two\\\nlines\n" in kept
    assert re.findall(r"Chapter #0:\d: start ([\d.]+), end ([\d.]+)", shown) == [
        ("0.000000", "0.800000"),
        ("0.800000", "1.600000"),
    ]
    assert "Two = 2" in shown


def test_a_range_takes_its_part_of_subtitles_and_chapters(tmp_path, models, film):
    target = tmp_path / "out.mkv"
    document, _ = run(models, film, target, start_seconds=0.4, duration_seconds=0.8)
    assert document["frames"] == 20
    assert re.findall(r"Chapter #0:\d: start ([\d.]+), end ([\d.]+)", media.streams_of(target)) == [
        ("0.000000", "0.400000"),
        ("0.400000", "0.800000"),
    ]
    text = subtitles_of(target)
    assert "Second" in text and "00:00:00,600 -->" in text


def test_what_the_output_cannot_hold_is_said(tmp_path, models, film):
    document, _ = run(models, film, tmp_path / "out.ts")
    (warning,) = document["warnings"]
    assert "subtitles were left out (subrip, subrip)" in warning and ".mkv" in warning
    assert media.streams_of(tmp_path / "out.ts").count("Audio:") == 2


def test_styled_subtitles_stay_as_they_are_where_they_can(tmp_path, models, film):
    source = tmp_path / "styled.mkv"
    media.ffmpeg("-i", film, "-map", "0:v", "-map", "0:s:0", "-c:v", "copy", "-c:s", "ass", source)
    for suffix, kind in ((".mkv", "Subtitle: ass"), (".mp4", "Subtitle: mov_text")):
        run(models, source, tmp_path / f"out{suffix}")
        assert kind in media.streams_of(tmp_path / f"out{suffix}")


def test_subtitles_that_are_pictures_go_to_mkv_only():
    probe = MediaProbe("matroska", 1.0, 0.0, None, (), ("hdmv_pgs_subtitle", "subrip", "none"))
    warnings: list[str] = []
    assert plan_subtitles(probe, CONTAINERS[".mkv"], warnings) == ((0, "copy"), (1, "copy"))
    assert "(none)" in warnings.pop()
    assert plan_subtitles(probe, CONTAINERS[".mp4"], warnings) == ((1, "mov_text"),)
    assert "(hdmv_pgs_subtitle, none)" in warnings.pop()


def test_tags_without_sound(tmp_path, models):
    source = make(tmp_path / "in.mp4", (*X264, *to_yuv("yuv420p"), "-metadata", "title=Silent"))
    run(models, source, tmp_path / "out.mp4")
    assert re.search(r"title +: Silent", media.streams_of(tmp_path / "out.mp4"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize("rate, inside, outside", [("24000/1001", ".mp4", ".mp4"), ("30000/1001", ".mkv", ".webm")])
def test_sound_stays_within_a_frame(tmp_path, models, rate, inside, outside):
    """Through resampled pictures of a film rate: flash and beep as far apart as they were."""
    source = media.flash_and_beep(tmp_path / f"in{inside}", at=0.7, output=("-r", rate))
    target = tmp_path / f"out{outside}"
    run(models, source, target)
    wanted = media.flash_seconds(source) - media.beep_seconds(source)
    found = media.flash_seconds(target) - media.beep_seconds(target)
    assert abs(found - wanted) < 1 / 30


def test_a_whole_output_decodes_without_an_error(tmp_path, models, film):
    target = tmp_path / "out.mp4"
    run(models, film, target)
    done = subprocess.run(
        [find_ffmpeg().path, "-v", "error", "-xerror", "-i", target, "-f", "null", "-"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0 and done.stderr == b""
