"""Does it fit? The model's estimate of a stream's memory against what is free, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable

from mirage_cli.config import MIN_SIDE, Size
from mirage_cli.errors import GpuError, MirageError

RESERVE = 0.9
"""The share of the free memory that is taken at most."""

Needs = Callable[[Size], int]  # size -> bytes of a stream, see ``Model.needed_bytes``


def largest_size(size: Size, free: int, needs: Needs, stride: int) -> Size | None:
    """The largest size of the same shape that fits into ``free`` bytes, in multiples of ``stride``; None where none
    does."""
    for width in range(size[0] // stride * stride, MIN_SIDE - 1, -stride):
        height = size[1] * width // size[0] // stride * stride
        if height < MIN_SIDE:
            return None
        if needs((width, height)) <= free * RESERVE:
            return width, height
    return None


def check_memory(size: Size, needs: Needs, stride: int, on_gpu: bool, free: Callable[[], int | None]) -> None:
    """Refuse what will not fit, with the size that would.

    Args:
        size: width and height of the frames.
        stride: sides that are suggested are multiples of it.
        free: bytes that can be had; None if unknown, and nothing is refused.

    Raises:
        GpuError, MirageError: it does not fit.
    """
    needed, have = needs(size), free()
    if have is None or needed <= have * RESERVE:
        return
    fits = largest_size(size, have, needs, stride)
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
    """Free memory of the GPU, and what torch has reserved but does not use."""
    import torch

    try:
        free, _ = torch.cuda.mem_get_info(device)  # type: ignore[arg-type]
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError):
        return None
    return int(free + kept)
