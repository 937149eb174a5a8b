"""A run's settings before it starts: what would fail only after the data are loaded, and its learning rate."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.lsd.checkpoint import check_numbers
from mirage_cli.lsd.model import FRAME_MULTIPLE, LSDConfig, LSDNet
from mirage_cli.stream.placement import choose_device
from mirage_cli.training.config import TrainConfig
from mirage_cli.training.progress import Progress, check_tensorboard

MANY_STEPS = 10**9  # a config's max_steps from here on means no limit


def done_share(progress: Progress, config: TrainConfig) -> float:
    """How much of the run is over, by its clock or its steps, whichever is further: 0 to 1."""
    by_time = progress.seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, max(by_time, progress.step / config.max_steps))


def learning_rate(step: int, share: float, config: TrainConfig) -> float:
    """Linear warm-up in steps, then a cosine down to 2% over the run (share done, 0 to 1)."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def look_names(config: TrainConfig) -> tuple[str, ...]:
    """Ids of the looks to train, in the looks file's order; UsageProblem if it cannot be read as one."""
    path = Path(config.looks_file)
    if not path.is_file():
        raise UsageProblem(f"no looks file at {path}", "run from the project's folder or set looks_file")
    try:
        return tuple(look["id"] for look in json.loads(path.read_text(encoding="utf-8"))["looks"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageProblem(
            f"{path} is not a looks file: {type(error).__name__}: {error}", "see models/lsd-small/looks.json"
        ) from error


def new_network(looks: tuple[str, ...], config: TrainConfig) -> LSDNet:
    """A network of the config's sizes; UsageProblem where they do not go together."""
    try:
        sizes = LSDConfig.from_dict({"looks": looks, **config.network})
        check_numbers(sizes)
        return LSDNet(sizes)
    except (ValueError, TypeError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise UsageProblem(
            f"network={config.network} is not a network: {error}".splitlines()[0],
            "mirage_cli/lsd/model.py explains the sizes",
        ) from error


def make_run_folder(folder: Path) -> None:
    """Make a run's folder where it is not there; MediaError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise MediaError(f"the folder run={folder} cannot be made: {reason}", "give another one: run=DIR") from error


def check_config(config: TrainConfig) -> None:
    """What would fail only after the data are loaded.

    Raises:
        UsageProblem: no looks, no end, impossible sizes, TensorBoard without its package.
        MediaError: no folder for the run.
        GpuError: a GPU is asked for and there is none.
    """
    new_network(look_names(config), config)
    if config.device not in ("auto", "cpu", "cuda"):
        raise UsageProblem(
            f"device={config.device}; it must be auto, cpu or cuda", "CUDA_VISIBLE_DEVICES=1 chooses a GPU"
        )
    choose_device(config.device)
    if config.size % FRAME_MULTIPLE or config.size <= 0:
        raise UsageProblem(f"size={config.size}; it must be a multiple of {FRAME_MULTIPLE}", "as in: size=256")
    if not config.banks or any(len(bank) != 3 or bank[0] % 8 or bank[1] % 8 or min(bank) <= 0 for bank in config.banks):
        raise UsageProblem(
            f"banks={json.dumps(config.banks)}; each is [height, width, share], sides multiples of 8",
            "as in: banks=[[512,704,1.0]]",
        )
    if len(config.clips) != 3 or min(config.clips) < 0 or any(config.clips[:2]) and config.clips[2] < 2:
        raise UsageProblem(
            f"clips={json.dumps(config.clips)}; it is [of the film, of each game, frames of a clip], at least 2 frames",
            "as in: clips=[40,2,12]",
        )
    for name in ("streams", "max_steps", "warmup_steps", "log_every", "distil_every"):
        if getattr(config, name) < 1:
            raise UsageProblem(f"{name}={getattr(config, name)}; it must be 1 at least", f"as in: {name}=4")
    if not config.minutes and config.max_steps >= MANY_STEPS:
        raise UsageProblem("minutes is 0 and max_steps is not set: the run would never end", "as in: minutes=10")
    if config.tensorboard:
        check_tensorboard()
    make_run_folder(Path(config.run))
