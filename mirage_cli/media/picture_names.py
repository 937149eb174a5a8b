"""Names of pictures: one, or numbered ones by a folder, a pattern or a glob.

photo.jpg    shots/    shots/%04d.png    'shots/*.png'
"""

from __future__ import annotations

import glob
import os
import re

from mirage_cli.errors import MediaError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_NUMBER = re.compile(r"%(0\d+)?d")


def is_picture(name: str) -> bool:
    """Whether the name is that of a still picture, by its suffix."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_pattern(name: str) -> bool:
    """Whether ``name`` stands for numbered pictures: ``frames/%05d.png``."""
    return is_picture(name) and len(_NUMBER.findall(name)) == 1


def numbered(pattern: str, number: int | str) -> str:
    """``%05d.png`` and 7 -> ``00007.png``; a text takes the place of the number as it is."""
    return _NUMBER.sub(lambda match: match[0] % number if isinstance(number, int) else number, pattern)


def pattern_matches(pattern: str) -> list[str]:
    """The files of a pattern's shape, in no order."""
    base = os.path.basename(pattern)
    shape = re.compile(re.escape(_NUMBER.split(base)[0]) + r"\d+" + re.escape(_NUMBER.split(base)[-1]))
    folder = os.path.dirname(pattern)
    if not os.path.isdir(folder or "."):
        return []
    return [os.path.join(folder, item) for item in os.listdir(folder or ".") if shape.fullmatch(item)]


def pictures_in(folder: str) -> list[str]:
    """The pictures of a folder, in order; empty where it holds other files as well, or cannot be read."""
    try:
        with os.scandir(folder) as items:
            files = [item.name for item in items if item.is_file() and not item.name.startswith(".")]
    except OSError:
        return []
    if not all(map(is_picture, files)):
        return []
    return [os.path.join(folder, name) for name in sorted(files, key=natural)]


def find_pictures(name: str) -> list[str]:
    """The pictures that ``name`` stands for, in order; empty where it stands for something else.

    Raises:
        MediaError: a pattern or a glob of pictures that matches none.
    """
    if os.path.isdir(name):
        return pictures_in(name)
    if not is_picture(name):
        return []
    if os.path.exists(name):
        return [name] if os.path.isfile(name) else []
    if is_pattern(name):
        found = pattern_matches(name)
    elif glob.has_magic(name):
        found = [path for path in glob.glob(name) if os.path.isfile(path)]
    else:
        return []
    if not found:
        raise MediaError(f"no picture is called {name!r}", "Check the folder and the pattern.")
    return sorted(found, key=natural)


def natural(path: str | os.PathLike[str]) -> list[object]:
    """A key that sorts ``9.png`` before ``10.png``."""
    return [(1, int(part)) if part.isdecimal() else (0, part.lower()) for part in re.split(r"(\d+)", os.fspath(path))]
