"""A run's weights as a model's folder, which ``mirage transform --model FOLDER`` takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mirage_cli import __version__
from mirage_cli.lsd.checkpoint import FORMAT
from mirage_cli.models import catalog
from mirage_cli.prompts.encoder import SentenceEncoder
from mirage_cli.prompts.reader import CLASSIFIER_FILE, PromptReader, read_looks
from mirage_cli.training.config import TrainConfig
from mirage_cli.training.text_encoder import fit_looks

RECIPE = "train.toml"
CARD = """# {name}

Written by `mirage train` ({version}) after {step} steps: {parameters:.2f} M parameters, {count} looks
({looks}). `{recipe}` is its recipe.
{note}
"""


def to_toml(config: TrainConfig) -> str:
    """A recipe that ``load_config`` reads back as this config."""

    def lines(table: dict[str, Any], name: str) -> list[str]:
        # JSON's numbers, texts, lists and booleans are TOML's as well
        plain = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
        inner = [
            line
            for key, value in table.items()
            if isinstance(value, dict)
            for line in lines(value, f"{name}.{key}".lstrip("."))
        ]
        return [*([f"\n[{name}]"] if name else []), *plain, *inner]

    return "\n".join(lines(asdict(config), "")) + "\n"


def export_model(config: TrainConfig, network: dict[str, Any], weights: Path, step: int, note: str = "") -> Path:
    """Write the folder ``model`` next to the weights: config, weights, looks, prompts' classifier, recipe, card.

    Args:
        network: ``LSDConfig.to_dict`` of the network; weights: its safetensors file, in the run's folder.
        step: how many steps were trained; note: a line for the card.

    Returns:
        The folder.

    Raises:
        ModelError: the looks file has ids alone, or other looks than the network; see ``read_looks``.
    """
    folder, looks_file = weights.parent / "model", Path(config.looks_file)
    looks = read_looks(looks_file)
    folder.mkdir(exist_ok=True)
    shutil.copyfile(weights, folder / catalog.WEIGHTS)
    document = {"format": FORMAT, "kind": "lsd", "network": network}
    (folder / catalog.CONFIG).write_text(json.dumps(document, indent=1), encoding="utf-8")
    shutil.copyfile(looks_file, folder / catalog.LOOKS)
    known = looks_file.with_name(CLASSIFIER_FILE)
    if known.is_file():
        shutil.copyfile(known, folder / CLASSIFIER_FILE)
    else:
        encoder = SentenceEncoder(catalog.model_dir(catalog.TEXT_ENCODER))
        fit_looks(folder, encoder, np.random.default_rng(0))
    PromptReader(folder)  # raises where classifier and looks do not belong together
    (folder / RECIPE).write_text(to_toml(config), encoding="utf-8")
    card = CARD.format(
        name=weights.parent.resolve().name,
        version=__version__,
        step=step,
        recipe=RECIPE,
        note=note,
        parameters=int(catalog.weight_summary(folder)["parameters"]) / 1e6,
        count=len(looks),
        looks=", ".join(look.id for look in looks),
    )
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    catalog.write_manifest(folder)
    return folder
