"""``mirage train --smoke``: the whole of training in miniature, on a CPU in seconds.

Everything is real but small: pictures and a clip are cut from the example clip, filters paint the
targets, and the run has all that a long one has: walks and real video, forcing and damaged histories,
roll-outs, the memory bank, shortcut distillation, the running mean, gradient checkpointing, a pause half
way from which the run must go on as it was, validation, and a model's folder that is loaded and styles
frames. The feature loss is left out: its network belongs to the training data.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist

from mirage_cli.errors import Interrupted, ModelError, UsageProblem
from mirage_cli.inputs.landscape import TestPicture
from mirage_cli.models import catalog
from mirage_cli.stream.families import open_model
from mirage_cli.stream.session import Session
from mirage_cli.training.checks import check_config, make_run_folder
from mirage_cli.training.config import TrainConfig, load_config
from mirage_cli.training.data import EXAMPLE_CLIP
from mirage_cli.training.loop import Trainer, export
from mirage_cli.training.processes import device_kind, join_processes
from mirage_cli.training.progress import Say, Stopping, Tick, unstopped
from mirage_cli.training.validate import validate

LOOKS = ("thermal", "film-noir", "comic-halftone", "identity")  # the third has dots that stay on the screen
PHRASES = 24  # of each look's paraphrases, so that the prompts' classifier is fitted in a second or two
SIZE = (160, 96)  # width, height of the pictures
FRAMES, PHOTOS, CLIP = 96, 8, 10  # frames of the source; stills taken from them; frames of the clip
STEPS, SHOWN = 48, 6  # steps of the run; frames that the finished model styles
FALL = 0.85  # the loss of the last steps must be below this much of the first ones'
MARK = "smoke.json"
OWN = (MARK, "data", "model", "run.json", "*.safetensors", "*.part", "log.*.jsonl", "sheet*.jpg", "validation*.json")
"""What a smoke run leaves in its folder, and the next one may take away."""

SETTINGS = (
    "device=cpu",
    "compile=false",
    "minutes=0",
    f"max_steps={STEPS}",
    "log_every=1",
    "streams=12",
    "size=64",
    "banks=[[96,128,0.6],[80,112,0.4]]",
    "film=4",
    "game_each=0",
    f"clips=[1,0,{CLIP}]",
    "clip_share=0.2",
    "learning_rate=0.003",
    "warmup_steps=4",
    "mean_decay=0.9",
    "distil_every=4",
    "checkpointing=true",
    "stream.mean_frames=12",
    "stream.long_share=0.3",
    "loss.features=0",
    "loss.texture=0.1",
    "loss.distil=0.2",
    "loss.temporal=0.2",
    "loss.settle=0.2",
    'network={"widths":[24,32,64],"encoder_blocks":[1,1],"middle_blocks":2,"decoder_blocks":[1,1],"memory_slots":4}',
)


def make_data(folder: Path) -> str:
    """Photos, a film of one shot, and looks, in the layout of a data folder; says where the pictures are from."""
    frames, origin = _frames()
    rows = [("file", "kind", "split", "ship_ok")]
    (folder / "photos").mkdir(parents=True)
    for number, frame in enumerate(frames[:: len(frames) // PHOTOS][:PHOTOS]):
        name = f"photos/{number}.png"
        cv2.imwrite(str(folder / name), frame)
        rows.append((name, "photo", "val" if number % 4 == 3 else "train", "yes"))
    (folder / "film").mkdir()
    writer = cv2.VideoWriter(str(folder / "film" / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, SIZE)
    for frame in frames[: 2 * CLIP]:
        writer.write(frame)
    writer.release()
    (folder / "film" / "shots.csv").write_text(f"start_frame,end_frame\n0,{2 * CLIP - 1}\n")
    rows.append(("film/film.mp4", "film", "train", "yes"))
    with (folder / "MANIFEST.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    document = json.loads((catalog.model_dir() / catalog.LOOKS).read_text(encoding="utf-8"))
    looks = {look["id"]: {**look, "train": look["train"][:PHRASES]} for look in document["looks"]}
    document["looks"] = [looks[look] for look in LOOKS]
    (folder / catalog.LOOKS).write_text(json.dumps(document), encoding="utf-8")
    return origin


def _frames() -> tuple[list[np.ndarray], str]:
    """BGR uint8 [H, W, 3] of the example clip, where there is a clone, else of the moving test picture."""
    capture, frames = cv2.VideoCapture(str(EXAMPLE_CLIP)), list[np.ndarray]()
    while len(frames) < FRAMES and (found := capture.read())[0]:
        frames.append(cv2.resize(found[1], SIZE, interpolation=cv2.INTER_AREA))
    capture.release()
    if len(frames) == FRAMES:
        return frames, EXAMPLE_CLIP.name
    moving = TestPicture(*SIZE, paced=False, frames=FRAMES)
    return [cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR) for frame in moving], "the moving test picture"


def run(overrides: list[str], say: Say, tick: Tick | None = None, stopping: Stopping = unstopped) -> dict:
    """Do it all; several processes of torchrun share the run.

    Args:
        overrides: ``key=value`` of the recipe; ``run=FOLDER`` keeps the run, else nothing is left behind.
        say, tick, stopping: as for ``loop.main``.

    Returns:
        What was done, with what was measured of each part.

    Raises:
        ModelError: the loss did not fall, the run did not go on as it was, or the model makes no pictures.
        UsageProblem: the folder holds something else; Interrupted: a signal came.
    """
    began, threads = time.perf_counter(), torch.get_num_threads()
    rank, world = join_processes(device_kind(load_config(None, [*SETTINGS, *overrides])))
    with ExitStack() as stack:
        torch.set_num_threads(1)  # so small a network is faster on one thread than on several
        stack.callback(torch.set_num_threads, threads)
        kept = next((item[4:] for item in reversed(overrides) if item.startswith("run=")), None)
        folder = Path(kept) if kept else None
        if folder is None and rank == 0:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mirage-smoke-")))
        folder = _shared(folder, world)
        origin = _prepare(folder, kept is not None) if rank == 0 else ""
        _shared(None, world)  # the others wait for the data
        config = load_config(
            None,
            [
                *SETTINGS,
                f"data={folder / 'data'}",
                f"looks_file={folder / 'data' / catalog.LOOKS}",
                *(item for item in overrides if not item.startswith("run=")),
                f"run={folder}",
            ],
        )
        check_config(config)
        document = _train(config, origin, say, tick, stopping)
        if rank == 0:
            document |= {"processes": world, "kept": kept is not None, **_use(config, Path(document["model_folder"]))}
        _shared(None, world)  # nobody takes the folder away while another still reads it
        if world > 1:
            dist.destroy_process_group()
    if rank == 0:
        document["seconds"] = round(time.perf_counter() - began, 1)
    return document


def _shared(value: Any, world: int) -> Any:
    """The first process's value, in all of them; also a place to wait for each other."""
    if world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def _prepare(folder: Path, named: bool) -> str:
    """Data in a folder that is empty or left by a smoke before."""
    found = list(folder.iterdir()) if named and folder.is_dir() else []
    other = [path.name for path in found if not any(fnmatch(path.name, own) for own in OWN)]
    if other or (found and not (folder / MARK).is_file()):
        raise UsageProblem(
            f"run={folder} holds something else than a smoke run: {(other or [found[0].name])[0]}",
            "give a new folder, or omit run=",
        )
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    make_run_folder(folder)
    (folder / MARK).write_text("{}")
    return make_data(folder / "data")


def _train(config: TrainConfig, origin: str, say: Say, tick: Tick | None, stopping: Stopping) -> dict:
    """Half the run, a new trainer that takes it up, the other half; validation and the model's folder."""
    rank = join_processes(config.device)[0]
    speak = say if rank == 0 else lambda line: None
    half, begun = config.max_steps // 2, time.perf_counter()
    with stopping() as asked:
        first = Trainer(config, speak)
        ready = time.perf_counter()
        if first.train(half, asked, tick) or first.progress.step < half:
            raise Interrupted("interrupted: the smoke run was not finished")
        writes, ages = int(first.pool.writes.sum()), int(first.pool.age.max())
        second = Trainer(config, speak)
        same = second.same_streams and all(
            torch.equal(a, b) for a, b in zip(first.net.state_dict().values(), second.net.state_dict().values())
        )
        if not same:
            raise ModelError(
                f"the run did not go on as it was at step {half}", "please report it, with mirage doctor's findings"
            )
        if not second.train(stop=asked, tick=tick):
            raise Interrupted("interrupted: the smoke run was not finished")
    trained = time.perf_counter()
    validation = validate(second, period=12, returns=1)
    if rank:
        return {}
    lines = [json.loads(line) for line in (second.run / "log.0.jsonl").read_text().splitlines()]
    falls, sixth = {}, max(1, len(lines) // 6)
    for name in ("loss", "l1"):
        values = [line[name] for line in lines]
        falls[name] = [round(float(np.mean(part)), 4) for part in (values[:sixth], values[-sixth:])]
    if not falls["loss"][1] < FALL * falls["loss"][0]:
        raise ModelError(
            f"the loss did not fall: {falls['loss'][0]} at first, {falls['loss'][1]} at the end",
            "run=FOLDER keeps the log (log.0.jsonl); mirage doctor says what is installed",
        )
    record = export(second, "It comes from a smoke run: it shows that training works, and is not a model to use.")
    if "model_folder" not in record:
        raise ModelError("the run made no model folder", "please report it, with mirage doctor's findings")
    images = [line["images_per_second"] for line in lines if line["images_per_second"]]
    return {
        "command": "train --smoke",
        "pictures": origin,
        "looks": list(second.net.config.looks),
        "steps": config.max_steps,
        "parameters": sum(p.numel() for p in second.net.parameters()),
        "mixed_precision": second.mixed,
        "first_and_last_sixth": falls,
        "images_per_second": round(float(np.median(images)), 1) if images else 0.0,
        "teacher_seconds": round(ready - begun, 1),
        "train_seconds": round(trained - ready, 1),
        "parts": {
            "distillation steps": sum("distil" in line for line in lines),
            "memory writes at the pause": writes,
            "longest roll-out at the pause": ages,
            "streams on real video": second.pool.sizes[-1] if any(config.clips[:2]) else 0,
            "gradient checkpointing": second.net.recompute,
            "resumed at step": half,
        },
        "validation_l1": round(validation["mean"]["first_round"], 4),
        "run": str(second.run),
        "model_folder": record["model_folder"],
        "prompt": record["prompt"],
    }


def _use(config: TrainConfig, folder: Path) -> dict:
    """Load the folder as ``mirage transform`` would and style a few frames."""
    model = open_model(catalog.verify(folder), device=config.device)
    session = Session(model, width=SIZE[0], height=SIZE[1])
    match = model.prompts.match("film noir")
    session.set_look(match.weights)
    frames = [cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in _frames()[0][:SHOWN]]
    shown = [session.step(frame) for frame in frames]
    change = float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(shown, frames)]))
    if not 1 < change < 128 or shown[-1].std() < 4:
        raise ModelError(f"the trained model makes no pictures (mean change {change:.1f} levels)", "please report it")
    return {
        "styled": {"prompt": "film noir", "look": match.look, "frames": SHOWN, "mean_change_levels": round(change, 1)}
    }


def summary(document: dict[str, Any]) -> list[str]:
    """What was done, in lines."""
    parts, falls = document["parts"], document["first_and_last_sixth"]
    styled, count = document["styled"], document["processes"]
    try_it = f'mirage transform examples/bunny.mp4 --model {document["model_folder"]} --prompt "{document["prompt"]}"'
    facts = [
        ("data", f"{PHOTOS} pictures and a clip of {document['pictures']}"),
        ("teachers", f"{', '.join(document['looks'])}: painted in {document['teacher_seconds']} s"),
        (
            "training",
            f"{document['steps']} steps of {document['parameters'] / 1e3:.0f} k parameters in "
            f"{document['train_seconds']} s, {document['images_per_second']:g} images/s, "
            f"{'bf16' if document['mixed_precision'] else 'fp32'}, {count} process{'es' if count > 1 else ''}",
        ),
        *((name, f"{first:g} at first, {last:g} at the end") for name, (first, last) in falls.items()),
        *(
            ("" if i else "parts", f"{name}: {'on' if value is True else value}")
            for i, (name, value) in enumerate(parts.items())
        ),
        ("validation", f"L1 to the teacher {document['validation_l1']:g} on pictures that were not trained on"),
        (
            "the model",
            f"styled {styled['frames']} frames as {styled['look']}, {styled['mean_change_levels']:g} levels of 255 "
            "from the input",
        ),
        (
            "done",
            f"in {document['seconds']} s; "
            + (try_it if document["kept"] else "run=FOLDER keeps the run and its model"),
        ),
    ]
    return [f"{name:12}{text}" for name, text in facts]
