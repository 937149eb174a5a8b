"""Files that are refused before they are decoded."""

from __future__ import annotations

from pathlib import Path

from mirage_cli.errors import MediaError, reason_of
from mirage_cli.frames import MEDIA_MAX_SIDE
from mirage_cli.media.probe import READABLE_REMEDY, MediaProbe, VideoTrack

MAX_PIXELS = 1 << 27
"""Of a frame, 400 MB as RGB; 16K video has this many."""


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
