"""The families of models: a model folder's ``kind`` -> the room that knows it, imported when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

import torch

from mirage_cli.errors import ModelError
from mirage_cli.models import catalog
from mirage_cli.stream.model import Model, PromptReader
from mirage_cli.stream.placement import choose_device

# To add a family: a room mirage_cli/NAME/ with a module that has the functions of ``Family``, a row here, a row in
# tests/test_imports.py, and in each model's config.json "kind": "NAME". Neither another family nor anything that
# steps a stream needs to change.
FAMILIES = {"lsd": "mirage_cli.lsd.family"}


class Family(Protocol):
    """What a family's module has."""

    def open_model(self, name: str, folder: Path, device: torch.device, dtype: str) -> Model:
        """Load the weights of a model folder.

        Args:
            name: as the user calls it.
            dtype: "auto", "fp32", "fp16" or "bf16".

        Raises:
            ModelError: damaged or foreign files; GpuError: out of memory; UsageProblem: ``dtype``.
        """
        ...

    def look_names(self, folder: Path) -> list[str]:
        """``Model.looks`` of a model folder, without its weights.

        Raises:
            ModelError: its files are not what they should be.
        """
        ...

    def open_prompts(self, folder: Path) -> PromptReader:
        """The reader of prompts of a model folder, without its weights.

        Raises:
            ModelError: a file is missing or damaged.
        """
        ...


def open_model(name_or_path: str | Path = catalog.DEFAULT_MODEL, device: str = "auto", dtype: str = "auto") -> Model:
    """Load a model of the catalogue, or of a folder of one's own.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N"; dtype: "auto", "fp32", "fp16" or "bf16".

    Raises:
        ModelError: no such model, damaged or foreign files; GpuError, UsageProblem: device or dtype.
    """
    folder = catalog.model_dir(name_or_path)
    place = choose_device(device)
    return _family(folder).open_model(Path(name_or_path).name, folder, place, dtype)


def look_names(name_or_path: str | Path = catalog.DEFAULT_MODEL) -> list[str]:
    """The looks of a model, without its weights; empty where it takes any text.

    Raises:
        ModelError: no such model, or damaged files.
    """
    folder = catalog.model_dir(name_or_path)
    return _family(folder).look_names(folder)


def open_prompts(name_or_path: str | Path = catalog.DEFAULT_MODEL) -> PromptReader:
    """The reader of prompts of a model, without its weights.

    Raises:
        ModelError: no such model, or a file is missing or damaged.
    """
    folder = catalog.model_dir(name_or_path)
    return _family(folder).open_prompts(folder)


def _family(folder: Path) -> Family:
    kind = catalog.read_kind(folder)
    if kind not in FAMILIES:
        raise ModelError(
            f"{folder / catalog.CONFIG} is of kind {kind!r}; allowed: {', '.join(map(repr, FAMILIES))}",
            "mirage models lists what ships; a newer mirage may know it",
        )
    return cast(Family, importlib.import_module(FAMILIES[kind]))
