"""Whether outputs may be written, by their places."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mirage_cli.config import LiveConfig, TransformConfig
from mirage_cli.errors import MediaError, UsageProblem, reason_of
from mirage_cli.media.addresses import is_utf8
from mirage_cli.media.place import Kind, Place


def outputs_of(config: LiveConfig | TransformConfig) -> list[Place]:
    """All outputs that were named."""
    return [Place.of_output(name) for name in (config.output, *config.more_outputs) if name is not None]


def check_named_once(names: Sequence[str]) -> None:
    """Raises:
    UsageProblem: a name stands there twice.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        shown = Place.of_output(twice).typed
        raise UsageProblem(f"output {shown!r} is given twice", "Give each output another name.")


def check_targets(targets: list[Place], check: Callable[[Place], None]) -> None:
    """``check`` each output that is a file.

    Raises:
        MediaError: two names lead to one file, or what ``check`` raises.
    """
    seen: dict[str, str] = {}
    for target in targets:
        if target.kind in (Kind.PIPE, Kind.VIRTUAL_CAMERA) or target.is_address:
            continue
        real = os.path.realpath(target.path)
        if real in seen:
            raise MediaError(f"{target.path!r} and {seen[real]!r} are the same file", "Remove one of them.")
        seen[real] = target.path
        check(target)


def check_target(target: Place, read_from: str | None, may_replace: Callable[[], bool]) -> None:
    """Refuse an output that cannot or must not be written; touches nothing. Pipes and addresses pass.

    Args:
        read_from: the input's path; None where it does not lie on disk.
        may_replace: asked only if there is a file of that name and nothing else is wrong.

    Raises:
        MediaError: a folder, the input itself, a file that may not be replaced, a name or folder
            that cannot be.
    """
    if target.kind is Kind.PIPE or target.is_address:
        return
    name, path = target.path, Path(target.path)
    if not is_utf8(name):
        raise MediaError(f"output {name!r} is not UTF-8 text", "give the output a plainer name")
    try:
        if path.is_dir():
            raise MediaError(f"output {name!r} is a folder", f"name a file: {path / 'out.mp4'}")
        if read_from and path.exists() and os.path.exists(read_from) and os.path.samefile(path, read_from):
            raise MediaError(f"output {name!r} is the input itself", "give the output another name")
        folder = Path(os.path.realpath(name)).parent
        if not folder.is_dir():
            raise MediaError(f"the folder of output {name!r} does not exist", f"mkdir -p {folder}")
        if path.is_file() and not may_replace():
            raise MediaError(f"output {name!r} exists", "add -y to replace it, or give -o another name")
    except (OSError, ValueError) as problem:
        raise MediaError(
            f"output {name!r} cannot be written: {reason_of(problem)}", "give a shorter or plainer name"
        ) from None
