"""How far a run is, and what it reports while it trains: numbers for the table, JSON lines, TensorBoard."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.measure import PeakMemory, TrainStats

SMOOTHING = 0.03  # weight of the newest step in the terms that are shown
SPEED_STEPS = 20  # steps that the speed is taken over


@dataclass
class Progress:
    """How far a run is: optimiser steps done, and seconds trained (compiling and pauses are not counted)."""

    step: int = 0
    seconds: float = 0.0


Say = Callable[[str], None]
"""Gets lines about what happens."""

Tick = Callable[[Callable[[], TrainStats]], None]
"""Called after every step with a function that gives the numbers to show."""

Stopping = Callable[[], AbstractContextManager[Callable[[], bool]]]
"""A block in which a signal only asks the run to pause; yields whether one came."""


@contextmanager
def unstopped() -> Iterator[Callable[[], bool]]:
    """A ``Stopping`` for runs that take no signals."""
    yield lambda: False


class Meter:
    """Speed and running means; nothing here waits for the device before it is asked for numbers."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=SPEED_STEPS + 1)
        self._means: dict[str, Tensor] = {}
        self._first: dict[str, Tensor] = {}
        self._seen: dict[str, int] = {}
        self._memory = PeakMemory()

    def took(self, now: float, terms: Mapping[str, Tensor]) -> None:
        """A step ended at ``now`` (seconds of any clock) with these terms, each a scalar."""
        self._ends.append(now)
        for name, value in terms.items():
            value, count = value.detach().float(), self._seen.get(name, 0) + 1
            self._seen[name] = count
            self._first.setdefault(name, value)
            self._means[name] = torch.lerp(self._means[name], value, max(SMOOTHING, 1 / count)) if count > 1 else value

    def pause(self) -> None:
        """Training is interrupted here: the speed is measured from the next step on."""
        self._ends.clear()

    def step_seconds(self) -> float:
        """Of the last steps; 0 before there are two."""
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1) if len(self._ends) > 1 else 0.0

    def terms(self) -> tuple[dict[str, float], dict[str, float]]:
        """Running means, and values at the first step that had them; the loss first."""
        names = sorted(self._means, key=lambda name: name != "loss")
        now, first = ({name: values[name].item() for name in names} for values in (self._means, self._first))
        return now, first

    def memory_mib(self, device: torch.device) -> float:
        """Peak of the GPU's tensors, or of the process on a CPU."""
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device) / 2**20
        return self._memory.megabytes()["process"]


class RunLog:
    """A run's records: one JSON line each in a file, and scalars for TensorBoard where it is asked for.

    Raises:
        UsageProblem: TensorBoard's package is missing; MediaError: the folder cannot be written.
    """

    def __init__(self, path: Path, tensorboard: str = "") -> None:
        self._board = _board(tensorboard) if tensorboard else None
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """A record with its ``step``; every number in it becomes a curve."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(f"train/{name}", value, record["step"])


def check_tensorboard() -> None:
    """UsageProblem where TensorBoard's package is missing; before an hour is spent on data."""
    _writer()


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageProblem(
            f"TensorBoard is asked for and its package cannot be imported: {error}".splitlines()[0],
            "pip install -c constraints.txt -e '.[tensorboard]', or omit --tensorboard: "
            "log.0.jsonl has the same numbers",
        ) from error
    return SummaryWriter


def _board(folder: str) -> Any:
    try:
        return _writer()(log_dir=folder)
    except OSError as error:
        raise MediaError(
            f"--tensorboard {folder!r} cannot be written: {error.strerror or error}", "give another folder"
        ) from error
