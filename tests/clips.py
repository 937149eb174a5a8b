"""Small real clips made by ffmpeg, and what ffmpeg makes of a result."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mirage_cli.ffmpeg_tools import find_ffmpeg


def make_clip(path: Path, seconds=1.0, fps=25, size=(96, 64), sound=False) -> Path:
    """A moving test card, with a tone where sound is asked for."""
    command = [
        find_ffmpeg().path, "-loglevel", "error", "-y", "-f", "lavfi",
        "-i", f"testsrc2=size={size[0]}x{size[1]}:rate={fps}:duration={seconds}",
    ]  # fmt: skip
    if sound:
        command += ["-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}", "-c:a", "aac"]
    command += ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
    return path


@dataclass(frozen=True)
class Probe:
    frames: int
    size: tuple[int, int]
    seconds: float
    sound: bool


def probe(path: Path) -> Probe:
    """Decode the whole file; fails on any decoding error."""
    done = subprocess.run(
        [find_ffmpeg().path, "-hide_banner", "-xerror", "-i", str(path), "-map", "0:v:0",
         "-fps_mode", "passthrough", "-f", "null", "-"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    size = re.search(r"Video:.*?, (\d+)x(\d+)", done.stderr)
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+)", done.stderr)
    seconds = 0.0
    if clock:
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    return Probe(
        frames=int(re.findall(r"frame=\s*(\d+)", done.stderr)[-1]),
        size=(int(size[1]), int(size[2])),
        seconds=seconds,
        sound="Audio:" in done.stderr,
    )
