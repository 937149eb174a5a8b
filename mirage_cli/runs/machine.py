"""What a measurement ran on: hardware, driver, versions, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_CLONE = Path(__file__).resolve().parents[2]


def hardware(on_gpu: bool) -> dict[str, Any]:
    """CPU, cores, memory, GPU and driver."""
    import torch

    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
    }
    if on_gpu and torch.cuda.is_available():
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts["gpu"] = device.name
        facts["gpu_memory_gib"] = round(device.total_memory / 2**30, 1)
        facts["driver"] = nvidia_driver() or "unknown"
        facts["cuda"] = torch.version.cuda
    return facts


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import cv2
    import numpy
    import torch

    from mirage_cli.errors import MediaError
    from mirage_cli.media.ffmpeg import find_ffmpeg

    try:
        ffmpeg = find_ffmpeg().version
    except MediaError:  # measuring a GPU needs none
        ffmpeg = "none"
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "ffmpeg": ffmpeg,
    }
    if "cupy" in sys.modules:
        found["cupy"] = sys.modules["cupy"].__version__
    return found


def commit(root: Path = _CLONE) -> str:
    """The commit of the clone, with "+changes" when files differ from it; "installed" elsewhere."""
    if not (root / ".git").exists():
        return "installed package"
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout.strip()


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu_memory(on_gpu: bool) -> dict[str, float]:
    """Peaks of torch's GPU allocator in MiB; empty on a CPU."""
    if not on_gpu:
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    return {
        "gpu_allocated_peak": round(torch.cuda.max_memory_allocated() / 2**20, 1),
        "gpu_reserved_peak": round(torch.cuda.max_memory_reserved() / 2**20, 1),
    }


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
        words = text.splitlines()[0].split()
        return next(word for word in words if word[0].isdigit() and "." in word)
    except (OSError, StopIteration, IndexError):
        pass
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "--query-gpu=driver_version", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.split()
    return lines[0] if lines else None
