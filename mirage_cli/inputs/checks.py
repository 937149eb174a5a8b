"""What is refused of a file before it is decoded: what is asked of it, and what it holds."""

from __future__ import annotations

from pathlib import Path

from mirage_cli.errors import MediaError, UsageProblem, reason_of
from mirage_cli.frames import MEDIA_MAX_SIDE
from mirage_cli.media.probe import READABLE_REMEDY, MediaProbe, VideoTrack

MAX_PIXELS = 1 << 27
"""Of a frame, 400 MB as RGB; 16K video has this many."""


def check_request(size: tuple[int, int] | None, start: float, duration: float | None, fps: float | None) -> None:
    """Raises:
    UsageProblem: a size, time (seconds) or rate that is not allowed.
    """
    if size is not None and not all(1 <= side <= MEDIA_MAX_SIDE for side in size):
        raise UsageProblem(
            f"size {size[0]}x{size[1]} is not allowed: each side is 1 to {MEDIA_MAX_SIDE} pixels",
            "give a size such as 768x432",
        )
    if not 0.0 <= start < 1e7:
        raise UsageProblem(f"start {start:g} s is not allowed: 0 or more", "give --start 1.5")
    if duration is not None and not 0.0 < duration < 1e7:
        raise UsageProblem(f"duration {duration:g} s is not allowed: more than 0", "give --duration 10")
    if fps is not None and not 0.01 <= fps <= 1000.0:
        raise UsageProblem(f"{fps:g} frames a second are not allowed: 0.01 to 1000", "give --fps 30")


def check_local_file(name: str) -> str:
    """Gives ``name`` if it is a file that can be read.

    Raises:
        MediaError: it is missing, a folder, or not readable.
    """
    path = Path(name)
    try:
        if path.is_dir():
            raise MediaError(f"input {name!r} is a folder", "give one video file")
        with open(path, "rb") as file:
            if path.is_file() and not file.read(1):
                raise MediaError(f"input {name!r} is empty (0 bytes)", READABLE_REMEDY)
    except FileNotFoundError:
        raise MediaError(f"input {name!r} does not exist", "check the name and the folder you are in") from None
    except (OSError, ValueError) as problem:
        raise MediaError(
            f"input {name!r} cannot be read: {reason_of(problem)}", "check its name and permissions"
        ) from None
    return name


def require_video(probe: MediaProbe, name: str) -> VideoTrack:
    """The picture track.

    Raises:
        MediaError: there is none, its frames are too large, or what ffmpeg takes for one is text.
    """
    video = probe.video
    if video is None and probe.audio_codecs:
        raise MediaError(f"{name} holds sound ({', '.join(probe.audio_codecs)}) but no video", READABLE_REMEDY)
    if video is None:
        raise MediaError(f"{name} holds no video that ffmpeg can decode", READABLE_REMEDY)
    if video.width * video.height > MAX_PIXELS or max(video.width, video.height) > MEDIA_MAX_SIDE:
        raise MediaError(
            f"{name} has frames of {video.width}x{video.height}; allowed: {MEDIA_MAX_SIDE} a side and "
            f"{MAX_PIXELS / 1e6:.0f} million pixels",
            "scale it down first, e.g. with ffmpeg",
        )
    if video.codec in ("ansi", "bintext", "xbin", "idf"):
        raise MediaError(f"{name} is text, not video", READABLE_REMEDY)
    return video
