"""Video out: what is written, when, with which sound; and what happens when it cannot be."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import media
from helpers.media import copy_clip, times_of
from helpers.paths import ROOT
from helpers.pictures import pictures, still_info

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import Frame, FrameSink
from mirage_cli.inputs.file import open_file
from mirage_cli.media.addresses import file_url
from mirage_cli.media.ffmpeg import find_ffmpeg
from mirage_cli.media.formats import CODECS, CONTAINERS, tick_rate
from mirage_cli.outputs.file import FileSink, open_output


def write_all(target, frames, info, **options) -> FileSink:
    sink = open_output(target, info, **options)
    for n, (pts, rgb) in enumerate(frames):
        sink.write(Frame(rgb, pts, n))
    sink.close()
    return sink


def constant(rgb: list[np.ndarray], fps: float = 30.0):
    return [(n / fps, picture) for n, picture in enumerate(rgb)]


# What is written


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".ts", ".m4v"])
def test_frames_times_size_and_colour(tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    rgb = pictures(12)
    sink = write_all(target, constant(rgb), still_info())
    assert isinstance(sink, FrameSink) and sink.frames_written == 12 and sink.warnings == []
    assert sorted(os.listdir(tmp_path)) == [target.name]
    with open_file(target) as source:
        back = list(source)
        assert (source.info.width, source.info.height) == (64, 48)
        assert source.info.fps == pytest.approx(30, rel=0.02)
    np.testing.assert_allclose([f.pts_seconds for f in back], np.arange(12) / 30, atol=1e-3)
    off = np.abs(np.stack([f.rgb for f in back]).astype(int) - np.stack(rgb))
    assert off.mean() < 4.0
    assert "yuv420p(tv, bt709" in media.streams_of(target)


@pytest.mark.parametrize("codec, most", [("ffv1", 0), ("libx264rgb", 0)])
def test_lossless_round_trip(tmp_path, codec, most):
    rgb = [np.random.default_rng(n).integers(0, 256, (33, 47, 3), np.uint8) for n in range(4)]
    write_all(tmp_path / "out.mkv", constant(rgb), still_info(47, 33), codec=codec)
    with open_file(tmp_path / "out.mkv") as source:
        back = np.stack([frame.rgb for frame in source]).astype(int)
    assert np.abs(back - np.stack(rgb)).max() <= most


def test_colours_survive_h264_at_crf_0(tmp_path):
    """Flat colours: what is left is the rounding of 8-bit BT.709."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (18, 52, 200)]
    rgb = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    write_all(tmp_path / "out.mp4", constant(rgb), still_info(), crf=0)
    with open_file(tmp_path / "out.mp4") as source:
        for frame, colour in zip(source, colours):
            assert np.abs(frame.rgb.astype(int) - colour).max() <= 2, colour


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_variable_rate_is_written(tmp_path, suffix):
    times = [0.0, 0.033333, 0.1, 0.105, 0.35, 0.8, 0.816667, 2.0]
    info = still_info(variable_rate=True, fps=4.0)
    write_all(tmp_path / f"o{suffix}", list(zip(times, pictures(8))), info)
    np.testing.assert_allclose(times_of(tmp_path / f"o{suffix}"), times, atol=1.1e-3)


def test_a_rate_called_constant_may_still_have_gaps(tmp_path):
    times = [0.0, 1 / 30, 4 / 30, 5 / 30, 0.2123, 1.0]
    write_all(tmp_path / "o.mp4", list(zip(times, pictures(6))), still_info())
    np.testing.assert_allclose(times_of(tmp_path / "o.mp4"), times, atol=1e-3)


def test_times_start_at_zero_and_never_stand_still(tmp_path):
    times = [7.0, 7.0, 6.9, 7.1]
    write_all(tmp_path / "o.mp4", list(zip(times, pictures(4))), still_info(variable_rate=True))
    found = times_of(tmp_path / "o.mp4")
    assert len(found) == 4 and found[0] == 0 and found[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    "fps, shown", [(30000 / 1001, "29.97 fps"), (24.0, "24 fps"), (12.5, "12.50 fps"), (60.0, "60 fps")]
)
def test_constant_rates_come_out_constant(tmp_path, fps, shown):
    """Also from Matroska's whole milliseconds."""
    frames = [(round(pts, 3), rgb) for pts, rgb in constant(pictures(24), fps)]
    write_all(tmp_path / "o.mp4", frames, still_info(fps=fps))
    assert shown in media.streams_of(tmp_path / "o.mp4")
    with open_file(tmp_path / "o.mp4") as source:
        found = [frame.pts_seconds for frame in source]
    np.testing.assert_allclose(found, np.arange(24) / fps, atol=2e-5)


def test_tick_rates_hold_the_frame_rate():
    assert tick_rate("libx264", 30000) == 90000 and tick_rate("libx264", 24) == 90000
    assert tick_rate("libx264", 24000) == 72000 and tick_rate("mpeg4", 30000) <= 65535
    assert tick_rate("libx264", None) == 90000


def test_average_rate_is_what_a_variable_file_says(tmp_path):
    times = [0.0, 0.05, 0.25, 0.3, 0.5]
    write_all(tmp_path / "o.mp4", list(zip(times, pictures(5))), still_info(fps=10, variable_rate=True))
    level = media.streams_of(tmp_path / "o.mp4")
    assert "90k fps" not in level and "h264 (High)" in level


@pytest.mark.parametrize("suffix, pixels", [(".mp4", "yuv444p"), (".webm", "yuv420p"), (".gif", "bgra")])
def test_odd_sizes_are_kept(tmp_path, suffix, pixels):
    target = tmp_path / f"odd{suffix}"
    sink = write_all(target, constant(pictures(4, 47, 33), 10), still_info(47, 33, 10))
    with open_file(target) as source:
        assert (source.info.width, source.info.height) == (47, 33)
        assert len(list(source)) == 4
    assert pixels in media.streams_of(target)
    assert any("47x33" in warning for warning in sink.warnings) == (suffix == ".mp4")


def test_pixel_aspect_is_written(tmp_path):
    for suffix in (".mp4", ".mkv"):
        target = tmp_path / f"o{suffix}"
        write_all(target, constant(pictures(3)), still_info(pixel_aspect=(4, 3)))
        with open_file(target) as source:
            assert source.info.pixel_aspect == (4, 3)


@pytest.mark.parametrize("codec", ["h265", "av1", "vp9", "mpeg4", "prores", "mjpeg"])
def test_codecs_by_their_common_names(tmp_path, codec):
    target = tmp_path / "o.mkv"
    write_all(target, constant(pictures(4)), still_info(), codec=codec)
    with open_file(target) as source:
        back = np.stack([frame.rgb for frame in source]).astype(int)
    assert np.abs(back - np.stack(pictures(4))).mean() < 5


def test_quality_and_preset(tmp_path):
    rgb = [np.random.default_rng(n).integers(0, 256, (48, 64, 3), np.uint8) for n in range(6)]
    sizes = []
    for crf in (10, 40):
        write_all(tmp_path / "o.mp4", constant(rgb), still_info(), crf=crf, overwrite=True, preset="medium")
        sizes.append((tmp_path / "o.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_mp4_has_its_index_in_front(tmp_path):
    for sound in (None, media.clip(tmp_path / "in.mp4", seconds=0.3)):
        target = tmp_path / "o.mp4"
        write_all(target, constant(pictures(9)), still_info(duration_seconds=0.3), audio_from=sound, overwrite=True)
        data = target.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")


def test_table_of_formats_is_sound():
    for suffix, container in CONTAINERS.items():
        assert container.codec in CODECS, suffix
        assert container.only_codecs is None or container.codec in container.only_codecs


# Names and places


@pytest.mark.parametrize("name", ["-dash.mp4", "a b'c\"d.mp4", "фильм 影.mkv", "x:y%03d.mp4"])
def test_names_of_any_characters(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = media.clip(tmp_path / ("in " + name), seconds=0.3)
    copy_clip(Path(source.name), name)
    assert len(times_of(name)) == 9
    assert sorted(os.listdir()) == sorted([name, source.name])


def test_existing_output_is_safe_until_the_end(tmp_path):
    target = tmp_path / "o.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists") as caught:
        open_output(target, still_info())
    assert caught.value.exit_code == 3 and "-y" in caught.value.remedy
    sink = open_output(target, still_info(), overwrite=True)
    sink.write(Frame(pictures(1)[0], 0.0, 0))
    assert target.read_bytes() == b"precious" and (tmp_path / "o.mp4.part").exists()
    sink.close(commit=False)
    sink.close(commit=True)
    assert target.read_bytes() == b"precious" and os.listdir(tmp_path) == ["o.mp4"]
    write_all(target, constant(pictures(3)), still_info(), overwrite=True)
    assert len(times_of(target)) == 3


def test_the_input_is_never_overwritten(tmp_path):
    source = media.clip(tmp_path / "in.mp4", seconds=0.3)
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    with open_file(source) as opened:
        for target in ("in.mp4", "./in.mp4", "link.mp4", "hard.mp4"):
            for sound in (opened, source):
                with pytest.raises(MediaError, match="is the input itself"):
                    open_output(os.path.join(tmp_path, target), opened.info, audio_from=sound, overwrite=True)
    assert source.read_bytes() == before


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real" / "o.mp4")
    write_all(tmp_path / "link.mp4", constant(pictures(3)), still_info())
    assert (tmp_path / "link.mp4").is_symlink() and (tmp_path / "real" / "o.mp4").is_file()


@pytest.mark.parametrize(
    "name, words",
    [
        ("o.xyz", "ends in '.xyz'"),
        ("plain", "no suffix"),
        ("no/o.mp4", "does not exist"),
        (".", "is a folder"),
        ("n" * 300 + ".mp4", "cannot be written"),
        ("a\0b.mp4", "cannot"),
    ],
)
def test_outputs_that_cannot_be(tmp_path, name, words):
    with pytest.raises(MediaError, match=words) as caught:
        open_output(f"{tmp_path}/{name}", still_info())
    assert caught.value.remedy and "\n" not in caught.value.message
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_folder_that_takes_no_files():
    with pytest.raises(MediaError, match="cannot be written"):
        open_output("/proc/o.mp4", still_info())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MediaError, match="Permission denied"):
        open_output(tmp_path / "o.mp4", still_info())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"codec": "h999"}, "no video encoder 'h999'"),
        ({"crf": 99}, "0 to 51"),
        ({"crf": -1}, "0 to 51"),
        ({"codec": "ffv1", "crf": 5}, "takes no crf"),
        ({"preset": "warp"}, "veryfast"),
        ({"codec": "vp9", "preset": "fast"}, "preset"),
    ],
)
def test_options_that_are_refused(tmp_path, options, words):
    with pytest.raises(UsageProblem) as caught:
        open_output(tmp_path / "o.mkv", still_info(), **options)
    assert words in caught.value.message + caught.value.remedy
    assert os.listdir(tmp_path) == []


def test_codec_that_the_container_refuses(tmp_path):
    with pytest.raises(UsageProblem, match="webm file does not hold libx264"):
        open_output(tmp_path / "o.webm", still_info(), codec="h264")
    for name, codec in (("o.mp4", "gif"), ("o.avi", "gif"), ("o.ts", "prores"), ("o.ts", "ffv1")):
        with pytest.raises(UsageProblem, match="does not hold"):
            open_output(tmp_path / name, still_info(), codec=codec)
    with pytest.raises(MediaError, match="ffmpeg could not write"):
        write_all(tmp_path / "o.mp4", constant(pictures(40)), still_info(), codec="prores")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("width, height", [(0, 48), (64, 100000)])
def test_sizes_that_are_refused(tmp_path, width, height):
    with pytest.raises(UsageProblem, match="not allowed"):
        open_output(tmp_path / "o.mp4", still_info(width, height))


# Failures on the way


def fill(sink: FileSink, most: int = 3000) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    for n in range(most):
        sink.write(Frame(noise, n / 30, n))
    sink.close()


@pytest.mark.slow
def test_full_disk(small_disk):
    folder = small_disk(400_000)
    sink = open_output(folder / "o.mp4", still_info(320, 240), crf=0)
    with pytest.raises(MediaError, match="disk is full") as caught:
        fill(sink)
    assert caught.value.exit_code == 3 and "free some space" in caught.value.remedy
    with pytest.raises(MediaError, match="disk is full"):
        sink.write(Frame(np.zeros((240, 320, 3), np.uint8), 0.0, 0))
    sink.close(commit=False)
    assert os.listdir(folder) == []


def test_full_disk_while_the_sound_is_added(small_disk, tmp_path):
    """The pictures fit once, not twice."""
    source = media.clip(tmp_path / "in.mp4", seconds=2.0)
    noise = [np.random.default_rng(n).integers(0, 256, (96, 96, 3), np.uint8) for n in range(60)]
    info = still_info(96, 96, duration_seconds=2.0)
    write_all(tmp_path / "o.mp4", constant(noise), info)
    folder = small_disk(int(1.5 * (tmp_path / "o.mp4").stat().st_size))
    with pytest.raises(MediaError, match="disk is full"):
        write_all(folder / "o.mp4", constant(noise), info, audio_from=source)
    assert os.listdir(folder) == []


@pytest.mark.slow
def test_a_limit_on_the_file_size(tmp_path):
    sink = open_output(tmp_path / "o.mp4", still_info(320, 240), crf=0)
    resource.prlimit(sink._process.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    with pytest.raises(MediaError, match="SIGXFSZ|File too large"):
        fill(sink)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moment", ["while writing", "at the end"])
def test_encoder_is_killed(tmp_path, moment):
    sink = open_output(tmp_path / "o.mp4", still_info(320, 240))
    sink.write(Frame(np.zeros((240, 320, 3), np.uint8), 0.0, 0))
    os.kill(sink._process.pid, signal.SIGKILL)
    with pytest.raises(MediaError, match="ended by signal SIGKILL") as caught:
        if moment == "while writing":
            fill(sink)
        sink.close()
    assert "\n" not in caught.value.message and os.listdir(tmp_path) == []


def test_nothing_written_is_no_file(tmp_path):
    with pytest.raises(MediaError, match="no frame was written"):
        open_output(tmp_path / "o.mp4", still_info()).close()
    assert os.listdir(tmp_path) == []


def test_an_error_elsewhere_discards(tmp_path):
    with pytest.raises(RuntimeError), open_output(tmp_path / "o.mp4", still_info()) as sink:
        sink.write(Frame(pictures(1)[0], 0.0, 0))
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_frames_of_another_size_are_a_bug(tmp_path):
    sink = open_output(tmp_path / "o.mp4", still_info())
    with pytest.raises(ValueError, match="64"):
        sink.write(Frame(np.zeros((10, 10, 3), np.uint8), 0.0, 0))
    sink.close(commit=False)
    with pytest.raises(ValueError, match="closed"):
        sink.write(Frame(pictures(1)[0], 0.0, 0))


@pytest.mark.slow
def test_interrupt_of_the_terminal_leaves_a_file_that_plays(tmp_path):
    """Ctrl-C reaches the whole process group; ffmpeg must live to finish the file."""
    target = tmp_path / "o.mp4"
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "import numpy as np\n"
        "from mirage_cli.frames import Frame, StreamInfo\n"
        "from mirage_cli.outputs.file import open_output\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "sink = open_output(sys.argv[1], StreamInfo(64, 48, 30.0))\n"
        "for n in range(20):\n"
        "    sink.write(Frame(np.full((48, 64, 3), n, np.uint8), n / 30, n))\n"
        "    if n == 10: os.killpg(0, signal.SIGINT)\n"
        "sink.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, target, ROOT], capture_output=True, start_new_session=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(times_of(target)) == 20


def test_a_fifo_gets_a_stream(tmp_path):
    fifo = tmp_path / "out.mkv"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [find_ffmpeg().path, "-v", "error", "-i", file_url(fifo), "-f", "framecrc", "-"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as reader:
        write_all(fifo, constant(pictures(10)), still_info())
        rows = reader.stdout.read()
    assert sum(row[:1] == b"0" for row in rows.splitlines()) == 10
