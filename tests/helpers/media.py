"""Small real clips for tests, made by ffmpeg."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mirage_cli.inputs.file import open_file
from mirage_cli.media.addresses import file_url
from mirage_cli.media.ffmpeg import find_ffmpeg
from mirage_cli.outputs.file import FileSink, open_output

WIDTH, HEIGHT, FPS = 96, 64, 30
SOUND_RATE = 48_000


def ffmpeg(*arguments: object, feed: bytes | None = None) -> bytes:
    """Runs ffmpeg, which must succeed; gives its stdout."""
    command = [find_ffmpeg().path, "-hide_banner", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=feed if feed is not None else b"", capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def clip(
    path: Path,
    *,
    seconds: float = 1.0,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    fps: int | str = FPS,
    sound: str | None = "aac",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    video_filter: str = "null",
    output: tuple[object, ...] = (),
) -> Path:
    """A moving test picture, with a tone unless ``sound`` is None."""
    inputs: list[object] = ["-f", "lavfi", "-i", f"testsrc2=s={size[0]}x{size[1]}:r={fps}:d={seconds}"]
    if sound:
        inputs += ["-f", "lavfi", "-i", f"sine=f=440:r=44100:d={seconds}", "-c:a", sound]
    extra = ("-preset", "ultrafast") if codec == "libx264" else ()
    ffmpeg(*inputs, "-vf", video_filter, "-c:v", codec, *extra, "-pix_fmt", pixels, *output, file_url(path))
    return path


def variable_rate_clip(path: Path) -> Path:
    """Every third frame of 30 a second is missing: gaps of 33 and 67 ms."""
    return clip(
        path,
        video_filter="select='not(eq(mod(n,3),1))'",
        output=("-fps_mode", "passthrough", "-enc_time_base", "1/90000"),
    )


def rotated_clip(path: Path, degrees: int = 90) -> Path:
    """Coded lying, shown standing: a red left half ends up at the top or the bottom."""
    plain = path.with_name("plain-" + path.name)
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=red:s=48x64:r=10:d=0.5",
        "-f",
        "lavfi",
        "-i",
        "color=blue:s=48x64:r=10:d=0.5",
        "-filter_complex",
        "hstack",
        "-pix_fmt",
        "yuv420p",
        file_url(plain),
    )
    ffmpeg("-display_rotation", degrees, "-i", file_url(plain), "-c", "copy", file_url(path))
    return path


def truncated_clip(path: Path, part: float = 0.5) -> Path:
    """An MP4 with its index in front, cut off in the middle of its data."""
    whole = clip(path.with_name("whole-" + path.name), seconds=2.0, output=("-movflags", "+faststart", "-g", "10"))
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def audio_only(path: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.5", "-c:a", "aac", file_url(path))
    return path


def cover_only(path: Path) -> Path:
    """Sound with a cover picture, which is no video."""
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "sine=d=0.5",
        "-f",
        "lavfi",
        "-i",
        "color=s=32x32",
        "-map",
        0,
        "-map",
        1,
        "-frames:v",
        1,
        "-c:v",
        "mjpeg",
        "-disposition:v",
        "attached_pic",
        file_url(path),
    )
    return path


def no_frames(path: Path) -> Path:
    """A video track that holds nothing."""
    ffmpeg("-f", "lavfi", "-i", "color=s=32x32:d=1", "-vf", "select=0", "-c:v", "mpeg4", file_url(path))
    return path


def text_file(path: Path) -> Path:
    path.write_text("This is not a video.\n" * 20)
    return path


def flash_and_beep(
    path: Path, *, at: float = 0.5, seconds: float = 1.5, sound: str = "aac", output: tuple[object, ...] = ()
) -> Path:
    """A white frame and a click at the same moment, black and silence before and after."""
    picture = f"geq=lum='if(between(T,{at}-0.001,{at}+0.099),235,16)':cb=128:cr=128"
    wave = f"aevalsrc='if(between(t,{at},{at}+0.1),0.9*sin(2*PI*1000*t),0)':s=48000:d={seconds}"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"color=black:s=64x64:r=30:d={seconds},format=yuv420p,{picture}",
        "-f",
        "lavfi",
        "-i",
        wave,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        2,
        "-c:a",
        sound,
        *output,
        file_url(path),
    )
    return path


def brightness(path: Path) -> tuple[list[float], np.ndarray]:
    """Each picture's time, in the file's own, and its mean grey."""
    shown = ffmpeg(
        "-copyts",
        "-i",
        file_url(path),
        "-map",
        "0:v:0",
        "-vf",
        "scale=8:8,format=gray",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/1000000",
        "-f",
        "framecrc",
        "-",
    ).decode()
    times = [int(row) / 1e6 for row in re.findall(r"^0, +-?\d+, +(-?\d+),", shown, re.M)]
    raw = ffmpeg(
        "-i",
        file_url(path),
        "-map",
        "0:v:0",
        "-vf",
        "scale=8:8,format=gray",
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
        "-",
    )
    return times, np.frombuffer(raw, np.uint8).reshape(-1, 64).mean(axis=1)


def flash_seconds(path: Path) -> float:
    """When the picture turns white, in the file's own time."""
    times, grey = brightness(path)
    return times[int(np.argmax(grey > 120))]


def beep_seconds(path: Path, track: int = 0) -> float:
    """When the sound sets in, in the file's own time."""
    return int(np.argmax(loud(path, track))) / SOUND_RATE


def loud(path: Path, track: int = 0) -> np.ndarray:
    """Whether a wave is high, at each of SOUND_RATE moments a second of the file's own time."""
    raw = ffmpeg(
        "-copyts",
        "-i",
        file_url(path),
        "-map",
        f"0:a:{track}",
        "-af",
        f"aresample={SOUND_RATE}:async=1:first_pts=0",
        "-ac",
        1,
        "-f",
        "s16le",
        "-",
    )
    return np.abs(np.frombuffer(raw, np.int16).astype(np.int32)) > 6000


def beep_begins(path: Path) -> np.ndarray:
    """When each tone sets in, in seconds of the file's own time."""
    moments = np.flatnonzero(loud(path))
    return moments[np.flatnonzero(np.diff(moments, prepend=-SOUND_RATE) > SOUND_RATE // 20)] / SOUND_RATE


def streams_of(path: Path) -> str:
    """What ``ffmpeg -i`` says of a file."""
    done = subprocess.run(
        [find_ffmpeg().path, "-hide_banner", "-i", file_url(path)], capture_output=True, stdin=subprocess.DEVNULL
    )
    return done.stderr.decode()


@dataclass(frozen=True)
class Probe:
    frames: int
    size: tuple[int, int]
    seconds: float
    sound: bool


def probe(path: Path) -> Probe:
    """What ffmpeg's own decoder finds in a whole file; fails on any decoding error."""
    done = subprocess.run(
        [
            find_ffmpeg().path,
            "-hide_banner",
            "-xerror",
            "-i",
            file_url(path),
            "-map",
            "0:v:0",
            "-fps_mode",
            "passthrough",
            "-f",
            "null",
            "-",
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
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


def copy_clip(path: Path, target, *, by_path: bool = False, stop_after=None, **options) -> FileSink:
    """Input to output unchanged, as the command line does it."""
    read = {key: options.pop(key) for key in ("start_seconds", "duration_seconds", "size", "fps") if key in options}
    with open_file(path, **read) as source:
        read.pop("size", None)
        read.pop("fps", None)
        sound = {"audio_from": str(path), **read} if by_path else {"audio_from": source}
        sink = open_output(target, source.info, **sound, **options)
        for frame in source:
            sink.write(frame)
            if stop_after is not None and sink.frames_written == stop_after:
                break
        sink.close()
    return sink


def times_of(path: Path) -> list[float]:
    with open_file(path) as source:
        return [frame.pts_seconds for frame in source]


def flashes_and_beeps(path: Path, *, every: float = 0.5, seconds: float = 3.0, fps: int = 30) -> Path:
    """A white picture and a tone together, for 0.1 s, again and again."""
    on = f"lt(mod({{0}}+0.0005,{every}),0.1)"
    picture = f"geq=lum='if({on.format('T')},235,16)':cb=128:cr=128"
    wave = f"aevalsrc='if({on.format('t')},0.9*sin(2*PI*1000*t),0)':s=48000:d={seconds}"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"color=black:s=64x64:r={fps}:d={seconds},format=yuv420p,{picture}",
        "-f",
        "lavfi",
        "-i",
        wave,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-c:a",
        "aac",
        file_url(path),
    )
    return path


def offsets_ms(path: Path, *, negative: bool = True) -> list[float]:
    """How much later than its beep each flash is; ``negative`` where white became black."""
    times, grey = brightness(path)
    flash = (grey > 120) != negative
    flashes = [times[n] for n in range(1, len(flash)) if flash[n] and not flash[n - 1]]
    begins = beep_begins(path)
    nearest = [begins[np.argmin(np.abs(begins - flash))] for flash in flashes]
    return [1e3 * (flash - beep) for flash, beep in zip(flashes, nearest) if abs(flash - beep) < 0.2]


def white_and_tone(path: Path, *, fps: int = FPS, negative: bool = True) -> list[tuple[float, bool, bool]]:
    """(time, whether it is white, whether a tone is on in its middle) of each picture.

    The two agree for every picture, whichever others were dropped, as long as picture and sound are
    less than half a frame apart. The last picture is left out: a run that is ended with it need not
    have its sound. ``negative`` where white became black.
    """
    times, grey = brightness(path)
    high = loud(path)
    found = []
    for time, level in zip(times[:-1], grey):
        middle = round((time + 0.5 / fps) * SOUND_RATE)
        period = SOUND_RATE // 1000  # of the tone
        tone = high[middle - period // 2 : middle + period // 2]
        found.append((time, bool((level > 120) != negative), bool(tone.any())))
    return found
