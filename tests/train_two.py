"""Run by torchrun: the same small training whole, and as a smoke run that pauses half way, in several processes.

torchrun --nproc-per-node 2 tests/train_two.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from mirage_cli.cli import main as mirage
from mirage_cli.training import loop, smoke
from mirage_cli.training.config import load_config
from mirage_cli.training.processes import join_processes

SHORT = ("max_steps=24", "streams=8")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, world = join_processes("cpu")
    data = folder / "data"
    if rank == 0:
        smoke.make_data(data)
    smoke._shared(None, world)
    settings = [*smoke.SETTINGS, *SHORT, f"data={data}", f"looks_file={data / 'looks.json'}", f"run={folder / 'whole'}"]
    assert loop.Trainer(load_config(None, settings), lambda line: None).train()
    code = mirage(["train", "--smoke", *SHORT, f"run={folder / 'parts'}", "--json"])
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads  # they may abort a Python that ends
    sys.exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
