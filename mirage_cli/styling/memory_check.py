"""Does it fit? An estimate of the memory of a stream, before anything is allocated.

Measured on the CPU with lsd-small, one step: peak resident memory beyond the loaded model was 470 MB
at 1920x1080 and 770 MB at 2560x1440 in bf16, 695 MB and 960 MB in fp32 (3 frames each). The figures
below lie above all four.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mirage_cli.config import MIN_SIDE, Size
from mirage_cli.errors import GpuError, MirageError

BASE_BYTES = 64 << 20
PIXEL_BYTES = {"fp32": 400, "bf16": 260, "fp16": 260}
RESERVE = 0.9
"""The share of the free memory that is taken at most."""


def needed_bytes(size: Size, dtype: str) -> int:
    """Of a stream of such frames, the loaded model not counted; ``dtype`` fp32, bf16 or fp16."""
    return BASE_BYTES + size[0] * size[1] * PIXEL_BYTES.get(dtype, PIXEL_BYTES["fp32"])


def largest_size(size: Size, free: int, dtype: str) -> Size | None:
    """The largest size of the same shape that fits, in multiples of 16; None where none does."""
    pixels = (free * RESERVE - BASE_BYTES) / PIXEL_BYTES.get(dtype, PIXEL_BYTES["fp32"])
    if pixels < MIN_SIDE * MIN_SIDE:
        return None
    scale = min(1.0, math.sqrt(pixels / (size[0] * size[1])))
    width, height = (int(side * scale) // 16 * 16 for side in size)
    return (width, height) if min(width, height) >= MIN_SIDE else None


def check_memory(size: Size, dtype: str, on_gpu: bool, free: Callable[[], int | None]) -> None:
    """Refuse what will not fit, with the size that would.

    Args:
        size: width and height of the frames.
        free: bytes that can be had; None where nobody knows, and nothing is refused.

    Raises:
        GpuError, MirageError: it does not fit.
    """
    needed, have = needed_bytes(size, dtype), free()
    if have is None or needed <= have * RESERVE:
        return
    fits = largest_size(size, have, dtype)
    remedy = f"Use --size {fits[0]}x{fits[1]}, which fits." if fits else "Free some memory first."
    kind = GpuError if on_gpu else MirageError
    raise kind(
        f"frames of {size[0]}x{size[1]} need about {needed / 2**30:.1f} GiB of "
        f"{'GPU ' if on_gpu else ''}memory, and {have * RESERVE / 2**30:.1f} GiB can be had "
        f"({have / 2**30:.1f} GiB are free)",
        remedy,
    )


def free_cpu_bytes() -> int | None:
    """Memory that this process may still take: of the machine, or of its control group."""
    free: int | None = None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    limits = []
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(most, encoding="ascii") as top, open(used, encoding="ascii") as now:
                limits.append(int(top.read()) - int(now.read()))
        except (OSError, ValueError):  # "max": no limit
            continue
    known = [value for value in (free, *limits) if value is not None]
    return max(0, min(known)) if known else None


def free_gpu_bytes(device: object) -> int | None:
    """Memory of the GPU that nobody holds, and what torch keeps for itself but does not use."""
    import torch

    try:
        free, _ = torch.cuda.mem_get_info(device)  # type: ignore[arg-type]
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError):
        return None
    return int(free + kept)
