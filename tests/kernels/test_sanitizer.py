"""The frame's plan under compute-sanitizer: no access outside of a tensor, no race in shared memory.

``MIRAGE_SANITIZED_FRAMES=5000`` makes the memory check as long as a release asks for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from helpers.paths import ROOT

FRAMES = os.environ.get("MIRAGE_SANITIZED_FRAMES", "50")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed"),
]


SMALL, ODD = ("72", "40"), ("200", "136")  # the second has whole tiles at every level


@pytest.mark.parametrize(
    ("tool", "frames", "size"),
    [("memcheck", FRAMES, SMALL), ("racecheck", "2", SMALL), ("racecheck", "2", ODD), ("synccheck", "2", SMALL)],
)
def test_the_plan_is_clean(tool, frames, size):
    command = [
        "compute-sanitizer",
        "--tool",
        tool,
        "--kernel-regex",
        "kns=mirage",
        "--error-exitcode",
        "9",
        sys.executable,
    ]
    # each tensor an allocation of its own, so that memcheck sees where it ends
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": os.pathsep.join(paths)}
    script = [str(ROOT / "tests" / "sanitized_frames.py"), frames, *size]
    done = subprocess.run(
        [*command, *script], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=290, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (
        f"{frames} frames" in done.stdout
        and "ERROR SUMMARY: 0 errors" in done.stdout + done.stderr
        or tool != "memcheck"
    )
