"""How an encoded output ends: whether it reaches the end of its source, and why it could not be written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mirage_cli.errors import MediaError
from mirage_cli.frames import StreamInfo
from mirage_cli.inputs.file import FileSource
from mirage_cli.media.messages import disk_is_full


def reaches_the_end(source: FileSource | None, info: StreamInfo, length_seconds: float, frame_seconds: float) -> bool:
    """Whether pictures of that length are all that the source has, so that its sound is kept whole."""
    if source is not None and source.finished:
        return True
    expected = info.duration_seconds
    slack = max(0.25, 2.0 * frame_seconds)
    return expected is not None and length_seconds >= expected - slack


def not_written(shown: str, final: Path | None, message: str, lines: Iterable[str] = ()) -> MediaError:
    """The error of an output that ffmpeg could not write.

    Args:
        shown: the output, for people.
        final: its place on disk; None where it has none.
        message: what failed; ``lines``: ffmpeg's last words.
    """
    if disk_is_full([*lines, message]):
        return MediaError(
            f"the disk is full: {shown} could not be written (No space left on device)",
            f"free some space {f'in {final.parent}' if final else 'there'}, or write elsewhere with -o",
        )
    return MediaError(
        f"ffmpeg could not write {shown}: {message}",
        "try another --codec or output format, or --debug for ffmpeg's own words",
    )
