"""Title, artist, chapters and the like: what a file says of itself, from input to output.

ffmpeg's own text form of it (``-f ffmetadata``) is read, chapters are moved to the output's times,
and the text is handed back to ffmpeg. https://ffmpeg.org/ffmpeg-formats.html#Metadata-1
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mirage_cli.media.ffmpeg import FfmpegTool, run_ffmpeg

# What describes the input's container and not its content.
CONTAINER_KEYS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "encoded_by"})
MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter, in the time stamps of its file; ``lines`` are its tags, escaped as read."""

    start_seconds: Fraction
    end_seconds: Fraction
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileTags:
    """The tags of a file.

    Attributes:
        lines: ``key=value`` of the whole file, escaped as ffmpeg reads them.
        chapters: in order.
    """

    lines: tuple[str, ...] = ()
    chapters: tuple[Chapter, ...] = ()

    def text(self, zero_seconds: float, begin_seconds: float, end_seconds: float | None) -> bytes:
        """The tags of an output as an ffmetadata file.

        Args:
            zero_seconds: the time stamp of this file that is 0 in the output.
            begin_seconds, end_seconds: what of this file the output shows; chapters are cut to it.
        """
        out = [";FFMETADATA1", *self.lines]
        for chapter in self.chapters:
            start = max(float(chapter.start_seconds), begin_seconds)
            end = float(chapter.end_seconds)
            end = end if end_seconds is None else min(end, end_seconds)
            if end - start < 0.001:
                continue
            begin_ms, end_ms = (round((time - zero_seconds) * 1e3) for time in (start, end))
            out += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={max(begin_ms, 0)}", f"END={end_ms}"]
            out += chapter.lines
        return ("\n".join(out) + "\n").encode("utf-8", "surrogateescape")


def read_tags(tool: FfmpegTool, url: str) -> FileTags:
    """The tags of a file; none where it has none or ffmpeg cannot say.

    Args:
        url: of a local file, as ffmpeg reads it.
    """
    done = run_ffmpeg(tool, ["-v", "error", "-i", url, "-f", "ffmetadata", "pipe:1"])
    if done.returncode != 0 or len(done.stdout) > MAX_TEXT_BYTES:
        return FileTags()
    return parse_tags(done.stdout.decode("utf-8", "surrogateescape"))


def parse_tags(text: str) -> FileTags:
    """Reads an ffmetadata text; sections other than chapters are left out."""
    whole: list[str] = []
    chapters: list[Chapter] = []
    current: list[str] | None = whole
    opened: list[str] | None = None
    for line in (*_logical_lines(text), "[END]"):
        if not line or line[0] in ";#":
            continue
        if line[0] != "[":
            if current is not None and "=" in line:
                current.append(line)
            continue
        if opened is not None and (chapter := _chapter(opened)) is not None:
            chapters.append(chapter)
        opened = current = [] if line == "[CHAPTER]" else None
    kept = [line for line in whole if line.partition("=")[0].lower() not in CONTAINER_KEYS]
    return FileTags(tuple(kept), tuple(chapters))


def _logical_lines(text: str) -> list[str]:
    """Lines of the text, those that end in a backslash joined with the next, still escaped."""
    lines: list[str] = []
    pending = ""
    for line in text.split("\n"):
        pending += line
        if re.search(r"(?<!\\)(?:\\\\)*\\$", pending):  # an odd number of them
            pending += "\n"
            continue
        lines.append(pending)
        pending = ""
    return [*lines, pending.rstrip("\\\n")] if pending else lines


def _chapter(lines: list[str]) -> Chapter | None:
    named = dict(line.partition("=")[::2] for line in lines)
    try:
        tick = Fraction(named.pop("TIMEBASE", "1/1000000000"))
        start, end = int(named.pop("START")) * tick, int(named.pop("END")) * tick
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return Chapter(start, end, tuple(f"{key}={value}" for key, value in named.items()))
