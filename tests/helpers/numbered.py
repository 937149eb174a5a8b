"""Clips whose pictures carry their own number, so that a frame lost, doubled or out of place shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers import media
from helpers.fakes import RecordingUi
from mirage_cli.config import ModelOptions, TransformConfig
from mirage_cli.media.addresses import file_url
from mirage_cli.runs import transform
from mirage_cli.styling.loading import Models

COLOURS = ((48, 192, 96), (200, 60, 40), (30, 60, 200), (220, 214, 200))
BITS = 5
FRAMES = 12


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
