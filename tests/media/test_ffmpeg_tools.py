"""Finding ffmpeg, reading what it says, and the pipes to and from it."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import media

from mirage_cli.errors import MediaError
from mirage_cli.media import ffmpeg as ffmpeg_tools
from mirage_cli.media.nut_writer import NutWriter
from mirage_cli.media.probe import parse_probe
from mirage_cli.media.raw_pipe import RawPipeError, RawPipeReader, raw_pipe_url


def test_nut_to_ffmpeg_and_raw_pictures_back(tmp_path):
    random = np.random.default_rng(3)
    pictures = [random.integers(0, 256, (4, 6, 3), np.uint8) for _ in range(5)]
    ticks = [0, 1, 2, 700, 90000 * 3600]
    path = tmp_path / "x.nut"
    with open(path, "wb", 0) as file:
        writer = NutWriter(file.fileno(), 6, 4, 90000, Fraction(30000, 1001), (4, 3))
        for time_ticks, picture in zip(ticks, pictures):
            writer.write(time_ticks, picture)
        with pytest.raises(ValueError):
            writer.write(1, np.zeros((6, 4, 3), np.uint8))
    copied = ["-copyts", "-itsoffset", "-1", "-i", path, "-map", "0", "-c", "copy", "-copytb", "1"]
    data = media.ffmpeg(*copied, "-f", "tee", raw_pipe_url(with_sound=False))
    reader = RawPipeReader(io.BufferedReader(io.BytesIO(data)), print)
    for time_ticks, picture in zip(ticks, pictures):
        seconds, rgb = reader.read_frame()
        assert seconds == Fraction(time_ticks, 90000) - 1 and np.array_equal(rgb, picture)
    assert (reader.width, reader.height, reader.sample_aspect) == (6, 4, (4, 3))
    assert reader.read_frame() is None
    cut_off = RawPipeReader(io.BufferedReader(io.BytesIO(data[:-1])), print)
    assert [cut_off.read_frame() is None for _ in range(5)] == [False] * 4 + [True]


def test_a_pipe_refuses_other_bytes():
    for data in (b"RIFF\n" * 40, b"R" * 4000, b"# \xff\n", b"#dimensions 0: 0x9\n", b"0, 0, 0, 1, 48, 0xc1bf13d0\n"):
        with pytest.raises(RawPipeError):
            RawPipeReader(io.BufferedReader(io.BytesIO(data)), print).read_frame()
    assert RawPipeReader(io.BufferedReader(io.BytesIO(b"")), print).read_frame() is None


def test_ffmpeg_that_is_found(monkeypatch, tmp_path):
    monkeypatch.delenv("MIRAGE_FFMPEG", raising=False)
    tool = ffmpeg_tools.find_ffmpeg()
    assert Path(tool.path).exists() and tool.release >= (5, 1)
    fake = tmp_path / "ffmpeg"
    fake.write_text('#!/bin/sh\n[ "$2" = -version ] && echo "ffmpeg version n99.1-7-gabc C"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    newer = ffmpeg_tools.find_ffmpeg()
    assert (newer.path, newer.version, newer.origin) == (str(fake), "n99.1-7-gabc", "system")
    monkeypatch.setenv("MIRAGE_FFMPEG", tool.path)
    assert ffmpeg_tools.find_ffmpeg().origin == "MIRAGE_FFMPEG"
    monkeypatch.setenv("MIRAGE_FFMPEG", "/nowhere/ffmpeg")
    with pytest.raises(MediaError, match="/nowhere/ffmpeg"):
        ffmpeg_tools.find_ffmpeg()
    fake.write_text('#!/bin/sh\necho "ffmpeg version 4.4.2 Copyright"\n')
    monkeypatch.setenv("MIRAGE_FFMPEG", str(fake))
    with pytest.raises(MediaError, match="5.1 or newer"):
        ffmpeg_tools.find_ffmpeg()


def test_no_ffmpeg_at_all(monkeypatch):
    monkeypatch.delenv("MIRAGE_FFMPEG", raising=False)
    monkeypatch.setenv("PATH", "/nowhere-at-all")
    monkeypatch.setattr(ffmpeg_tools, "_bundled_path", lambda: None)
    ffmpeg_tools._find_ffmpeg.cache_clear()
    with pytest.raises(MediaError, match="no ffmpeg found") as caught:
        ffmpeg_tools.find_ffmpeg()
    assert "pip install imageio-ffmpeg" in caught.value.remedy
    ffmpeg_tools._find_ffmpeg.cache_clear()


def test_rates_behind_printed_ones():
    assert ffmpeg_tools.rational_rate(29.97) == Fraction(30000, 1001)
    assert ffmpeg_tools.rational_rate(23.98) == Fraction(24000, 1001)
    assert ffmpeg_tools.rational_rate(24.0) == 24
    assert ffmpeg_tools.rational_rate(12.5) == Fraction(25, 2)


def test_probe_reads_what_ffmpeg_prints():
    probe = parse_probe(
        "Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:x, from y.mp4':\n"
        "  Metadata:\n    title           : Stream #0:0: Video: h264, 9x9, 9 fps\n"
        "  Duration: 01:02:03.50, start: -0.021000, bitrate: 1 kb/s\n"
        "  Stream #0:0[0x1](und): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, stereo (default)\n"
        "  Stream #0:1: Video: mjpeg, yuvj420p(pc, bt470bg/unknown/unknown), 64x64, 90k tbr, 90k "
        "tbn (attached pic)\n"
        "  Stream #0:2[0x2](eng): Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, "
        "bt2020nc/bt2020/smpte2084, progressive), 1920x1080 [SAR 1:1 DAR 16:9], 9 kb/s, 23.98 fps, "
        "24 tbr, 16k tbn (default)\n"
        "    Side data:\n      Display Matrix: rotation of -90.00 degrees\n"
        "  Stream #0:3: Audio: none, 8000 Hz\n"
    )
    video = probe.video
    assert probe.duration_seconds == 3723.5 and probe.start_seconds == -0.021
    assert (video.codec, video.width, video.height) == ("hevc", 1920, 1080)
    assert video.rotation_degrees == 90.0 and video.is_hdr and video.matrix == "bt2020nc"
    assert video.fps == Fraction(24000, 1001) and video.pixel_format == "yuv420p10le"
    assert probe.audio_codecs == ("aac", "none") and probe.sound_tracks == [(0, "aac")]


def test_message_worth_quoting():
    lines = [
        "[mp4 @ 0x55] [error] Unable to re-open file",
        "[out#0/mp4 @ 0x55] [error] Error muxing a packet",
        "[error] Task finished with error code: -28 (No space left on device)",
        "Conversion failed!",
    ]
    assert ffmpeg_tools.pick_message(lines) == "Unable to re-open file"
    assert ffmpeg_tools.pick_message([]) == "no message"
