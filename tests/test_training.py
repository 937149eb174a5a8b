"""Training on a CPU in seconds: two looks, three small pictures; the loss falls, and a run resumes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.lsd.history import History
from mirage_cli.lsd.model import Past
from mirage_cli.training import loop
from mirage_cli.training.config import load_config
from mirage_cli.training.data import fit, read_manifest
from mirage_cli.training.forcing import ForcingConfig, force

SMALL = [
    "streams=16", "stream.weak=0", "size=64", "banks=[[96,128,0.5],[80,112,0.5]]", "log_every=2", "validate=false", "loss.features=0",
    'network={"widths":[16,16,64],"middle_blocks":2,"encoder_blocks":[1,1],"decoder_blocks":[1,1]}', "device=cpu",
    "warmup_steps=2", "learning_rate=0.002", "compile=false", "minutes=5",
]  # fmt: skip


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder of three photos and a manifest, in the layout that ``mirage train`` reads."""
    root = tmp_path / "data"
    (root / "photos").mkdir(parents=True)
    rng = np.random.default_rng(4)
    with (root / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "kind", "split", "ship_ok"])
        for name in "abc":
            picture = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / "photos" / f"{name}.png"), picture)
            writer.writerow([f"photos/{name}.png", "photo", "train", "no" if name == "c" else "yes"])
    (tmp_path / "looks.json").write_text(json.dumps({"looks": [{"id": "film-noir"}, {"id": "thermal"}]}))
    return root


@pytest.fixture
def arguments(data, tmp_path, monkeypatch) -> list[str]:
    """Overrides of a run without neural teachers, whose networks do not ship."""

    class NoNeural:
        looks: list[str] = []

        def __init__(self, *arguments) -> None: ...

    monkeypatch.setattr("mirage_cli.training.neural_teachers.NeuralTeachers", NoNeural)
    return [*SMALL, f"data={data}", f"run={tmp_path / 'run'}", f"looks_file={tmp_path / 'looks.json'}"]


def test_the_loss_falls_and_a_run_resumes(arguments, tmp_path):
    said: list[str] = []
    arguments += ["loss.texture=0.1", "loss.distil=0.1", "distil_every=4"]
    record = loop.main(None, [*arguments, "max_steps=40"], said.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.0.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert len(lines) == 20 and np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3]), losses
    assert record["progress"]["step"] == 40 and (tmp_path / "run" / "model.safetensors").is_file()
    loop.main(None, [*arguments, "max_steps=42"], said.append)
    assert any("resumed at step 40" in line for line in said)
    last = json.loads((tmp_path / "run" / "log.0.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 42 and last["loss"] < losses[0]


@pytest.mark.parametrize("part", ["rollout", "memory", "motion"])
def test_parts_switched_off_for_ablations(arguments, part):
    trainer = loop.Trainer(load_config(None, [*arguments, f"stream.{part}=false"]), lambda line: None)
    for _ in range(6):
        terms = trainer.step()
    assert np.isfinite(terms["loss"].item())
    pool = trainer.pool
    null = trainer.net.memory_null.detach().expand_as(pool.memory)
    if part == "memory":
        torch.testing.assert_close(pool.memory, null)
    else:
        assert not torch.equal(pool.memory, null)


def test_only_shippable_media_unless_asked(data):
    assert len(read_manifest(data, "photo", "train", shippable_only=True)) == 2
    assert len(read_manifest(data, "photo", "train", shippable_only=False)) == 3


def test_bad_runs(tmp_path, arguments):
    with pytest.raises(UsageProblem, match="unknown keys"):
        load_config(None, ["no_such_key=1"])
    with pytest.raises(UsageProblem, match="key=value"):
        load_config(None, ["minutes"])
    with pytest.raises(UsageProblem):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(MediaError, match="MANIFEST"):
        loop.main(None, [*arguments, f"data={tmp_path}"])


def test_forcing_tells_the_levels_and_hides_the_past():
    generator = torch.Generator().manual_seed(0)
    history = History.empty(64, 32, 32)
    past = Past(history.last, history.older, history.input_luma, torch.zeros(64, 4, 8), torch.ones(64))
    seen, kept, levels = force(past, ForcingConfig(noisy=1.0, damaged=0.0, hidden=0.3), generator)
    hidden = seen.valid == 0
    assert 5 < hidden.sum() < 40 and bool((levels[hidden] == 1).all()) and bool((seen.last[hidden] == 0).all())
    spread = seen.last[~hidden].flatten(1).std(dim=1)
    np.testing.assert_allclose(spread, 0.5 * levels[~hidden][:, 0], rtol=0.1, atol=0.01)
    assert bool((kept.last == 0).all())  # noise is for the network's eyes only


def test_fit_covers_and_crops():
    assert fit(np.zeros((50, 200, 3), np.uint8), 64, 96).shape == (64, 96, 3)
