"""``mirage eval``: plan the tasks, deal them out over processes and devices, keep what comes back.

The document is whole at any time: after every message it is brought up to date and, where a file is asked
for, written, so that a crash or the end of the time leaves what was measured.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from mirage_cli import __version__
from mirage_cli.bench.run import weights
from mirage_cli.config import EVAL_PARTS, EvalConfig, EvalSettings
from mirage_cli.errors import MediaError, MirageError, UsageProblem
from mirage_cli.evaluation import report
from mirage_cli.evaluation.clips import load_clips
from mirage_cli.evaluation.drift import ANCHORED
from mirage_cli.evaluation.perceptual import REMEDY, find_weights
from mirage_cli.evaluation.pictures import draw_plot, draw_sheet
from mirage_cli.evaluation.worker import NO_TIME, Spec, Task, Worker, save_clips, serve
from mirage_cli.media.picture_names import SUFFIXES
from mirage_cli.media.place import Place
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.outputs.names import check_target
from mirage_cli.outputs.part_names import write_whole
from mirage_cli.runs.machine import commit, hardware, versions
from mirage_cli.stream.families import look_names
from mirage_cli.stream.placement import choose_device

CPU_LOOKS = ("oil-painting", "ink-wash", "mosaic", "neon-cyberpunk")
FEWEST_FRAMES = ANCHORED + 3 * 16
SAVE_SECONDS = 2.0
JOBS_A_GPU = 4

COUNTED = {"drift": ("frames", "frames_asked"), "fidelity": ("returns", "returns_asked")}  # part -> measured, wanted

Say = Callable[[str], None]


def run(asked: EvalConfig, note: Say = lambda text: None, warn: Say = lambda text: None) -> dict[str, Any]:
    """Measure, and return the document of ``--json``.

    Args:
        asked: what is asked for; numbers left open are chosen by the machine.
        note, warn: get lines about progress, and about what is left out.

    Raises:
        UsageProblem: an unknown look or part, or a number out of range.
        MirageError: clips, model or device that cannot be had.
    """
    begun = time.monotonic()
    check_files(asked)
    deadline = begun + asked.budget_seconds if asked.budget_seconds else float("inf")
    device = choose_device(asked.model.device)
    known = look_names(asked.model.model)
    config = fill_in(asked, known, device.type == "cuda")
    find_weights(config.lpips)  # an error now rather than later
    note(f"reading {config.clips or 'the example clip'}")
    clips = load_clips(config.clips, config.size)
    tasks = plan(config, len(clips))
    document: dict[str, Any] = {
        "command": "eval",
        "mirage": __version__,
        "commit": commit(),
        "hardware": hardware(on_gpu=device.type == "cuda"),
        "versions": versions(),
        "weights": weights(config.model.model),
        "settings": {**asdict(config), "model": asdict(config.model)},
        "clips": [{"name": c.name, "frames": len(c.frames), "note": c.note} for c in clips],
        "looks": {look: {} for look in config.looks},
        "left_out": [],
        "complete": False,
    }
    if find_weights(config.lpips) is None:
        document["left_out"].append({"part": "perceptual distances", "why": f"no weights: {REMEDY}"})
    with tempfile.TemporaryDirectory(prefix="mirage-eval-") as folder:
        specs = specs_of(config, save_clips(clips, Path(folder)), device, deadline)
        note(
            f"{len(tasks)} measurements of {len(config.looks)} looks on {len(clips)} clip(s), "
            f"{config.size[0]}x{config.size[1]}, {len(specs)} process(es) on {specs[0].device}"
        )
        keeper = Keeper(document, config, tasks, begun, note, warn)
        try:
            messages = in_processes(specs, tasks) if len(specs) > 1 else in_this_process(specs[0], tasks)
            for message in messages:
                keeper.take(*message)
        except KeyboardInterrupt:
            document["interrupted"] = True
            warn("interrupted; what was measured is kept")
        finally:
            keeper.finish()
    return document


def check_files(config: EvalConfig) -> None:
    """Refuse, before anything is measured, files that cannot be written or must not be replaced.

    Raises:
        UsageProblem: a name with another kind's suffix, so that a document cannot replace a video.
        MediaError: no such folder; no training data in ``data``.
    """
    for option, path, endings in (
        ("-o", config.output, (".json",)),
        ("--sheet", config.sheet, SUFFIXES),
        ("--plot", config.plot, SUFFIXES),
    ):
        if path is None:
            continue
        if Path(path).suffix.lower() not in endings:
            allowed = f"allowed: a name that ends with {', '.join(endings)}"
            raise UsageProblem(f"{option} {path!r}; {allowed}", f"As in: {option} eval{endings[0]}")
        check_target(Place.of_output(path), config.clips, lambda: True)
    if config.data is not None and not (Path(config.data) / "MANIFEST.csv").is_file():
        raise MediaError(
            f"no training data: {Path(config.data) / 'MANIFEST.csv'} is missing", "give the data folder: --data DIR"
        )


def fill_in(config: EvalConfig, known: list[str], gpu: bool) -> EvalSettings:
    """The configuration with every open number decided, and checked."""
    if not config.parts:
        raise UsageProblem("no part is named", f"allowed: {', '.join(EVAL_PARTS)}; omit --parts for all")
    painted = [look for look in known if look != IDENTITY]
    looks = config.looks or (("all",) if gpu else tuple(x for x in CPU_LOOKS if x in painted) or tuple(painted[:4]))
    if looks == ("all",):
        looks = tuple(painted)
    if unknown := [look for look in looks if look not in painted]:
        raise UsageProblem(f"no look {unknown[0]!r} in {config.model.model}", "mirage models lists the looks")
    if unknown := [part for part in config.parts if part not in EVAL_PARTS]:
        raise UsageProblem(f"no part {unknown[0]!r}; allowed: {', '.join(EVAL_PARTS)}", "omit --parts for all")
    frames = config.frames or (10_000 if gpu else 300)
    if frames < FEWEST_FRAMES:
        raise UsageProblem(
            f"{frames} frames are too few to show drift; allowed: {FEWEST_FRAMES} and more", "Try --frames 300."
        )
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count() if gpu else 0
    if config.model.device.startswith("cuda:"):
        gpus = 1
    decided = dict(
        looks=looks,
        parts=tuple(part for part in EVAL_PARTS if part in config.parts),
        frames=frames,
        size=config.size or ((512, 288) if gpu else (256, 144)),
        returns=config.returns or (20 if gpu else 2),
        stills=config.stills or (4 if gpu else 1),
        jobs=config.jobs or (max(1, min(JOBS_A_GPU * gpus, cores, len(looks))) if gpu else 1),
    )
    return EvalSettings(**{**vars(config), **decided})


def plan(config: EvalSettings, clips: int) -> list[Task]:
    """The tasks, longest first; looks are dealt out over the clips in turn."""
    tasks = [Task("prompts")] if "prompts" in config.parts else []
    for part in ("drift", "temporal", "fidelity", "steps"):
        if part not in config.parts:
            continue
        for number, look in enumerate(config.looks):
            several = min(config.clips_per_look, clips) if part == "drift" else 1
            tasks += [Task(part, look, (number * several + k) % clips) for k in range(several)]
    return tasks


def specs_of(config: EvalSettings, clips: tuple, device: torch.device, deadline: float) -> list[Spec]:
    """One for each process: GPUs in turn, processor threads shared evenly."""
    if device.type == "cpu":
        devices = ["cpu"]
    elif device.index is not None:
        devices = [str(device)]
    else:
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    threads = max(1, (os.cpu_count() or 1) // config.jobs)
    if config.jobs == 1:
        threads = torch.get_num_threads()
    return [Spec(config, clips, devices[i % len(devices)], threads, deadline) for i in range(config.jobs)]


Message = tuple[Task, dict, bool, dict]


def in_this_process(spec: Spec, tasks: list[Task]) -> Iterator[Message]:
    """The tasks one after another."""
    worker = Worker(spec)
    for task in tasks:
        for found in worker.handle(task):
            yield task, *found


def in_processes(specs: list[Spec], tasks: list[Task]) -> Iterator[Message]:
    """The tasks over processes; one that dies loses its task and no more.

    Raises:
        MirageError: from a process that could not start, where none could.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    waiting = deque(tasks)
    doing: dict[Connection, Task] = {}
    processes: dict[Connection, BaseProcess] = {}
    for spec in specs:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, spec), daemon=True)
        process.start()
        theirs.close()
        processes[ours] = process
    refused: MirageError | None = None

    def give(connection: Connection) -> None:
        doing.pop(connection, None)
        task = waiting.popleft() if waiting else None
        connection.send(task)
        if task is None:
            del processes[connection]
        else:
            doing[connection] = task

    try:
        while processes:
            for connection in wait(list(processes)):
                assert isinstance(connection, Connection)
                try:
                    kind, content = connection.recv()
                    if kind == "ready":
                        give(connection)
                    elif kind == "failed":
                        refused = content
                        del processes[connection]
                    else:
                        yield doing[connection], *content
                        if content[1]:
                            give(connection)
                except (EOFError, OSError):  # killed, for memory say
                    processes.pop(connection).join(5)
                    if connection in doing:
                        yield doing.pop(connection), {"failed": "its process died"}, True, {}
        if refused is not None and waiting:
            raise refused
        for task in waiting:
            yield task, {"failed": "no process was left"}, True, {}
    finally:
        for left in processes.values():
            left.terminate()


def not_finite(found: Any, name: str = "") -> str | None:
    """The name of a number in a document that is NaN or infinite; None where all are finite."""
    if isinstance(found, dict):
        return next((bad for key, value in found.items() if (bad := not_finite(value, key))), None)
    if isinstance(found, (list, tuple)):
        return next((bad for value in found if (bad := not_finite(value, name))), None)
    return name if isinstance(found, float) and not math.isfinite(found) else None


class Keeper:
    """Puts what comes back into the document, and the document into its file."""

    def __init__(
        self, document: dict, config: EvalSettings, tasks: list[Task], begun: float, note: Say, warn: Say
    ) -> None:
        self.document, self.config, self.tasks, self.begun = document, config, tasks, begun
        self.note, self.warn = note, warn
        self.done: set[Task] = set()
        self.pictures: dict[str, dict] = {}
        self.wanting = False  # something was begun and not measured to its end
        self._saved = 0.0

    def take(self, task: Task, found: dict, complete: bool, pictures: dict) -> None:
        """One message of a task: a document so far, or its last one."""
        if pictures and task.look not in self.pictures:
            self.pictures[task.look] = pictures
        if number := not_finite(found):  # a mean or a maximum would hide it, or be spoilt by it
            if not complete:
                return
            found = {"failed": f"{number} is not finite"}
        reason = found.get("left_out") or found.get("failed")
        if reason:
            self._leave_out(task, reason, wanting="failed" in found or reason == NO_TIME)
            if "failed" in found:
                self.document["failed"] = self.document.get("failed", 0) + 1
                self.warn(f"{task.words()} failed: {reason}")
        elif task.part == "drift":
            runs = self.document["looks"][task.look].setdefault("drift", [])
            runs[:] = [run for run in runs if run["clip"] != found["clip"]] + [found]
        elif task.part == "prompts":
            self.document["prompts"] = found
        else:
            self.document["looks"][task.look][task.part] = found
        if complete and task.part in COUNTED and not reason:
            count, asked = (found[name] for name in COUNTED[task.part])
            if count < asked:
                self._leave_out(task, f"only {count} of {asked} {COUNTED[task.part][0]}: {NO_TIME}", wanting=True)
        if complete:
            self.done.add(task)
            if not reason:
                self.note(f"{len(self.done)}/{len(self.tasks)} {task.words()}: {report.in_short(task.part, found)}")
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def _leave_out(self, task: Task, why: str, wanting: bool) -> None:
        self.document["left_out"].append({"part": task.part, "look": task.look, "why": why})
        self.wanting |= wanting

    def finish(self) -> None:
        """Name what was not reached, write everything."""
        for task in self.tasks:
            if task not in self.done:
                self._leave_out(task, "not reached", wanting=True)
        self.document["complete"] = not self.wanting and "interrupted" not in self.document
        self.save()
        if self.config.sheet and self.pictures:
            draw_sheet(self.config.sheet, self.pictures)
        if self.config.plot:
            draw_plot(self.config.plot, self.document["looks"])

    def save(self) -> None:
        """Bring the summary up to date and write the file, in one move."""
        self.document["seconds"] = round(time.monotonic() - self.begun, 1)
        self.document |= report.summary(self.document)
        self._saved = time.monotonic()
        if self.config.output:
            write_whole(Path(self.config.output), json.dumps(self.document, indent=1).encode("utf-8"))
