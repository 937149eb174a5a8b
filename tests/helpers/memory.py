"""Memory of this process."""

from __future__ import annotations

import os
from pathlib import Path


def resident_mb() -> float:
    """What the process holds now, in MiB; not a high-water mark, so that a leak shows whatever ran before (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
