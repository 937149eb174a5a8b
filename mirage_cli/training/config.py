"""A training run is one TOML file; every key has a default and ``key=value`` overrides."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mirage_cli.errors import UsageProblem
from mirage_cli.training.forcing import ForcingConfig
from mirage_cli.training.losses import LossConfig
from mirage_cli.training.streams import StreamConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class TrainConfig:
    """One run.

    Attributes:
        data: the data folder; run: where checkpoints and the log go; looks_file: names of the looks.
        minutes: wall clock of the training proper; the learning rate follows it down. 0: only
            ``max_steps`` ends the run, which then gives the same numbers each time.
        max_steps: end after this many steps, whatever the clock says.
        streams: streams a process, over all banks; size: side of their frames.
        banks: (height, width, share of the streams) of each picture bank.
        film, game_each: stills taken from the film and from each game clip; max_stills: 0 for all.
        clips: (film, each game clip, frames) of the real clips; clip_share: streams they feed, as a share.
        distil_every: steps between two steps with shortcut distillation (loss.distil), on distil_share of
            the streams.
        settle_share: streams whose frame is painted again without a past each step (loss.settle), as a share.
        shippable_only: train on media that may be shipped, so that the weights may.
        prefer_filters: looks painted by filters though a neural teacher knows them too.
        widths ... middle_blocks: the network, see LSDConfig; empty means its default.
        keep_bias: added to the keep mask's logit in the saved weights: how much steadier than trained.
        compile: use torch.compile on the denoiser (CUDA only).
        mixed_precision: bf16 where the device multiplies it; weights and their moments stay fp32.
        checkpointing: compute residual blocks again in the backward pass instead of keeping what is inside
            them: less memory, about a third more time (gradient checkpointing).
        tensorboard: folder for TensorBoard's event files; empty writes none.
        init: a safetensors file to start the weights from.
    """

    data: str = "data"
    run: str = "runs/lsd-small"
    looks_file: str = "models/lsd-small/looks.json"
    minutes: float = 10.0
    max_steps: int = 10**9
    streams: int = 128
    size: int = 256
    banks: tuple[tuple[int, int, float], ...] = ((512, 704, 0.6), (376, 520, 0.4))
    film: int = 80
    game_each: int = 5
    max_stills: int = 0
    clips: tuple[int, int, int] = (0, 0, 12)
    clip_share: float = 0.15
    distil_every: int = 8
    distil_share: float = 0.25
    settle_share: float = 0.3
    shippable_only: bool = True
    prefer_filters: tuple[str, ...] = ()
    learning_rate: float = 5e-4
    warmup_steps: int = 300
    mean_decay: float = 0.999
    seed: int = 21
    keep_bias: float = 0.0
    device: str = "auto"
    compile: bool = True
    mixed_precision: bool = True
    checkpointing: bool = False
    tensorboard: str = ""
    network: dict = field(default_factory=dict)
    init: str = ""
    save_minutes: float = 1.0
    log_every: int = 100
    validate: bool = True
    stream: StreamConfig = field(default_factory=StreamConfig)
    forcing: ForcingConfig = field(default_factory=ForcingConfig)
    loss: LossConfig = field(default_factory=LossConfig)


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
    dict: "a table",
}


def _of_kind(value: object, present: object) -> bool:
    """Is a value of TOML or JSON of the same kind as the default?"""
    kind = type(present)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    return isinstance(value, list) if kind is tuple else type(value) is kind


def _build(kind: type, data: dict, where: str) -> Any:
    """A config of dataclass ``kind`` with the entries of ``data``; the rest are defaults."""
    names = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(data) - set(names)):
        raise UsageProblem(f"{where}: unknown keys {unknown}", f"known are {sorted(names)}")
    default, values = kind(), {}
    for name, value in data.items():
        present = getattr(default, name)
        if hasattr(present, "__dataclass_fields__"):
            if not isinstance(value, dict):
                raise UsageProblem(f"{where}: {name} is {value!r}; it must be a table", f"as in: {name}.KEY=VALUE")
            value = _build(type(present), value, f"{where}.{name}")
        elif not _of_kind(value, present):
            raise UsageProblem(
                f"{where}: {name} is {value!r}; it must be {_WORDS[type(present)]}",
                f"its default: {name} = {json.dumps(present)}",
            )
        elif isinstance(present, tuple):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        elif isinstance(present, float) and isinstance(value, int):
            value = float(value)
        values[name] = value
    return replace(default, **values)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a run's TOML file and apply ``key=value`` or ``section.key=value`` overrides (JSON values).

    Raises:
        UsageProblem: no such file, no TOML, unknown keys, malformed overrides.
    """
    data: dict = {}
    if path is not None:
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageProblem(
                f"cannot read training config {path}: {error}", "see models/lsd-small/train.toml"
            ) from error
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise UsageProblem(f"override {override!r} is not key=value", "as in: minutes=5")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        section = data
        *parents, last = key.strip().split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise UsageProblem(f"override {override!r}: {parent} is not a section", "as in: stream.mean_frames=40")
        section[last] = value
    return _build(TrainConfig, data, str(path or "overrides"))
