"""Memory that a stream takes, measured in a process of its own: ``python -m helpers.memory [--leak]`` in tests/.

Steps the tiny model 60 times and then 500 times, and prints JSON: ``grown_mib`` over the 500 steps, and whether
the tensors of the session's state are ``in_place``. With ``--leak`` each output frame is kept.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from helpers.sessions import moving, tiny_model
from mirage_cli.stream.session import Session


def resident_mib() -> float:
    """What the process holds now; not a high-water mark, so that a leak shows whatever ran before (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main(leak: bool) -> None:
    torch.set_num_threads(1)
    frames, kept = moving(20), []
    session = Session(tiny_model(), width=64, height=48)

    def places() -> list[int]:
        state = [*session.painter.state().values(), session.painter.conditioning.modulations]
        return [tensor.data_ptr() for tensor in state]

    begun = places()
    for i in range(60):
        session.step(frames[i % 20])
    before = resident_mib()
    for i in range(500):
        out = session.step(frames[i % 20])
        if leak:
            kept.append(out.copy())
    print(json.dumps({"grown_mib": round(resident_mib() - before, 2), "in_place": places() == begun}))


if __name__ == "__main__":
    main("--leak" in sys.argv)
