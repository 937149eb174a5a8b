"""Video in: real files of many kinds, frame for frame."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import media
from helpers.paths import ROOT

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import FrameSource
from mirage_cli.inputs.file import open_file


def take(path, **options):
    with open_file(path, **options) as source:
        return list(source), source


def expected_frames(path: Path, *filters: str) -> np.ndarray:
    """The same pictures by ffmpeg's own raw output."""
    raw = media.ffmpeg(
        "-i",
        path,
        "-map",
        "0:v:0",
        "-vf",
        ",".join([*filters, "scale=flags=accurate_rnd+full_chroma_int+bicubic", "format=rgb24"]),
        "-f",
        "rawvideo",
        "-",
    )
    return np.frombuffer(raw, np.uint8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return media.clip(tmp_path_factory.mktemp("in") / "plain.mp4")


def test_every_frame_its_time_and_its_pixels(plain):
    frames, source = take(plain)
    assert isinstance(source, FrameSource)
    assert [frame.index for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.pts_seconds for frame in frames], np.arange(30) / 30, atol=2e-6)
    info = source.info
    assert (info.width, info.height, info.fps, info.frame_count) == (96, 64, 30.0, 30)
    assert info.duration_seconds == pytest.approx(1.0, abs=1e-3)
    assert info.has_audio and not info.variable_rate and info.pixel_aspect == (1, 1)
    assert source.warnings == [] and source.finished and not source.live
    ours = np.stack([frame.rgb for frame in frames])
    assert ours.dtype == np.uint8 and ours.shape == (30, 64, 96, 3)
    assert frames[0].rgb.flags.c_contiguous
    theirs = expected_frames(plain, "scale=in_color_matrix=bt601").reshape(ours.shape)
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_variable_rate_is_kept(tmp_path):
    frames, source = take(media.variable_rate_clip(tmp_path / "vfr.mp4"))
    wanted = [n / 30 for n in range(30) if n % 3 != 1]
    np.testing.assert_allclose([frame.pts_seconds for frame in frames], wanted, atol=1e-3)
    assert source.info.variable_rate and source.info.frame_count == 20
    assert source.info.fps == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("degrees, top", [(90, "blue"), (-90, "red")])
def test_rotation_is_applied(tmp_path, degrees, top):
    frames, source = take(media.rotated_clip(tmp_path / "turned.mp4", degrees))
    assert (source.info.width, source.info.height) == (64, 96)
    assert source.probe.video.shown_size == (64, 96)
    red, _, blue = frames[0].rgb[8, 32].astype(int)
    assert (blue > red) == (top == "blue") and abs(red - blue) > 150


@pytest.mark.parametrize(
    "name, options",
    [
        ("odd.mkv", {"video_filter": "format=yuv444p,scale=97:65", "codec": "ffv1", "pixels": "yuv444p"}),
        ("ten.mp4", {"pixels": "yuv420p10le"}),
        ("clip.webm", {"codec": "libvpx-vp9", "sound": "libopus", "seconds": 0.5}),
        ("clip.avi", {"codec": "mpeg4", "sound": "pcm_s16le"}),
        ("ntsc.mov", {"fps": "30000/1001"}),
        ("clip.ts", {"codec": "mpeg2video", "sound": "mp2"}),
        ("clip.gif", {"codec": "gif", "pixels": "pal8", "sound": None, "fps": "10"}),
    ],
)
def test_kinds_of_files(tmp_path, name, options):
    path = media.clip(tmp_path / name, **options)
    frames, source = take(path)
    rate = Fraction(options.get("fps", "30"))
    count = int(options.get("seconds", 1.0) * rate) + (rate.denominator > 1)
    assert len(frames) == count == source.info.frame_count
    assert frames[0].rgb.shape == ((65, 97, 3) if name == "odd.mkv" else (64, 96, 3))
    np.testing.assert_allclose([frame.pts_seconds for frame in frames], np.arange(count) / float(rate), atol=1e-3)
    assert source.info.fps == pytest.approx(float(rate), rel=1e-3)
    assert not source.info.variable_rate and source.warnings == []
    assert 60 < frames[0].rgb.mean() < 200


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("span", ["tv", "pc"])
def test_colour_tags_are_honoured(tmp_path, matrix, span):
    path = tmp_path / "colour.mkv"
    names = {"smpte170m": "bt601", "bt2020nc": "bt2020"}
    media.ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=0x30C060:s=64x64:r=5:d=0.4,format=gbrp",
        "-vf",
        f"scale=out_color_matrix={names.get(matrix, matrix)}:out_range={span}:flags=accurate_rnd,"
        f"format=yuv444p,setparams=colorspace={matrix}:range={span}",
        "-c:v",
        "ffv1",
        path,
    )
    frames, _ = take(path)
    off = np.abs(frames[0].rgb.reshape(-1, 3).astype(int) - (0x30, 0xC0, 0x60))
    assert off.max() <= 2


def test_hdr_is_tone_mapped(tmp_path):
    """White at 203 nits in PQ is white on a screen, not the grey that its code value says."""
    path = tmp_path / "hdr.mkv"
    media.ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=0x949494:s=64x64:r=5:d=0.4",
        "-vf",
        "format=yuv420p10le,setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv",
        "-c:v",
        "ffv1",
        path,
    )
    frames, source = take(path, size=(32, 32))
    assert frames[0].rgb.shape == (32, 32, 3)
    assert 200 < frames[0].rgb.mean() < 235
    (warning,) = source.warnings
    assert "HDR (smpte2084); it is tone-mapped" in warning


def test_pixel_aspect_and_size(tmp_path):
    path = media.clip(tmp_path / "wide.mp4", video_filter="setsar=4/3")
    assert take(path)[1].info.pixel_aspect == (4, 3)
    frames, source = take(path, size=(128, 64))
    assert frames[0].rgb.shape == (64, 128, 3)
    assert source.info.pixel_aspect == (1, 1)  # 96 * 4/3 = 128
    assert take(path, size=(48, 64))[1].info.pixel_aspect == (8, 3)


def test_rounding_of_a_size_is_no_aspect(tmp_path):
    path = media.clip(tmp_path / "odd.mp4", size=(854, 480), seconds=0.2)
    assert take(path, size=(512, 288))[1].info.pixel_aspect == (1, 1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_range_is_exact_between_key_frames(tmp_path, suffix):
    path = media.clip(tmp_path / f"long{suffix}", seconds=3.0, output=("-g", "300", "-bf", "2"))
    everything, _ = take(path)
    frames, source = take(path, start_seconds=1.5, duration_seconds=0.5)
    assert 14 <= len(frames) <= 15 and frames[0].pts_seconds == 0.0
    assert source.info.duration_seconds == pytest.approx(0.5, abs=0.04)
    assert abs(source.info.frame_count - len(frames)) <= 1
    same = [np.array_equal(frames[0].rgb, frame.rgb) for frame in everything]
    assert same.index(True) in (44, 45, 46)
    assert np.array_equal(frames[-1].rgb, everything[same.index(True) + len(frames) - 1].rgb)


def test_resampled_rate(plain):
    frames, source = take(plain, fps=12)
    assert source.info.fps == 12.0 and len(frames) == 12
    np.testing.assert_allclose([f.pts_seconds for f in frames], np.arange(12) / 12, atol=1e-5)


def test_truncated_gives_what_decodes_and_says_so(tmp_path):
    frames, source = take(media.truncated_clip(tmp_path / "cut.mp4"))
    assert 10 < len(frames) < 60
    assert len(source.warnings) == 1 and "cut short" in source.warnings[0]
    assert "of 2.0 s" in source.warnings[0]


def test_damage_in_the_middle_is_reported(tmp_path):
    path = media.clip(tmp_path / "hurt.mp4", seconds=2.0, sound=None, output=("-g", "10"))
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 3000] = bytes(np.random.default_rng(0).integers(0, 256, 3000, np.uint8))
    path.write_bytes(data)
    frames, source = take(path)
    assert len(frames) > 30 and len(source.warnings) == 1


@pytest.mark.parametrize(
    "make, name, words",
    [
        (None, "missing.mp4", "does not exist"),
        (media.text_file, "text.mp4", "not a media file"),
        (media.text_file, "text.txt", "text"),
        (media.audio_only, "sound.m4a", "no video"),
        (media.cover_only, "cover.mp3", "no video"),
        (media.no_frames, "none.avi", "no frame"),
        (lambda path: path.mkdir(), "folder", "is a folder"),
        (lambda path: path.write_bytes(b""), "empty.mp4", "is empty"),
        (lambda path: path.write_bytes(os.urandom(5000)), "noise.mp4", "noise.mp4"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, make, name, words):
    path = tmp_path / name
    if make is not None:
        make(path)
    with pytest.raises(MediaError, match=words) as caught:
        open_file(path)
    assert caught.value.exit_code == 3 and caught.value.remedy
    assert "\n" not in caught.value.message and "Traceback" not in caught.value.message


def test_index_lost_at_the_end(tmp_path):
    path = media.clip(tmp_path / "lost.mp4")
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(MediaError, match="moov atom"):
        open_file(path)


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 64)},
        {"size": (100000, 64)},
        {"start_seconds": -1.0},
        {"start_seconds": float("nan")},
        {"duration_seconds": 0.0},
        {"fps": 0.0},
    ],
)
def test_requests_that_make_no_sense(plain, options):
    with pytest.raises(UsageProblem) as caught:
        open_file(plain, **options)
    assert caught.value.exit_code == 2


def test_start_after_the_end(plain):
    with pytest.raises(MediaError, match="no frame after 50 s"):
        open_file(plain, start_seconds=50)


@pytest.mark.parametrize("name", ["-dash.mp4", "a b'c\"d.mp4", "фильм 影.mp4", "x:y%03d.mp4", "http:.mp4"])
def test_names_of_any_characters(tmp_path, plain, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(plain.read_bytes())
    frames, source = take(name)
    assert len(frames) == 30 and source.info.name == name


def children_of_this_process() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_closing_early_leaves_no_process(tmp_path):
    path = media.clip(tmp_path / "big.mp4", seconds=4.0, size=(640, 480))
    before = children_of_this_process()
    source = open_file(path)
    frames = iter(source)
    next(frames)
    assert len(children_of_this_process() - before) == 1
    source.close()
    source.close()
    assert children_of_this_process() == before
    assert next(frames, None) is None and source.warnings == []


def test_url(tmp_path):
    media.clip(tmp_path / "clip.mp4")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        frames, source = take(f"{base}/clip.mp4")
        with pytest.raises(MediaError, match="404|Not Found"):
            open_file(f"{base}/none.mp4")
        server.shutdown()
    assert len(frames) == 30 and source.path is None and source.sound_url


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_cut_inside_a_group_of_pictures_is_no_damage(tmp_path):
    path = media.clip(tmp_path / "c.ts", seconds=2.0, output=("-g", "60", "-bf", "3"))
    frames, source = take(path, start_seconds=1.1, duration_seconds=0.3)
    assert len(frames) == 9 and source.warnings == []


def test_joined_files_of_two_sizes_keep_one_size(tmp_path):
    small = media.clip(tmp_path / "a.ts", seconds=0.5)
    large = media.clip(tmp_path / "b.ts", seconds=0.5, size=(192, 128))
    path = tmp_path / "joined.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    frames, source = take(path)
    assert len(frames) >= 28 and {frame.rgb.shape for frame in frames} == {(64, 96, 3)}
    gaps = np.diff([frame.pts_seconds for frame in frames])
    assert gaps.min() > 0 and np.median(gaps[15:]) == pytest.approx(1 / 30, abs=2e-3)
    assert frames[-1].pts_seconds == pytest.approx(29 / 30, abs=0.1)
    assert any("jump back" in warning for warning in source.warnings)


def test_iterated_once(plain):
    with open_file(plain) as source:
        next(iter(source))
        with pytest.raises(RuntimeError):
            next(iter(source))


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_interrupt_of_the_terminal_does_not_reach_ffmpeg(tmp_path):
    """Ctrl-C goes to the whole process group; frames must still come after it."""
    path = media.clip(tmp_path / "c.mp4", seconds=2.0, size=(640, 480))
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from mirage_cli.inputs.file import open_file\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "source = open_file(sys.argv[1]); frames = iter(source); next(frames)\n"
        "os.killpg(0, signal.SIGINT)\n"
        "print(1 + len(list(frames)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path, ROOT], capture_output=True, start_new_session=True, timeout=60
    )
    assert done.stdout.strip() == b"60", done.stderr.decode()
