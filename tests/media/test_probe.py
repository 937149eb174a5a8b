"""What ``ffmpeg -i`` prints is read whatever stands around a stream's line."""

from __future__ import annotations

import pytest
from helpers import media

from mirage_cli.media.ffmpeg import find_ffmpeg, run_ffmpeg
from mirage_cli.media.probe import parse_probe, probe_media

VIDEO = "Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709), 128x72 [SAR 1:1 DAR 16:9], 25 fps, 25 tbr"
HEAD = "Input #0, mov,mp4, from 'x.mov':\n  Metadata:\n    title           : {}\n  Duration: 00:00:01.00, start: 0.5,\n"
# ffmpeg 7 and later; 5 prints all streams in order, two blanks in.
GROUPED = (
    "  Stream group #0:0[0x4]: Track Reference:\n    Metadata:\n      name            : Stream group\n"
    f"    Stream #0:1[0x2](eng): {VIDEO}\n      Side data:\n        Display Matrix: rotation of 90.00 degrees\n"
    "    Stream #0:3[0x4](eng): Data: none (tmcd / 0x64636D74)\n"
    "      Metadata:\n        timecode        : 10:20:30:05\n"
    "  Stream group #0:1[0x5]: Track Reference:\n    Stream #0:2(a b): Audio: ac3, 48000 Hz\n"
    f"    Stream #0:1[0x2](eng): {VIDEO}\n"
    "  Stream #0:0: Audio: aac (LC), 44100 Hz\n"
    "    Metadata:\n      title           : rotation of 45.00 degrees\n"
    "  Stream #0:4: Video: mjpeg, yuvj420p, 640x480, 90k tbr (attached pic)\n"
)


@pytest.mark.parametrize(
    "title",
    [
        "plain",
        "x\u2028  Stream #0:9: Audio: evil",
        "x\x85  Stream #0:0: Video: evil, 1x1",
        "a\x1c  Duration: 09:00:00.00,",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_streams_of_groups_in_the_order_of_the_file(title, newline):
    probe = parse_probe((HEAD.format(title) + GROUPED).replace("\n", newline))
    assert probe.audio_codecs == ("aac", "ac3") and (probe.duration_seconds, probe.start_seconds) == (1.0, 0.5)
    assert probe.video is not None
    assert (probe.video.codec, probe.video.shown_size, probe.video.rotation_degrees) == ("h264", (72, 128), 270.0)


@pytest.mark.parametrize("name", ["tc.mov", "tc.mp4"])
def test_a_timecode_track(tmp_path, name):
    plain = media.clip(tmp_path / "a.mp4", seconds=0.4)
    command = ["-y", "-i", str(plain), "-map", "0", "-c", "copy", "-timecode", "10:20:30:05", str(tmp_path / name)]
    assert run_ffmpeg(find_ffmpeg(), command).returncode == 0
    with_code, without = (
        probe_media(find_ffmpeg(), f"file:{path}", name=str(path)) for path in (tmp_path / name, plain)
    )
    assert with_code.video is not None and without.video is not None
    assert with_code.video.shown_size == without.video.shown_size and with_code.audio_codecs == without.audio_codecs
