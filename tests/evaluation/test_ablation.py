"""The rows of the ablation table: each trains, and is measured with the parts that it was trained with."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest

from mirage_cli.evaluation import ablation
from mirage_cli.training.config import load_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = (
    "streams=6",
    "size=64",
    "banks=[[96,128,1.0]]",
    "device=cpu",
    "compile=false",
    "max_steps=2",
    "loss.features=0",
    'network={"widths":[16,16,64],"middle_blocks":2,"encoder_blocks":[1,1],"decoder_blocks":[1,1]}',
)


def test_every_row_is_a_training_config():
    for row in ablation.ROWS.values():
        load_config(None, list(row.overrides))


def test_rows_train_and_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "LOOKS", ("thermal",))
    monkeypatch.setattr("mirage_cli.evaluation.fidelity.WINDOW", 64)
    monkeypatch.setattr("mirage_cli.evaluation.fidelity.STILL_SIZE", (96, 128))
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(4)
    rows = [["file", "kind", "split", "ship_ok"]]
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        picture = cv2.resize(
            rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), picture)
        rows.append([f"photos/{name}.png", "photo", split, "yes"])
    with (tmp_path / "MANIFEST.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = {
        name: ablation.run_row(name, str(tmp_path), tmp_path / "out", 5.0, TINY, period=24)
        for name in ("no-history", "motion")
    }
    for name, document in found.items():
        assert document["steps_trained"] == 2, name
        assert 0 < document["mean"]["first_5"] < 2 and "last_return" in document["mean"]
    alone = found["no-history"]["looks"]["thermal"]
    # without a past the same frame gives the same picture, every time round
    assert alone["last_over_first_return"] == pytest.approx(1.0, abs=1e-4)
    assert "l1_4" in found["motion"]["looks"]["thermal"]
