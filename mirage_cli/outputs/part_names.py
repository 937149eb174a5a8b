"""Names for what is not whole yet: beside the output, and never one that something already has.

Browsers and downloaders call an unfinished file ``NAME.part`` too, so a name that is taken belongs to somebody.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path


def new_part_file(final: Path, label: str = "") -> Path:
    """Makes an empty file beside ``final``: ``NAME.part``, or ``NAME.2.part`` and so on where that is taken.

    Args:
        label: stands before the number, as in ``NAME.sound.part``.

    Raises:
        OSError: the folder cannot be written to, or the name is too long.
    """
    for part in _part_names(final, label):
        try:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            continue
        return part
    raise AssertionError("the names do not end")


def write_whole(final: Path, data: bytes) -> None:
    """Writes a file, or replaces the one that is there, at once: it appears whole or not at all.

    Raises:
        OSError: it cannot be written; nothing is left behind.
        ValueError: no file can have that name.
    """
    part = new_part_file(final)
    try:
        part.write_bytes(data)
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)


def new_part_folder(final: Path) -> Path:
    """Makes an empty folder beside ``final``, named as by ``new_part_file``.

    Raises:
        OSError: as there.
    """
    for part in _part_names(final):
        try:
            part.mkdir()
        except FileExistsError:
            continue
        return part
    raise AssertionError("the names do not end")


def _part_names(final: Path, label: str = "") -> Iterator[Path]:
    for number in itertools.count(1):
        yield final.with_name(f"{final.name}{label}{f'.{number}' if number > 1 else ''}.part")
