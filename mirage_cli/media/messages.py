"""What ffmpeg's messages on stderr mean: for these facts it has no exit status of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mirage_cli.media.ffmpeg import pick_message

# That a live stream has no sound is an error to ffmpeg (raw_pipe.py), but not here.
_ERROR = re.compile(r"^(?!\[(?:tee|framehash|s16le) @).*\[(?:error|fatal)\] ")


def disk_is_full(lines: Iterable[str]) -> bool:
    """Whether a write failed because no space is left."""
    return any("No space left" in line for line in lines)


def reader_is_gone(message: str) -> bool:
    """Whether the program at the other end of a pipe has ended."""
    return "Broken pipe" in message or "EPIPE" in message


def output_is_open(lines: Iterable[str]) -> bool:
    """Whether the output was opened and is being written to; printed at level info."""
    return any("Output #0" in line for line in lines)


def input_description(lines: Iterable[str]) -> tuple[str, bool]:
    """What was printed about the inputs so far, for ``parse_probe``, and whether that is all."""
    text = "\n".join(re.sub(r"^\[info\] ", "", line) for line in lines)
    description, output, _ = text.partition("\nOutput #0")
    return description, bool(output)


def why_a_stream_ended(lines: Iterable[str]) -> str:
    """The reason in one line, from the messages of an ffmpeg that read the stream."""
    # Joining in the middle of a stream gives harmless errors first; the last one is the reason.
    errors = [line for line in lines if _ERROR.search(line)]
    message = pick_message(errors) if errors else "the sender ended"
    message = re.sub(r"^Error opening input(?: files?)?: ?", "", message)
    return "the sender ended" if "during demuxing" in message else message.rstrip(".")
