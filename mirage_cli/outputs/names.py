"""What the name of an output stands for, and whether it may be written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from mirage_cli.config import PIPE, LiveConfig, TransformConfig
from mirage_cli.errors import MediaError, reason_of
from mirage_cli.media.addresses import is_url, is_utf8
from mirage_cli.outputs.virtual_camera import is_virtual_camera


def is_plain_file(target: str) -> bool:
    """Whether an output is a file on disk: no pipe, address, device or fifo."""
    playlist = target.lower().endswith(".m3u8")  # it is read while it is written
    return target != "-" and not is_url(target) and not _is_device(target) and not playlist


def _is_device(target: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(target).st_mode)
    except OSError:
        return False


def check_target(target: str, read_from: str | None, may_replace: Callable[[], bool]) -> None:
    """Refuses an output that cannot or must not be written; touches nothing.

    Args:
        target: as in ``open_output``; "-" and URLs pass.
        read_from: the input's path; None where it is no file.
        may_replace: asked only if there is a file of that name and nothing else is wrong.

    Raises:
        MediaError: a folder, the input itself, a file that may not be replaced, a name or folder
            that cannot be.
    """
    if target == "-" or is_url(target):
        return
    path = Path(target)
    if not is_utf8(target):
        raise MediaError(f"output {target!r} is no UTF-8 text", "give the output a plainer name")
    try:
        if path.is_dir():
            raise MediaError(f"output {target!r} is a folder", f"name a file: {path / 'out.mp4'}")
        if read_from and path.exists() and os.path.exists(read_from):
            if os.path.samefile(path, read_from):
                raise MediaError(f"output {target!r} is the input itself", "give the output another name")
        folder = Path(os.path.realpath(target)).parent
        if not folder.is_dir():
            raise MediaError(f"the folder of output {target!r} does not exist", f"mkdir -p {folder}")
        if path.is_file() and not may_replace():
            raise MediaError(f"output {target!r} exists", "add -y to replace it, or give -o another name")
    except (OSError, ValueError) as problem:
        raise MediaError(
            f"output {target!r} cannot be written: {reason_of(problem)}", "give a shorter or plainer name"
        ) from None


def at_its_pace(target: str) -> bool:
    """Whether viewers watch an address while it is written, and a file must not come faster."""
    return target.partition("://")[0].lower() in ("rtmp", "rtmps", "rtsp", "srt", "udp")


def targets_of(config: LiveConfig | TransformConfig) -> list[str]:
    """All outputs that were named."""
    return [target for target in (config.output, *config.more_outputs) if target is not None]


def shown_target(target: str) -> str:
    """An output for people and logs; the last part of an rtmp address is the stream key."""
    if target == PIPE:
        return "standard output"
    if not is_url(target):
        return target if is_virtual_camera(target) else os.path.basename(target)
    scheme, _, rest = target.partition("://")
    host, slash, path = rest.rpartition("@")[2].partition("?")[0].partition("/")
    if scheme.startswith("rtmp") and path.count("/"):
        path = path.rpartition("/")[0] + "/..."
    return f"{scheme}://{host}{slash}{path}"


def without_secrets(target: str) -> str:
    """An input or output as it was named, but for what an address must not show."""
    return shown_target(target) if is_url(target) else target


def check_targets(targets: list[str], check: Callable[[str], None]) -> None:
    """``check`` each output that is a file.

    Raises:
        MediaError: two names lead to one file, or what ``check`` raises.
    """
    seen: dict[str, str] = {}
    for target in targets:
        if target == PIPE or is_url(target) or is_virtual_camera(target):
            continue
        real = os.path.realpath(target)
        if real in seen:
            raise MediaError(f"{target!r} and {seen[real]!r} are the same file", "Leave one away.")
        seen[real] = target
        check(target)
