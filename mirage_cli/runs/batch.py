"""Many inputs in one run: folders, globs and lists of files, with one report at the end."""

from __future__ import annotations

import glob
import itertools
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirage_cli.config import TransformConfig
from mirage_cli.errors import Interrupted, MediaError, MirageError, UsageProblem
from mirage_cli.frames import Ui
from mirage_cli.media.picture_names import natural
from mirage_cli.media.place import Kind, Place
from mirage_cli.outputs.job_folder import unfinished
from mirage_cli.outputs.open import default_output
from mirage_cli.runs import transform
from mirage_cli.styling.loading import Models
from mirage_cli.styling.stopping import StopSwitch

VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    ]
)
CUT_OFF = re.compile(r"\.cut-off(-\d+)?$")  # at the end of a name without its suffix; see ``_put_aside``


def expand(
    inputs: Sequence[str], looks: Callable[[], Sequence[str]] = tuple, tell: Callable[[str], None] = lambda text: None
) -> list[str]:
    """What the inputs of a command stand for: files, addresses, and folders of pictures.

    A folder gives its videos (not those of folders inside it), a glob its files, both in natural
    order. A folder or a glob of pictures only is one input: a video made of them.

    Args:
        looks: names of the model's looks, asked for where a folder may hold what an earlier run has made.
        tell: gets a sentence about the files of a folder that are left out.

    Raises:
        MediaError: a folder or a glob without any video.
    """
    found: list[str] = []
    for name in inputs:
        place = Place.of_input(name)
        name = place.path
        if place.kind in (Kind.PIPE, Kind.PICTURES) or place.is_address or os.path.isfile(name):
            found.append(name)
        elif os.path.isdir(name):
            found += _videos_in(name, looks, tell)
        elif glob.has_magic(name):
            files = [path for path in glob.glob(name) if os.path.isfile(path)]
            if not files:
                raise MediaError(f"no file is called {name!r}", "Check the folder and the pattern.")
            found += sorted(files, key=natural)
        else:
            found.append(name)  # it is not there, which the run will say
    return list(dict.fromkeys(found))


def is_batch(inputs: Sequence[str], names: Sequence[str]) -> bool:
    """Whether what ``expand`` made of the names is several jobs, or the one video that a folder or a glob holds."""
    if len(inputs) > 1:
        return True
    named = [Place.of_input(name).path for name in names]
    return list(inputs) != named and not os.path.isdir(inputs[0])


def _videos_in(folder: str, looks: Callable[[], Sequence[str]], tell: Callable[[str], None]) -> list[str]:
    names = [item.name for item in os.scandir(folder) if item.is_file()]
    videos = {name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES and name[0] != "."}
    stems = {Path(name).stem for name in videos}
    split_names = {name: CUT_OFF.sub("", Path(name).stem).rpartition(".") for name in videos}
    if doubtful := [name for name, (stem, _, _) in split_names.items() if stem in stems]:
        # clip.ink-wash.mp4 next to clip.mov is what an earlier run has made of it.
        known = set(looks())
        if made := sorted(name for name in doubtful if split_names[name][2] in known):
            tell(f"left out, since an earlier run made them: {', '.join(made)}")
            videos -= set(made)
    if not videos:
        raise MediaError(f"the folder {folder!r} holds no video", "Name a folder with videos in it.")
    return [os.path.join(folder, name) for name in sorted(videos, key=natural)]


def run(
    config: TransformConfig,
    inputs: Sequence[str],
    ui: Ui,
    *,
    models: Models | None = None,
    stop: StopSwitch | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Transform each input; one that fails does not keep the others from being done.

    Args:
        config: what is asked of each; its ``output`` names a folder, or None to write next to the
            inputs.
        inputs: from ``expand``.

    Returns:
        The report: an entry for each input, with its document or its error, and how many were
        done, failed and left as they were (with ``resume``, outputs that are whole already); what is left
        was not begun, or was interrupted.

    Raises:
        UsageProblem: an output that is not a folder, or inputs that cannot be part of a batch.
    """
    models, stop = models or Models(), stop or StopSwitch()
    folder = _folder(config)
    places = [Place.of_input(name) for name in inputs]
    if bad := [place for place in places if place.kind is Kind.PIPE or place.is_address]:
        raise UsageProblem(f"{bad[0].typed!r} cannot be one of several inputs", "Give it alone, with -o.")
    begin = clock()
    models.check_model(config.model)
    look = models.match(config.model, transform.parse_prompts(config.prompts)[0].text).look
    entries: list[dict[str, Any]] = []
    taken: set[str] = set()
    for number, (name, place) in enumerate(zip(inputs, places, strict=True), 1):
        if stop.event.is_set():
            break
        target = _target(place, look, folder, taken)
        entry: dict[str, Any] = {"input": name, "output": target, "status": "done"}
        entries.append(entry)
        if config.resume and os.path.exists(target) and not unfinished(target):
            entry["status"] = "skipped"
            continue
        ui.note(f"[{number}/{len(inputs)}] {name}")
        one = replace(config, input=name, output=target)
        if config.resume and Place.of_output(target).kind is Kind.PICTURES:
            one = replace(one, resume=False)
        try:
            document = transform.run(one, ui, models=models, stop=stop, clock=clock)
            entry["document"] = document
            if document["interrupted"]:
                entry["status"] = "interrupted"
                entry["output"] = _put_aside(target, config.resume)
            for warning in document["warnings"]:
                ui.warn(f"{name}: {warning}")
        except (Interrupted, KeyboardInterrupt):  # before its first frame; the report still lists those before it
            stop.stop("SIGINT")
            entries.pop()
            break
        except MirageError as error:
            entry.update(status="failed", error=error.message, remedy=error.remedy, exit_code=error.exit_code)
            ui.warn(f"{name}: {error.message}")
    counts = {state: sum(entry["status"] == state for entry in entries) for state in ("done", "failed", "skipped")}
    return {
        "command": "transform",
        "batch": entries,
        **counts,
        "left": len(inputs) - sum(counts.values()),
        "seconds": round(clock() - begin, 3),
        "interrupted": stop.event.is_set(),
    }


def _put_aside(target: str, resume: bool) -> str:
    """Move a file that was cut off out of the way: the next ``--resume`` would take it for a whole one.

    Args:
        resume: its segments are kept, so the joined file can go; else it gets a name of its own.

    Returns:
        Where it is now.
    """
    if resume:
        Path(target).unlink(missing_ok=True)
        return target
    path = Path(target)
    for number in itertools.count(1):
        aside = path.with_name(f"{path.stem}.cut-off{'' if number == 1 else f'-{number}'}{path.suffix}")
        if not aside.exists():
            break
    if path.exists():
        path.rename(aside)
    return str(aside)


def exit_code(report: dict[str, Any]) -> int:
    """130 where it was interrupted, 0 where all is done, else the one code of all failures, or 1."""
    if report["interrupted"]:
        return Interrupted.exit_code
    codes = {entry["exit_code"] for entry in report["batch"] if entry["status"] == "failed"}
    return codes.pop() if len(codes) == 1 else int(bool(codes))


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of a table."""
    table = []
    for entry in report["batch"]:
        document = entry.get("document", {})
        table.append(
            {
                "input": entry["input"],
                "status": entry["status"],
                "frames": document.get("frames", ""),
                "frames/s": document.get("fps", ""),
                "output": entry.get("error") or entry["output"],
            }
        )
    return table


def _folder(config: TransformConfig) -> Path | None:
    """Where the outputs go; made where it is not there.

    Raises:
        UsageProblem: a file, or several outputs.
    """
    if config.output is None:
        return None
    if config.more_outputs or not (os.path.isdir(config.output) or config.output.endswith(("/", os.sep))):
        raise UsageProblem(
            f"with several inputs the output is a folder, and {config.output!r} is not one",
            f"Name a folder: -o {Path(config.output).stem or 'out'}/",
        )
    folder = Path(config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise MediaError(
            f"the folder {config.output!r} cannot be made: {problem.strerror}", "Name another one."
        ) from None
    return folder


def _target(place: Place, look: str, folder: Path | None, taken: set[str]) -> str:
    """The output of one input: another one for each of ``a.mov`` and ``a.mp4``, and of files of one name in many
    folders."""
    target = Path(default_output(place, look).path)
    if folder is not None:
        target = folder / target.name
    stem = Path(place.path).name
    for number in itertools.count(1):
        if str(target) not in taken:
            break
        target = target.with_name(f"{stem if number == 1 else f'{stem}-{number}'}.{look}{target.suffix}")
    taken.add(str(target))
    return str(target)
