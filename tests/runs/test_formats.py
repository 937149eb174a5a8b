"""Kinds of video through the whole of ``mirage transform`` with strength 0: what comes out has the
same frames at the same times, in the same size and shape, in the same colours.

The pictures carry their own number, so that a frame lost, doubled or out of place shows. Outputs are
read by ffmpeg itself, told by hand what their tags must be, and not by mirage's own reader.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import media
from helpers.numbered import COLOURS, FRAMES, X264, colours_of, make, read, read_number, run, times_by_ffmpeg, to_yuv

from mirage_cli.styling.loading import Models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


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
