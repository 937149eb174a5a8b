"""What each part of the model and of its training gives: rows trained alike, measured alike.

    python -m mirage_cli.evaluation.ablation --data DATA --out runs/ablation [--rows motion,rollouts] [--minutes 1]

Each row is the one before it with one part more. All rows see the same stills, looks and seed for the same
time on the same kind of GPU, from random weights, and are measured by ``KnownWarps`` with the same parts
switched off that they were trained without. ``ablation-ROWS.json`` in the output folder has a document a row.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mirage_cli.evaluation.fidelity import PERIOD, KnownWarps, choose_stills, open_teachers
from mirage_cli.lsd.family import LsdModel
from mirage_cli.runs.machine import commit, hardware, versions
from mirage_cli.training.config import load_config
from mirage_cli.training.loop import Trainer

LOOKS = ("oil-painting", "starry-night", "mosaic", "ink-wash", "neon-cyberpunk", "cartoon")
NO_DAMAGE = ("forcing.noisy=0", "forcing.damaged=0", "forcing.hidden=0")
FORCED, BARE, STILL = ("stream.rollout=false",), ("stream.memory=false",), ("stream.motion=false",)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        overrides: of the training config.
        history: False hides the past when it is measured.
        steps: numbers of sampler steps to measure besides one.
    """

    overrides: tuple[str, ...]
    history: bool = True
    steps: tuple[int, ...] = ()


ROWS: dict[str, Row] = {
    "no-history": Row(("forcing.hidden=1.0",), history=False),
    "history": Row((*NO_DAMAGE, *FORCED, *BARE, *STILL)),
    "augmentation": Row((*FORCED, *BARE, *STILL)),
    "rollouts": Row((*BARE, *STILL)),
    "memory": Row(STILL),
    "motion": Row((), steps=(2, 4)),
    "shortcut": Row(("loss.distil=0.3",), steps=(2, 4)),
    "texture": Row(("loss.texture=0.4",)),
    "temporal": Row(("loss.texture=0.4", "loss.temporal=0.5")),
}


def run_row(
    name: str, data: str, out: Path, minutes: float, overrides: tuple[str, ...] = (), period: int = PERIOD
) -> dict:
    """Train one row and measure it. Errors are mean absolute differences to the teacher in [-1, 1].

    Raises:
        KeyError: no such row; else as ``mirage train``.
    """
    row = ROWS[name]
    out.mkdir(parents=True, exist_ok=True)
    looks_file = out / "looks.json"
    looks_file.write_text(json.dumps({"looks": [{"id": look} for look in LOOKS]}), encoding="utf-8")
    settings = [
        f"data={data}",
        f"run={out / name}",
        f"looks_file={looks_file}",
        f"minutes={minutes}",
        "streams=96",
        "banks=[[376,520,1.0]]",
        "film=0",
        "game_each=0",
        "learning_rate=8e-4",
        "warmup_steps=100",
        "mean_decay=0.99",
        "loss.features=0.3",
        "validate=false",
        *row.overrides,
        *overrides,
    ]
    trainer = Trainer(load_config(None, settings), lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True))
    trainer.train()
    trainer.net.load_state_dict(trainer.mean.values)
    net = trainer.net.eval().requires_grad_(False).to(torch.float16 if trainer.device.type == "cuda" else torch.float32)
    model = LsdModel(name, out, net, trainer.device, net.stem.weight.dtype, "ablation")
    trained = {"memory": trainer.config.stream.memory, "motion": trainer.config.stream.motion}
    found = measure(model, row, [part for part, on in trained.items() if not on], data, period)
    document: dict[str, Any] = {"steps_trained": trainer.progress.step, "minutes": minutes, "looks": found}
    keys = {key for found in document["looks"].values() for key, value in found.items() if isinstance(value, float)}
    document["mean"] = {k: float(np.mean([found[k] for found in document["looks"].values()])) for k in sorted(keys)}
    return document


def measure(model: LsdModel, row: Row, without: Sequence[str], data: str, period: int = PERIOD) -> dict[str, dict]:
    """The row's numbers by look, with the parts left out that it was trained without."""
    teachers = open_teachers(LOOKS, data, "lsd-small", model.device)
    warps = KnownWarps(model, teachers, choose_stills(data, [], 3), None, period, without=without)
    found = {}
    for look in LOOKS:
        found[look] = warps.measure(look, returns=3, history=row.history)
        for steps in row.steps:
            found[look] |= {k: v for k, v in warps.measure_steps(look, steps).items() if v is not None}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train and measure rows of the ablation table."""
    parser = argparse.ArgumentParser(prog="ablation", description=main.__doc__)
    parser.add_argument("--data", required=True, help="training data folder")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--minutes", type=float, default=1.0, help="of training a row")
    parser.add_argument("--set", action="append", default=[], help="key=value of the training config, for all rows")
    given = parser.parse_args(arguments)
    record: dict[str, Any] = {
        "hardware": hardware(torch.cuda.is_available()),
        "versions": versions(),
        "commit": commit(),
        "rows": {},
    }
    for name in given.rows.split(","):
        record["rows"][name] = run_row(name, given.data, given.out, given.minutes, tuple(given.set))
        file = given.out / f"ablation-{given.rows.replace(',', '-')}.json"
        file.write_text(json.dumps(record, indent=1), encoding="utf-8")
        print(f"{name}: {json.dumps(record['rows'][name]['mean'])}", flush=True)


if __name__ == "__main__":
    main()
