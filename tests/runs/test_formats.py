"""Kinds of video through the whole of ``mirage transform`` with strength 0: what comes out has the
same frames at the same times, in the same size and shape, in the same colours.

The pictures carry their own number, so that a frame lost, doubled or out of place shows. Outputs are
read by ffmpeg itself, told by hand what their tags must be, and not by mirage's own reader.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import media
from helpers.fakes import RecordingUi

from mirage_cli.config import ModelOptions, TransformConfig
from mirage_cli.media.addresses import file_url
from mirage_cli.media.ffmpeg import find_ffmpeg
from mirage_cli.media.formats import CONTAINERS
from mirage_cli.media.probe import MediaProbe
from mirage_cli.outputs.sound_copy import _plan_subtitles
from mirage_cli.runs import transform
from mirage_cli.styling.loading import Models

COLOURS = ((48, 192, 96), (200, 60, 40), (30, 60, 200), (220, 214, 200))
BITS = 5
FRAMES = 12


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


def numbered(size: tuple[int, int], number: int) -> np.ndarray:
    """Four flat colours above, the frame's number in black and white below."""
    width, height = size
    rgb = np.zeros((height, width, 3), np.uint8)
    top = height * 3 // 4
    for place, colour in enumerate(COLOURS):
        rgb[:top, place * width // 4 : (place + 1) * width // 4] = colour
    for bit in range(BITS):
        part = slice(bit * width // BITS, (bit + 1) * width // BITS)
        rgb[top:, part] = 255 if number >> bit & 1 else 0
    return rgb


def read_number(rgb: np.ndarray) -> int:
    height, width = rgb.shape[:2]
    row = rgb[height * 7 // 8].mean(axis=1)
    return sum((row[(2 * bit + 1) * width // (2 * BITS)] > 127) << bit for bit in range(BITS))


def colours_of(rgb: np.ndarray) -> np.ndarray:
    """The middle of each colour: [4, 3]."""
    height, width = rgb.shape[:2]
    half_x, half_y = max(1, width // 24), max(1, height // 12)
    row, found = height * 3 // 8, []
    for place in range(4):
        column = (2 * place + 1) * width // 8
        patch = rgb[row - half_y : row + half_y, column - half_x : column + half_x]
        found.append(np.median(patch.reshape(-1, 3), axis=0))
    return np.array(found)


def make(
    path: Path,
    output: tuple[object, ...],
    *,
    size: tuple[int, int] = (96, 64),
    fps: str = "25",
    count: int = FRAMES,
    inputs: tuple[object, ...] = (),
) -> Path:
    pixels = b"".join(numbered(size, n).tobytes() for n in range(count))
    media.ffmpeg(
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{size[0]}x{size[1]}",
        "-r",
        fps,
        "-i",
        "pipe:0",
        *inputs,
        *output,
        file_url(path),
        feed=pixels,
    )
    return path


def to_yuv(pixels: str, matrix: str = "bt709", span: str = "tv", tag: bool = True) -> tuple[str, ...]:
    """Filter and tags of a conversion from RGB."""
    names = {"smpte170m": "bt601", "bt2020nc": "bt2020"}
    tags = f"setparams=range={span}:colorspace={matrix}:color_primaries=bt709:color_trc=bt709"
    return (
        "-vf",
        f"scale=out_color_matrix={names.get(matrix, matrix)}:out_range={span}:"
        f"flags=accurate_rnd+full_chroma_int+full_chroma_inp,format={pixels}" + (f",{tags}" if tag else ""),
    )


@dataclass
class Made:
    """An output as ffmpeg reads it: its account of the streams, pictures and their seconds."""

    shown: str
    rgb: np.ndarray
    seconds: list[float]


def times_by_ffmpeg(path: Path) -> list[float]:
    """Time of each decoded picture from the first, in seconds."""
    text = media.ffmpeg(
        "-copyts",
        "-i",
        file_url(path),
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/1000000",
        "-vf",
        "scale=16:16",
        "-f",
        "framecrc",
        "-",
    ).decode()
    times = [int(row) / 1e6 for row in re.findall(r"^0, +-?\d+, +(-?\d+),", text, re.M)]
    return [time - times[0] for time in times]


def read(path: Path, size: tuple[int, int], *before: str) -> Made:
    chain = ",".join([*before, "scale=flags=accurate_rnd+full_chroma_int", "format=rgb24"])
    raw = media.ffmpeg(
        "-i", file_url(path), "-map", "0:v:0", "-vf", chain, "-fps_mode", "passthrough", "-f", "rawvideo", "-"
    )
    rgb = np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)
    return Made(media.streams_of(path), rgb, times_by_ffmpeg(path))


def run(models: Models, source: Path, target: Path, **options) -> tuple[dict, RecordingUi]:
    ui = RecordingUi()
    config = TransformConfig(
        str(source), str(target), ("oil painting",), ModelOptions(strength=0.0, device="cpu"), **options
    )
    return transform.run(config, ui, models=models), ui


X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0")  # lossless
CASES = {
    "h264.mp4": ((*X264, *to_yuv("yuv420p")), {}),
    "h264-10-bit.mp4": ((*X264, *to_yuv("yuv420p10le")), {}),
    "h264-444.mp4": ((*X264, *to_yuv("yuv444p")), {}),
    "h264-full-range.mp4": ((*X264, *to_yuv("yuv420p", span="pc")), {}),
    "h264-bt601-full-range.mov": ((*X264, *to_yuv("yuv420p", "smpte170m", "pc")), {}),
    "h264-untagged.mkv": ((*X264, *to_yuv("yuv420p", "smpte170m", tag=False)), {}),
    "h264-bt2020.mp4": ((*X264, *to_yuv("yuv420p10le", "bt2020nc")), {}),
    "hevc.mp4": (
        (
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-crf",
            "4",
            "-x265-params",
            "log-level=none",
            "-tag:v",
            "hvc1",
            *to_yuv("yuv420p10le"),
        ),
        {},
    ),
    "av1.mp4": (("-c:v", "libsvtav1", "-preset", "12", "-crf", "4", *to_yuv("yuv420p10le")), {}),
    "vp9.webm": (
        ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-crf", "4", "-b:v", "0", *to_yuv("yuv420p")),
        {"out": ".webm"},
    ),
    "prores.mov": (("-c:v", "prores_ks", "-profile:v", "4444", *to_yuv("yuv444p10le")), {"out": ".mov"}),
    "ffv1.mkv": (("-c:v", "ffv1", "-pix_fmt", "bgr0"), {"out": ".mkv"}),
    "motion-jpeg.avi": (("-c:v", "mjpeg", "-q:v", "1", *to_yuv("yuvj444p", "smpte170m", "pc")), {"out": ".avi"}),
    "mpeg2.ts": (("-c:v", "mpeg2video", "-q:v", "1", "-bf", "2", *to_yuv("yuv420p", "smpte170m")), {"out": ".ts"}),
    "animated.gif": (
        ("-filter_complex", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"),
        {"fps": "10", "out": ".gif"},
    ),
    "film.mp4": ((*X264, *to_yuv("yuv420p")), {"fps": "24000/1001"}),
    "ntsc.mkv": ((*X264, *to_yuv("yuv420p")), {"fps": "30000/1001"}),
    "odd.mkv": (("-c:v", "ffv1", "-pix_fmt", "bgr0"), {"size": (97, 65)}),
    "portrait.mp4": ((*X264, *to_yuv("yuv420p")), {"size": (64, 112)}),
    "gaps.mp4": (
        (
            *X264,
            to_yuv("yuv420p")[0],
            "select='not(eq(mod(n,3),1))'," + to_yuv("yuv420p")[1],
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            "1/90000",
        ),
        {"numbers": [n for n in range(FRAMES) if n % 3 != 1]},
    ),
}


# Decoded by hand for comparison: their own encoder, or swscale on the way to full range, is off by more.
ROUNDED = {
    name: f"scale=in_color_matrix={matrix}:in_range={span}"
    for name, matrix, span in (
        ("hevc.mp4", "bt709", "tv"),
        ("av1.mp4", "bt709", "tv"),
        ("vp9.webm", "bt709", "tv"),
        ("prores.mov", "bt709", "tv"),
        ("h264-full-range.mp4", "bt709", "pc"),
        ("h264-bt601-full-range.mov", "bt601", "pc"),
        ("motion-jpeg.avi", "bt601", "pc"),
        ("mpeg2.ts", "bt601", "tv"),
    )
}


@pytest.mark.parametrize("name", CASES)
def test_frames_times_size_and_colours(name, tmp_path, models):
    output, case = CASES[name]
    size = case.get("size", (96, 64))
    source = make(tmp_path / name, output, size=size, fps=case.get("fps", "25"))
    target = tmp_path / f"out{case.get('out', '.mp4')}"
    document, _ = run(models, source, target)
    assert document["frames"] == len(case.get("numbers", range(FRAMES)))

    made = read(target, size)
    assert f", {size[0]}x{size[1]}" in made.shown
    assert [read_number(rgb) for rgb in made.rgb] == case.get("numbers", list(range(FRAMES)))
    slack = 0.0051 if target.suffix in (".gif", ".avi") else 0.0011  # hundredths, whole frames, ms
    np.testing.assert_allclose(made.seconds, times_by_ffmpeg(source), atol=slack)
    wanted = np.array(COLOURS)
    if name in ROUNDED:
        wanted = colours_of(np.median(read(source, size, ROUNDED[name]).rgb, axis=0))
        assert np.abs(wanted - COLOURS).max() <= 8
    rgb = colours_of(np.median(made.rgb, axis=0))
    assert np.abs(rgb - wanted).max() <= (6 if target.suffix == ".gif" else 2), rgb - wanted
    if target.suffix in (".mp4", ".mov", ".webm", ".ts"):
        assert "(tv, bt709" in made.shown


def test_turned_by_a_phone(tmp_path, models):
    """Coded lying, marked to be shown standing: comes out standing, marked no more."""
    plain = make(tmp_path / "lying.mp4", (*X264, *to_yuv("yuv420p")))
    phone = tmp_path / "phone.mov"
    media.ffmpeg("-display_rotation", 90, "-i", plain, "-c", "copy", phone)
    run(models, phone, tmp_path / "out.mp4")
    made = read(tmp_path / "out.mp4", (64, 96))
    assert "rotation" not in made.shown and ", 64x96" in made.shown
    upright = np.rot90(made.rgb, 3, axes=(1, 2))
    assert [read_number(rgb) for rgb in upright] == list(range(FRAMES))
    assert np.abs(colours_of(upright[3]) - COLOURS).max() <= 2


def test_anamorphic_keeps_its_shape(tmp_path, models):
    source = make(tmp_path / "dv.mp4", (*X264, "-vf", f"{to_yuv('yuv420p')[1]},setsar=64/45"))
    run(models, source, tmp_path / "out.mp4")
    assert "96x64 [SAR 64:45 DAR 32:15]" in media.streams_of(tmp_path / "out.mp4")
    run(models, source, tmp_path / "half.mp4", size=(48, 64))
    assert re.search(r"48x64 \[SAR 128:45 DAR 32:15\]", media.streams_of(tmp_path / "half.mp4"))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (15, 40)])
def test_smaller_than_the_model_takes(tmp_path, models, size):
    """The model needs 16 pixels a side: the picture is made larger, and that is said."""
    source = make(tmp_path / "dot.mkv", ("-c:v", "libx264rgb", "-qp", "0"), size=size)
    document, ui = run(models, source, tmp_path / "out.mp4")
    width, height = document["size"]
    assert width >= 16 and height >= 16 and document["frames"] == FRAMES
    assert any("the model needs 16 pixels a side" in note for note in ui.notes)
    assert len(read(tmp_path / "out.mp4", (width, height)).rgb) == FRAMES


def test_hdr_is_tone_mapped_and_said(tmp_path, models):
    """White paper (203 nits) is near white; a thing of half its light is darker; nothing is grey-washed."""
    levels = (0x949494, 0x7F7F7F, 0x404040)  # PQ codes of 203, 100 and about 4 nits in limited range
    source = tmp_path / "hdr.mp4"
    inputs = [part for level in levels for part in ("-f", "lavfi", "-i", f"color=0x{level:06x}:s=32x64:r=25:d=0.2")]
    media.ffmpeg(
        *inputs,
        "-filter_complex",
        "hstack=inputs=3,format=yuv420p10le,setparams=colorspace="
        "bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv",
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc",
        source,
    )
    document, _ = run(models, source, tmp_path / "out.mp4")
    assert any("HDR (smpte2084); it is tone-mapped" in text for text in document["warnings"])
    made = read(tmp_path / "out.mp4", (96, 64))
    assert "bt709" in made.shown and "smpte2084" not in made.shown
    paper, half, shadow = (made.rgb[2][32, x].mean() for x in (16, 48, 80))
    assert 200 < paper < 240 and 130 < half < paper - 20 and shadow < half - 60


def test_interlaced_is_made_progressive(tmp_path, models):
    """A bar that moves between the two fields of a frame has straight edges again."""
    fields = []
    for n in range(24):
        rgb = np.full((64, 96, 3), 40, np.uint8)
        rgb[:, 8 + 3 * n : 20 + 3 * n] = 220
        fields.append(rgb)
    source = tmp_path / "tv.ts"
    media.ffmpeg(
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        "96x64",
        "-r",
        "50",
        "-i",
        "pipe:0",
        "-vf",
        "interlace=lowpass=off,format=yuv420p,setfield=tff",
        "-c:v",
        "mpeg2video",
        "-q:v",
        "1",
        "-flags",
        "+ilme+ildct",
        source,
        feed=b"".join(rgb.tobytes() for rgb in fields),
    )
    assert "top first" in media.streams_of(source)

    def combs(rgb: np.ndarray) -> float:
        grey = rgb[2:10].astype(float).mean(axis=3)
        return float(np.abs(grey[:, 1:-1] - (grey[:, :-2] + grey[:, 2:]) / 2).mean())

    document, _ = run(models, source, tmp_path / "out.mp4")
    made = read(tmp_path / "out.mp4", (96, 64))
    assert document["frames"] == len(made.rgb) == 12
    np.testing.assert_allclose(made.seconds, np.arange(12) / 25, atol=0.0011)
    before, after = combs(read(source, (96, 64)).rgb), combs(made.rgb)
    assert before > 5 and after < before / 4, (before, after)
    assert "progressive" in made.shown


# ---- what lies beside the pictures ----------------------------------------------------------------

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
    assert _plan_subtitles(probe, CONTAINERS[".mkv"], warnings) == ((0, "copy"), (1, "copy"))
    assert "(none)" in warnings.pop()
    assert _plan_subtitles(probe, CONTAINERS[".mp4"], warnings) == ((1, "mov_text"),)
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
