"""``mirage`` in a process of its own, and what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from helpers.paths import FAKES


def environment(**values):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MIRAGE_") and k != "NO_COLOR"}
    return {**kept, "TERM": "xterm-256color", **values}


def mirage(*arguments, stdin=subprocess.DEVNULL, fake=True, timeout=60, **values):
    """Run in a process of its own; stdout and stderr are pipes."""
    program = [str(FAKES)] if fake else ["-m", "mirage_cli"]
    feed = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        timeout=timeout,
        env=environment(**values),
        **feed,
    )


def frames_of(path: Path, size=(96, 64)) -> np.ndarray:
    """All frames of a file: uint8 [N, H, W, 3]."""
    from mirage_cli.inputs.file import open_file

    with open_file(str(path)) as source:
        return np.stack([frame.rgb for frame in source])


def start(*arguments, **values):
    return subprocess.Popen(
        [sys.executable, str(FAKES), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**values),
    )


def wait_for(path: Path, what: bool = True, seconds: float = 20.0) -> None:
    deadline = time.perf_counter() + seconds
    while path.exists() != what and time.perf_counter() < deadline:
        time.sleep(0.02)
    assert path.exists() == what
