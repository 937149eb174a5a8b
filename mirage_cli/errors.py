"""Errors a user can act on.

Every error that a user may cause or meet is a ``MirageError``: one line that says what failed,
the value seen and what is allowed, plus a remedy, the next thing to try. Code below the command
line raises; ``cli.py`` renders it once and exits with ``exit_code``.

Exit codes: 0 done, 1 failure, 2 usage, 3 input or output, 4 model, 5 GPU, 130 interrupted.
"""

from __future__ import annotations

import unicodedata

_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, lone surrogates, line separators


def plain_text(text: str) -> str:
    """One line that a terminal can show whatever its characters: file names hold any but NUL.

    Line breaks, escape sequences and bytes that are not UTF-8 are written as Python escapes them.
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii") if unicodedata.category(char) in _UNPRINTABLE else char
        for char in text
    )


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def short(text: str) -> str:
    """A text, cut where it is longer than 80 characters."""
    return text if len(text) <= 80 else text[:77] + "..."


def reason_of(error: BaseException) -> str:
    """What the system says of a failed call ("No such file or directory"), without the name; else the whole text."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class MirageError(Exception):
    """Base of all errors shown to the user without a traceback.

    Args:
        message: one line: what failed, the value seen, what is allowed.
        remedy: the next command or action to try; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageProblem(MirageError):
    """A flag, prompt, size or combination that is not allowed."""

    exit_code = 2


class MediaError(MirageError):
    """Input that cannot be read, or output that cannot be written."""

    exit_code = 3


class ModelError(MirageError):
    """A model that is missing, damaged, foreign, or yields NaN."""

    exit_code = 4


class GpuError(MirageError):
    """A GPU that is asked for and not there, or out of memory, or refuses a kernel."""

    exit_code = 5


class Interrupted(MirageError):
    """Ctrl-C or SIGTERM; the output up to here was finished and plays."""

    exit_code = 130
