"""``mirage`` with a stand-in for the trained model: ``python tests/helpers/fakes.py transform ...``.

All else is real: command line, threads, ffmpeg, signals, terminal. The stand-in turns each frame
into its negative (``negative``) or leaves it (``identity``), after FAKE_MODEL_MS of sleep. To the pipe
FAKE_READY_FD, where there is one, it writes a byte once Ctrl-C and SIGTERM are interruptions of the run.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

TIMES_MS = {"prepare": 1.0, "denoise": 2.0, "compose": 0.5}
LOOKS = {"ink wash": "ink-wash", "night": "night", "mosaic": "mosaic"}


@dataclass
class Match:
    look: str
    weights: dict[str, float]
    similarity: float
    known: bool
    message: str


@dataclass
class Report:
    """Stands in for ``stream.stepping.StepReport``, whose module imports torch: a process with fakes starts at once."""

    cut: bool = False
    guard_event: str | None = None

    def latencies(self):
        return dict(TIMES_MS)


@dataclass
class FakeSession:
    width: int
    height: int
    options: object
    fail_at: int | None = None
    cut_at: tuple[int, ...] = ()
    guard_at: tuple[int, ...] = ()
    out_of_memory: bool = False
    looks: list[dict[str, float]] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)
    frames: int = 0
    echo: float = 0.0  # with FAKE_ECHO, a past that every later frame depends on
    report: Report = field(default_factory=Report)
    copies: ClassVar[object] = None  # as on a CPU

    def set_look(self, weights):
        assert abs(sum(weights.values()) - 1.0) < 1e-9
        self.looks.append(dict(weights))

    def set_strength(self, strength):
        self.strengths.append(strength)

    def set_seed(self, seed):
        self.seeds.append(seed)

    def reset(self):
        self.resets.append(self.frames)

    def step(self, rgb):
        assert rgb.shape == (self.height, self.width, 3) and rgb.dtype == np.uint8
        if self.out_of_memory:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        if self.frames == self.fail_at:
            raise ValueError("the model broke")
        time.sleep(float(os.environ.get("FAKE_MODEL_MS", "1")) / 1e3)
        event = "re-anchored: grey" if self.frames in self.guard_at else None
        self.report = Report(cut=self.frames in self.cut_at, guard_event=event)
        self.frames += 1
        if os.environ.get("FAKE_ECHO"):
            self.echo = (0.9 * self.echo + 0.1 * float(rgb.mean()) + self.frames) % 200.0
            return ((rgb.astype(np.uint16) + int(self.echo)) % 256).astype(np.uint8)
        share = 1.0 - self.looks[-1].get("identity", 0.0)
        return np.round(rgb + share * (255.0 - 2.0 * rgb)).astype(np.uint8) if share else rgb

    def state(self):
        return {"echo": np.zeros(1, np.float32) + self.echo}, {"frames": self.frames}

    def load_state(self, state, *, fit=False):
        arrays, facts = state
        self.echo, self.frames = float(arrays["echo"][0]), facts["frames"]

    def describe(self):
        return {
            "model": self.options.model,
            "device": "cpu",
            "dtype": "fp32",
            "backend": "torch",
            "reason": "a stand-in",
            "steps": self.options.steps,
            "size": [self.width, self.height],
        }


class FakeModels:
    def __init__(self, **session):
        self.session_options = session
        self.sessions: list[FakeSession] = []

    def check_model(self, options):
        pass

    def is_cpu(self, options):
        return True

    def session(self, options, width, height):
        self.sessions.append(FakeSession(width, height, options, **self.session_options))
        return self.sessions[-1]

    def look_names(self, options):
        return (*LOOKS.values(), "identity")

    def match(self, options, text):
        known = text in LOOKS
        look = LOOKS.get(text, "mosaic")
        message = f"'{text}' is taken as the look {look} (similarity 0.97)"
        if not known:
            message = f"no look is known for '{text}'; the nearest is {look} (similarity 0.31)"
        return Match(look, {look: 1.0}, 0.97 if known else 0.31, known, message)


class RecordingUi:
    """A ``Ui`` that keeps what it is told."""

    def __init__(self, may_overwrite=False):
        self.notes, self.warnings, self.stats = [], [], []
        self.may_overwrite, self.asked = may_overwrite, []

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)

    def tick(self, stats):
        self.stats.append(stats())

    def confirm_overwrite(self, path):
        self.asked.append(path)
        return self.may_overwrite


def main(arguments: list[str], models: FakeModels | None = None) -> int:
    """``mirage`` in this process; the model is a stand-in."""
    from mirage_cli import cli
    from mirage_cli.commands.terminal import Call

    return cli.main(arguments, Call(models=models or FakeModels()))


if __name__ == "__main__":
    import functools

    from mirage_cli import cli
    from mirage_cli.__main__ import run
    from mirage_cli.commands import transform
    from mirage_cli.commands.terminal import Call
    from mirage_cli.config import TransformConfig

    transform.TransformConfig = functools.partial(
        TransformConfig, segment_frames=int(os.environ.get("FAKE_SEGMENT_FRAMES", "250"))
    )
    if "FAKE_READY_FD" in os.environ:
        mark, begin = int(os.environ["FAKE_READY_FD"]), cli.cli.main

        def ready(*arguments, **options):
            os.write(mark, b".")
            os.close(mark)
            return begin(*arguments, **options)

        cli.cli.main = ready
    sys.exit(run(Call(models=FakeModels())))
