"""The sound of an output: copied, in step with the pictures, as long as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers import media
from helpers.media import copy_clip, times_of
from helpers.paths import ROOT

from mirage_cli.inputs.file import open_file
from mirage_cli.media import formats as output_formats

pytestmark = pytest.mark.slow

FRAME_S = 1 / 30


@pytest.mark.parametrize(
    "inside, outside, codec, by_path",
    [
        (".mp4", ".mp4", "aac", True),
        (".mkv", ".mp4", "aac", False),
        (".mp4", ".mkv", "aac", True),
        (".ts", ".mp4", "aac", True),
        (".mp4", ".webm", "opus", False),
        (".mp4", ".mov", "aac", True),
        (".ts", ".mkv", "aac", False),
        (".mp4", ".ts", "aac", True),
        (".mov", ".avi", "mp3", False),
    ],
)
def test_sound_stays_under_its_pictures(tmp_path, inside, outside, codec, by_path):
    source = media.flash_and_beep(tmp_path / f"in{inside}", at=0.5)
    target = tmp_path / f"out{outside}"
    sink = copy_clip(source, target, by_path=by_path)
    assert sink.warnings == [] and sorted(os.listdir(tmp_path)) == sorted([source.name, target.name])
    assert f"Audio: {codec}" in media.streams_of(target)
    flash, beep = media.flash_seconds(target), media.beep_seconds(target)
    wanted = media.flash_seconds(source) - media.beep_seconds(source)
    assert abs((flash - beep) - wanted) < FRAME_S / 2
    assert abs(flash - beep) < FRAME_S


@pytest.mark.parametrize("name", ["sound.nut", "mysound.nut"])
def test_a_file_called_sound_nut_is_a_file_like_others(tmp_path, name):
    """The decoder keeps the sound of a pipe in a file of that name, with times that are later by an hour."""
    media.flash_and_beep(tmp_path / "in.mkv", at=0.5)
    (tmp_path / "words.srt").write_text("1\n00:00:00,200 --> 00:00:00,800\nhello\n")
    source, target = tmp_path / name, tmp_path / "out.mkv"
    subtitled = ("-i", tmp_path / "in.mkv", "-i", tmp_path / "words.srt", "-map", 0, "-map", 1)
    media.ffmpeg(*subtitled, "-c", "copy", "-c:s", "ssa", source)
    sink = copy_clip(source, target)
    assert sink.warnings == [] and "Subtitle: ass" in media.streams_of(target)
    assert abs(media.flash_seconds(target) - media.beep_seconds(target)) < FRAME_S
    assert media.beep_seconds(target) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("by_path", [False, True])
@pytest.mark.parametrize("inside", [".mp4", ".mkv", ".ts"])
def test_sound_of_a_range(tmp_path, inside, by_path):
    source = media.flash_and_beep(tmp_path / f"in{inside}", at=1.2, seconds=2.5)
    target = tmp_path / "out.mp4"
    copy_clip(source, target, by_path=by_path, start_seconds=0.71, duration_seconds=1.0)
    flash, beep = media.flash_seconds(target), media.beep_seconds(target)
    assert abs(flash - beep) < FRAME_S
    assert flash == pytest.approx(0.48, abs=0.04)
    with open_file(target) as out:
        assert out.probe.duration_seconds == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("offset", [0.3, -0.3])
def test_tracks_that_do_not_start_together(tmp_path, offset):
    plain = media.flash_and_beep(tmp_path / "plain.mp4")
    shifted = tmp_path / "shifted.mkv"
    media.ffmpeg("-i", plain, "-itsoffset", offset, "-i", plain, "-map", "0:v", "-map", "1:a", "-c", "copy", shifted)
    wanted = media.flash_seconds(shifted) - media.beep_seconds(shifted)
    assert wanted == pytest.approx(-offset, abs=0.03)
    for by_path in (False, True):
        target = tmp_path / "out.mp4"
        copy_clip(shifted, target, by_path=by_path, overwrite=True)
        found = media.flash_seconds(target) - media.beep_seconds(target)
        assert found == pytest.approx(wanted, abs=FRAME_S / 2)


def test_sound_is_copied_bit_for_bit_in_all_tracks(tmp_path):
    source = tmp_path / "two.mkv"
    media.ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=64x48:r=30:d=1",
        "-f",
        "lavfi",
        "-i",
        "sine=d=1",
        "-f",
        "lavfi",
        "-i",
        "sine=f=880:d=1",
        "-map",
        0,
        "-map",
        1,
        "-map",
        2,
        "-c:v",
        "libx264",
        "-c:a:0",
        "aac",
        "-c:a:1",
        "libopus",
        "-metadata:s:a:1",
        "language=deu",
        source,
    )
    target = tmp_path / "out.mp4"
    copy_clip(source, target)
    shown = media.streams_of(target)
    assert shown.count("Audio:") == 2 and "(deu): Audio: opus" in shown

    def packets(path, track):
        rows = media.ffmpeg("-i", path, "-map", f"0:a:{track}", "-c", "copy", "-f", "framecrc", "-")
        return [row.split(b",")[5].strip() for row in rows.splitlines() if row[:1] == b"0"]

    for track in (0, 1):
        assert packets(source, track) == packets(target, track)


def test_stopped_early_cuts_the_sound(tmp_path):
    source = media.clip(tmp_path / "in.mp4", seconds=4.0)
    for by_path in (False, True):
        target = tmp_path / "out.mp4"
        copy_clip(source, target, stop_after=30, by_path=by_path, overwrite=True)
        with open_file(target) as out:
            assert out.probe.duration_seconds == pytest.approx(1.0, abs=0.06)
            assert len(list(out)) == 30


def test_sound_longer_than_the_pictures_is_kept_whole(tmp_path):
    source = tmp_path / "in.mkv"
    media.ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=30:d=0.5", "-f", "lavfi", "-i", "sine=d=1.5", source)
    for by_path in (False, True):
        target = tmp_path / "out.mp4"
        copy_clip(source, target, by_path=by_path, overwrite=True)
        with open_file(target) as out:
            assert out.probe.duration_seconds == pytest.approx(1.5, abs=0.1)
            assert len(list(out)) == 15


def test_sound_shorter_than_the_pictures_cuts_nothing(tmp_path):
    source = tmp_path / "in.mkv"
    media.ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=30:d=1", "-f", "lavfi", "-i", "sine=d=0.3", source)
    copy_clip(source, tmp_path / "out.mp4")
    assert len(times_of(tmp_path / "out.mp4")) == 30


def test_gif_says_that_it_has_no_sound(tmp_path):
    source = media.clip(tmp_path / "in.mp4", seconds=0.4, fps="10")
    sink = copy_clip(source, tmp_path / "out.gif")
    assert sink.warnings == ["a gif file holds no sound; it was left out"]
    assert times_of(tmp_path / "out.gif") == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)


def test_truncated_input_gives_a_file_that_plays(tmp_path):
    source = media.truncated_clip(tmp_path / "cut.mp4")
    target = tmp_path / "out.mp4"
    sink = copy_clip(source, target)
    found = times_of(target)
    assert len(found) == sink.frames_written > 10
    assert "Audio: aac" in media.streams_of(target)


def test_rotated_input_comes_out_upright_once(tmp_path):
    source = media.rotated_clip(tmp_path / "turned.mp4")
    copy_clip(source, tmp_path / "out.mp4")
    assert "rotation" not in media.streams_of(tmp_path / "out.mp4")
    with open_file(tmp_path / "out.mp4") as out:
        assert (out.info.width, out.info.height) == (64, 96)
        red, _, blue = next(iter(out)).rgb[8, 32].astype(int)
        assert blue > red + 100


def test_input_from_a_pipe_keeps_its_sound(tmp_path):
    source = media.flash_and_beep(tmp_path / "in.mkv", at=0.5)
    target = tmp_path / "out.mp4"
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from mirage_cli.inputs.file import open_file\n"
        "from mirage_cli.outputs.file import open_output\n"
        "source = open_file('-', keep_sound=True)\n"
        "sink = open_output(sys.argv[1], source.info, audio_from=source)\n"
        "for frame in source: sink.write(frame)\n"
        "sink.close(); source.close(); print(source.warnings + sink.warnings)\n"
    )
    with subprocess.Popen(["cat", source], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(
            [sys.executable, "-c", script, target, ROOT], stdin=cat.stdout, capture_output=True, timeout=60
        )
    assert done.stdout.strip() == b"[]", done.stderr.decode()
    assert "Audio: aac" in media.streams_of(target)
    assert abs(media.flash_seconds(target) - media.beep_seconds(target)) < FRAME_S


@pytest.mark.parametrize("stop_after", [0, 10])
def test_output_to_a_pipe_is_matroska_with_sound(tmp_path, stop_after):
    source = media.flash_and_beep(tmp_path / "in.mp4", at=0.2, seconds=2.0)
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from mirage_cli.inputs.file import open_file\n"
        "from mirage_cli.outputs.file import open_output\n"
        "source = open_file(sys.argv[1])\n"
        "sink = open_output('-', source.info, audio_from=sys.argv[1])\n"
        "for frame in source:\n"
        "    sink.write(frame)\n"
        "    if frame.index + 1 == int(sys.argv[3]): break\n"
        "sink.close(); source.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, source, ROOT, str(stop_after)], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    target = tmp_path / "out.mkv"
    target.write_bytes(done.stdout)
    assert done.stdout[:4] == b"\x1aE\xdf\xa3" and "Audio: aac" in media.streams_of(target)
    assert len(times_of(target)) == (stop_after or 60)
    assert abs(media.flash_seconds(target) - media.beep_seconds(target)) < FRAME_S


def test_reader_of_the_pipe_goes_away(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np\n"
        "from mirage_cli.errors import MediaError\n"
        "from mirage_cli.frames import Frame, StreamInfo\n"
        "from mirage_cli.outputs.file import open_output\n"
        "sink = open_output('-', StreamInfo(320, 240, 30.0), codec='ffv1')\n"
        "noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)\n"
        "try:\n"
        "    for n in range(2000): sink.write(Frame(noise, n / 30, n))\n"
        "except MediaError as problem: print(problem.message, file=sys.stderr)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, ROOT], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(1000)
    child.stdout.close()
    message = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(30) == 0 and "has ended (Broken pipe)" in message, message


def test_sound_that_cannot_be_copied_is_encoded_or_left_out(tmp_path, monkeypatch):
    """ffmpeg's first try with -c copy fails, the second with an encoder works."""
    source = tmp_path / "in.mkv"
    media.ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:r=30:d=0.5", "-f", "lavfi", "-i", "sine=d=0.5", "-c:a", "wmav2", source
    )
    loose = replace(output_formats.CONTAINERS[".mp4"], sound_copied=None)
    monkeypatch.setitem(output_formats.CONTAINERS, ".mp4", loose)
    sink = copy_clip(source, tmp_path / "out.mp4")
    assert "Audio: aac" in media.streams_of(tmp_path / "out.mp4") and sink.warnings == []
    broken = replace(loose, sound_copied=frozenset(), sound_encoder="no_such_encoder")
    monkeypatch.setitem(output_formats.CONTAINERS, ".mp4", broken)
    sink = copy_clip(source, tmp_path / "out2.mp4")
    assert len(sink.warnings) == 1 and "silent" in sink.warnings[0]
    assert len(times_of(tmp_path / "out2.mp4")) == 15
