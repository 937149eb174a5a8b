"""One process of ``mirage eval``: takes tasks, yields what they measured.

A process holds one model on one device, and keeps what several tasks share: the session with its captured
graph, the motion of each clip, teachers and stills.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch

from mirage_cli.config import EvalSettings
from mirage_cli.errors import MirageError
from mirage_cli.evaluation import drift, prompts, temporal
from mirage_cli.evaluation.clips import Clip
from mirage_cli.evaluation.fidelity import KnownWarps, TeacherSet, choose_stills, open_teachers
from mirage_cli.evaluation.perceptual import PerceptualDistance, find_weights
from mirage_cli.models import catalog
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.prompts.reader import read_looks
from mirage_cli.stream.families import open_model
from mirage_cli.stream.session import Session

NO_TIME = "no time left"
TEMPORAL_PAIRS = 32
PROMPT_FRAMES = 3
DRIFT_SHARE = 0.6  # of the time budget that the long streams may take where other parts are asked for


@dataclass(frozen=True)
class Task:
    """One thing to measure: a part, the look (empty for prompts, which need all), the clip's number."""

    part: str
    look: str = ""
    clip: int = 0

    def words(self) -> str:
        return f"{self.part} {self.look}".strip()


@dataclass(frozen=True)
class Spec:
    """What a process gets at its start; the numbers left open in ``config`` are filled in.

    Attributes:
        clips: (name, note, file of uint8 [N, H, W, 3]) each.
        device: cpu or cuda:N.
        threads: for torch and OpenCV.
        deadline: on ``time.monotonic``.
    """

    config: EvalSettings
    clips: tuple[tuple[str, str, str], ...]
    device: str
    threads: int
    deadline: float


class Worker:
    """Measures tasks; ``handle`` yields (document so far, complete, pictures by name)."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.config = spec, spec.config
        self.begun = time.monotonic()  # many processes may take a minute to start: no stream is cut short for that
        torch.set_num_threads(spec.threads)
        cv2.setNumThreads(spec.threads)
        if spec.device.startswith("cuda"):
            torch.cuda.set_device(spec.device)
        self.clips = [Clip(name, np.load(file, mmap_mode="r"), note) for name, note, file in spec.clips]
        self.model = open_model(self.config.model.model, device=spec.device, dtype=self.config.model.dtype)
        self._motions: dict[int, temporal.ClipMotion] = {}

    @cached_property
    def session(self) -> Session:
        options = self.config.model
        return Session(
            self.model,
            width=self.config.size[0],
            height=self.config.size[1],
            steps=options.steps,
            strength=options.strength,
            seed=options.seed,
            backend=options.backend,
            guard=options.guard,
        )

    @cached_property
    def teachers(self) -> TeacherSet:
        return open_teachers(self.model.looks, self.config.data, self.config.model.model, self.model.device)

    @cached_property
    def perceptual(self) -> PerceptualDistance | None:
        weights = find_weights(self.config.lpips)
        return PerceptualDistance(weights).to(self.model.device) if weights else None

    @cached_property
    def warps(self) -> KnownWarps:
        stills = choose_stills(self.config.data, self.clips, self.config.stills)
        return KnownWarps(self.model, self.teachers, stills, self.perceptual, seed=self.config.model.seed)

    def handle(self, task: Task) -> Iterator[tuple[dict, bool, dict]]:
        """Measure one task.

        Yields:
            (document, complete, pictures): the last one is complete; documents before it are what is
            known so far.
        """
        if time.monotonic() >= self.spec.deadline:
            yield {"left_out": NO_TIME}, True, {}
            return
        try:
            yield from getattr(self, f"_{task.part}")(task)
        except MirageError as error:
            yield {"failed": error.message, "remedy": error.remedy}, True, {}
        except Exception as error:  # one look's failure leaves the others
            yield {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}, True, {}

    def _drift(self, task: Task) -> Iterator[tuple[dict, bool, dict]]:
        spec, clip = self.spec, self.clips[task.clip]
        deadline = spec.deadline
        if len(self.config.parts) > 1:
            deadline = min(deadline, self.begun + DRIFT_SHARE * (deadline - self.begun))
        self.session.set_look({task.look: 1.0})
        for document in drift.measure_drift(self.session, clip, self.config.frames, self.config.history, deadline):
            pictures = document.pop("pictures", None)
            yield {"clip": clip.name, **document}, pictures is not None, pictures or {}

    def _temporal(self, task: Task) -> Iterator[tuple[dict, bool, dict]]:
        if task.clip not in self._motions:
            self._motions[task.clip] = temporal.ClipMotion(self.clips[task.clip], TEMPORAL_PAIRS)
        self.session.set_look({task.look: 1.0})
        found = temporal.measure_temporal(self.session, self._motions[task.clip])
        yield {"clip": self.clips[task.clip].name, **found}, True, {}

    def _fidelity(self, task: Task) -> Iterator[tuple[dict, bool, dict]]:
        if task.look in self.teachers.skipped:
            yield {"left_out": self.teachers.skipped[task.look]}, True, {}
            return
        config = self.config
        found = self.warps.measure(task.look, config.returns, config.model.steps, config.history, self.spec.deadline)
        yield found, True, {}

    def _steps(self, task: Task) -> Iterator[tuple[dict, bool, dict]]:
        if task.look in self.teachers.skipped:
            yield {"left_out": self.teachers.skipped[task.look]}, True, {}
            return
        yield self.warps.measure_steps(task.look), True, {}

    def _prompts(self, task: Task) -> Iterator[tuple[dict, bool, dict]]:
        frames = self._prompt_frames()
        judge = prompts.PictureJudge(prompts.teacher_pictures(self.teachers, frames, self.model.device), frames)
        folder = self.model.path
        looks = read_looks(folder) if catalog.has_looks(folder) else []
        unseen = [(look.id, text) for look in looks for text in look.held_out if look.id in judge.looks]
        if not unseen:
            yield {"left_out": "no look has both a paraphrase that was held out and a teacher here"}, True, {}
            return
        session, width = self.session, self.config.size[0]

        def paint(weights: dict[str, float]) -> list[np.ndarray]:
            session.set_look({look: w for look, w in weights.items() if self.model.accepts(look)} or {IDENTITY: 1.0})
            result = []
            for frame in frames:
                session.reset()
                padded = np.pad(
                    frame, ((0, self.config.size[1] - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), "edge"
                )
                for _ in range(prompts.PAINTED):
                    out = session.step(padded)
                result.append(out[: frame.shape[0], : frame.shape[1]])
            return result

        found = prompts.measure_prompts(judge, paint, lambda text: self.model.prompts.match(text).weights, unseen)
        found["looks_not_judged"] = sorted(self.teachers.skipped)
        yield found, True, {}

    def _prompt_frames(self) -> list[np.ndarray]:
        """A few frames, each from another clip or another place; sides cropped to multiples of 8."""
        height, width = (side - side % 8 for side in self.config.size[::-1])
        count = len(self.clips)
        result = []
        for k in range(PROMPT_FRAMES):
            clip = self.clips[k * count // PROMPT_FRAMES % count]
            place = len(clip.frames) * (2 * k + 1) // (2 * PROMPT_FRAMES)
            result.append(np.ascontiguousarray(clip.frames[place][:height, :width]))
        return result


def serve(connection: Connection, spec: Spec) -> None:
    """A process's life: tasks come over the connection, messages go back, None ends it.

    Messages are ("ready", None) once, then ("result", handle's tuple); ("failed", error) where the
    process cannot start.
    """
    try:
        worker = Worker(spec)
    except MirageError as error:
        connection.send(("failed", error))
        return
    connection.send(("ready", None))
    while (task := connection.recv()) is not None:
        for message in worker.handle(task):
            connection.send(("result", message))


def save_clips(clips: list[Clip], folder: Path) -> tuple[tuple[str, str, str], ...]:
    """Lay the decoded frames down once for all processes: (name, note, file) each."""
    entries = []
    for number, clip in enumerate(clips):
        file = folder / f"{number}.npy"
        np.save(file, clip.frames)
        entries.append((clip.name, clip.note, str(file)))
    return tuple(entries)
