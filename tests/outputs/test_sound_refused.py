"""Sound that an output cannot take as it is: it is encoded, brought to another layout or left out alone, and said."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.media import copy_clip

from mirage_cli.media.ffmpeg import find_ffmpeg, run_ffmpeg
from mirage_cli.media.probe import probe_media

SIDE = "sine=440:d=1,aformat=channel_layouts=mono,pan=5.1(side)|FL=c0|FR=c0|FC=c0|LFE=c0|SL=c0|SR=c0"
SIXTEEN = "sine=440:d=1,aformat=channel_layouts=mono,pan=16c|c0=c0|c15=c0"


def film(path, *sounds: tuple[str, list[str]], options: tuple[str, ...] = ()):
    """A second of pictures and one track of sound for each (lavfi source, encoder options)."""
    inputs, maps = [], ["-map", "0:v"]
    for number, (source, encoder) in enumerate(sounds, 1):
        inputs += ["-f", "lavfi", "-i", source]
        maps += ["-map", f"{number}:a"]
        maps += [f"{word}:{number - 1}" if word.startswith("-c:a") else word for word in encoder]
    pictures = ["-f", "lavfi", "-i", "testsrc2=s=64x36:r=25:d=1"]
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-metadata", "title=kept"]
    done = run_ffmpeg(find_ffmpeg(), ["-y", *pictures, *inputs, *maps, *codec, *options, str(path)])
    assert done.returncode == 0, done.stderr.decode()
    return path


def codecs(path) -> tuple[str, ...]:
    return probe_media(find_ffmpeg(), f"file:{path}", name=str(path)).audio_codecs


def test_a_layout_that_the_encoder_refuses_is_brought_to_a_common_one(tmp_path):
    source = film(tmp_path / "side.mkv", (SIDE, ["-c:a", "ac3"]))
    sink = copy_clip(source, tmp_path / "side.webm")
    assert codecs(tmp_path / "side.webm") == ("opus",) and not sink.warnings
    assert b"kept" in (tmp_path / "side.webm").read_bytes()


def test_channels_without_a_layout(tmp_path):
    source = film(tmp_path / "two.mov", ("sine=440:d=1", ["-c:a", "aac"]), (SIXTEEN, ["-c:a", "pcm_s24le"]))
    sink = copy_clip(source, tmp_path / "two.mp4")
    assert codecs(tmp_path / "two.mp4") == ("aac", "aac") and not sink.warnings


@pytest.mark.parametrize("broken", [1, 2])
def test_one_track_that_is_refused_does_not_silence_the_other(tmp_path, broken):
    tracks = [("sine=440:d=1", ["-c:a", "aac"]), ("sine=880:d=1", ["-c:a", "libvorbis"])]
    source = film(tmp_path / "two.mkv", *(tracks if broken == 2 else tracks[::-1]))
    source.write_bytes(source.read_bytes().replace(b"\x05vorbis", b"\x09vorbis"))  # its decoder will not open
    sink = copy_clip(source, tmp_path / "two.mp4")
    assert codecs(tmp_path / "two.mp4") == ("aac",)
    (warning,) = sink.warnings
    assert warning.startswith(f"sound track {broken} could not be written ("), warning


@pytest.mark.parametrize(
    ("name", "sound", "options", "wanted"),
    [
        ("fb.ts", ["-c:a", "aac"], (), "aac"),
        ("fb.mp4", ["-c:a", "aac"], (), "aac"),
        ("bd.m2ts", ["-c:a", "pcm_bluray", "-ar", "48000", "-ac", "2"], ("-mpegts_m2ts_mode", "1"), "aac"),
        ("dvd.vob", ["-c:a", "pcm_dvd", "-ar", "48000", "-ac", "2"], ("-c:v", "mpeg2video", "-f", "vob"), "aac"),
    ],
)
def test_a_pipe_gets_sound_from_every_container(tmp_path, name, sound, options, wanted):
    source = film(tmp_path / name, ("sine=440:d=1", sound), options=options)
    script = (
        "import sys; from mirage_cli.outputs.file import open_output; from mirage_cli.inputs.file import open_file\n"
        "source = open_file(sys.argv[1]); sink = open_output('-', source.info, audio_from=source)\n"
        "for frame in source: sink.write(frame)\n"
        "sink.close()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(source)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    (tmp_path / "out.mkv").write_bytes(done.stdout)
    assert codecs(tmp_path / "out.mkv") == (wanted,)
