"""The smoke run, in one process and in two; what a run says of itself; stopping it."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from mirage_cli.models import catalog
from rich.console import Console

from mirage_cli.cli import main
from mirage_cli.commands import dashboard
from mirage_cli.errors import UsageProblem
from mirage_cli.measure import TrainStats
from mirage_cli.training import config as configs, export, loop, progress, smoke

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def smoked(tmp_path_factory) -> tuple[Path, dict, float]:
    """Folder, document and seconds of CPU of a smoke run in a process of its own, as a user starts it."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "mirage_cli", "train", "--smoke", f"run={folder}", "--json"],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=folder.parent,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr and "resumed at step 24" in done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return folder, json.loads(done.stdout), seconds


def test_the_smoke_run_does_all_of_it_and_the_loss_falls(smoked):
    folder, document, seconds = smoked
    assert seconds < 60  # it computes on one thread, so this is a minute on a machine of its own
    first, last = document["first_and_last_sixth"]["loss"]
    log = [json.loads(line) for line in (folder / "log.0.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 49))
    assert last < 0.85 * first and first == pytest.approx(np.mean([line["loss"] for line in log[:8]]), abs=1e-3)
    parts = document["parts"]
    assert parts["distillation steps"] == 12 and parts["resumed at step"] == 24
    assert parts["memory writes at the pause"] > 12 and parts["longest roll-out at the pause"] > 8
    assert parts["streams on real video"] == 2 and parts["gradient checkpointing"]
    assert 0 < document["validation_l1"] < 0.5 and document["styled"]["look"] == "film-noir"
    assert all(line["learning_rate"] > 0 and line["memory_mib"] > 100 for line in log)
    assert not (folder / "streams.0.safetensors").exists()
    assert len(smoke.summary(document)) > 10


def test_the_model_of_the_smoke_run_is_one(smoked, example_clip, tmp_path, capsys):
    folder, document, _ = smoked
    model = Path(document["model_folder"])
    assert catalog.verify(model) == model == folder / "model"
    assert "not a model to use" in (model / "MODEL_CARD.md").read_text()
    out = tmp_path / "out.mp4"
    words = ["transform", str(example_clip), "--model", str(model), "--prompt", document["prompt"], "-o", str(out)]
    assert main([*words, "--duration", "0.3", "--size", "160x96", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["prompts"][0]["look"] == "thermal" and told["frames"] >= 7 and out.stat().st_size > 1000


def test_the_recipe_in_the_model_folder_is_the_run_s(smoked):
    folder, _, _ = smoked
    told = configs.load_config(folder / "model" / "train.toml")
    record = json.loads((folder / "run.json").read_text())
    assert told.learning_rate == record["train"]["learning_rate"] == 0.003
    for given in (told, configs.TrainConfig(prefer_filters=("mosaic",), run='a "quoted" name')):
        path = folder.parent / "again.toml"
        path.write_text(export.to_toml(given), encoding="utf-8")
        assert configs.load_config(path) == given


def test_a_smoke_run_that_learns_nothing_fails_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert (
        main(["train", "--smoke", "learning_rate=0", "max_steps=24", "film=0", "clips=[0,0,0]", "streams=6", "-q"]) == 4
    )
    assert "the loss did not fall" in capsys.readouterr().err
    assert list(tmp_path.glob("mirage*")) == []


def test_a_smoke_run_leaves_a_user_s_folder_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["train", "--smoke", f"run={tmp_path}"]) == 2
    assert "holds something else" in capsys.readouterr().err and (tmp_path / "thesis.txt").read_text() == "mine"
    (tmp_path / "smoke.json").write_text("{}")  # a smoke run's folder, to which something was added
    assert main(["train", "--smoke", f"run={tmp_path}"]) == 2
    assert "thesis.txt" in capsys.readouterr().err and (tmp_path / "thesis.txt").exists()
    assert main(["train", "recipe.toml", "--smoke"]) == 2


def test_two_processes_train_one_model_and_go_on_after_a_pause(tmp_path):
    """torchrun, gloo: a run that pauses half way has the losses of one that does not, in both processes."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(ROOT / "tests" / "train_two.py"),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=250,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told, norms = [], []
    for rank in (0, 1):
        whole, parts = (
            [json.loads(line) for line in (tmp_path / name / f"log.{rank}.jsonl").read_text().splitlines()]
            for name in ("whole", "parts")
        )
        told.append([line["loss"] for line in whole])
        assert told[rank] == [line["loss"] for line in parts] and len(whole) == 24
        norms.append([line["norm"] for line in whole])
    assert told[0] != told[1]  # each has its own looks and streams
    assert norms[0] == norms[1]  # and both take the same step: one model
    document = json.loads(done.stdout)  # of the first process alone
    assert document["processes"] == 2 and document["parts"]["resumed at step"] == 12
    assert {path.name for path in (tmp_path / "parts").glob("validation*")} == {"validation0.json", "validation1.json"}


def test_more_processes_than_looks_are_refused(tmp_path, monkeypatch):
    smoke.make_data(tmp_path / "data")
    config = configs.load_config(
        None,
        [
            *smoke.SETTINGS,
            f"data={tmp_path / 'data'}",
            f"run={tmp_path / 'run'}",
            f"looks_file={tmp_path / 'data' / 'looks.json'}",
        ],
    )
    monkeypatch.setattr(loop, "join_processes", lambda device: (4, 5))
    with pytest.raises(UsageProblem, match="5 processes for 4 looks"):
        loop.Trainer(config, lambda line: None)


# ---- stopping -------------------------------------------------------------------------------------


def test_ctrl_c_saves_the_run_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    smoke.make_data(tmp_path / "data")
    words = [
        "train",
        *smoke.SETTINGS,
        f"data={tmp_path / 'data'}",
        f"looks_file={tmp_path / 'data' / 'looks.json'}",
        f"run={tmp_path / 'run'}",
        "max_steps=5",
        "validate=false",
    ]
    step = loop.Trainer.step

    def interrupted(trainer):
        terms = step(trainer)
        if trainer.progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return terms

    monkeypatch.setattr(loop.Trainer, "step", interrupted)
    assert main(words) == 130
    assert f"interrupted at step 3: saved in {tmp_path / 'run'}" in capsys.readouterr().err
    monkeypatch.setattr(loop.Trainer, "step", step)
    assert main(words) == 0
    told = capsys.readouterr()
    assert "resumed at step 3" in told.err and "the streams go on where they were" in told.err
    assert "trained 5 steps" in told.out and f"--model {tmp_path / 'run' / 'model'}" in told.out

    def late(trainer):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("mirage_cli.training.validate.validate", late)
    assert main([*words, "validate=true"]) == 130
    told = capsys.readouterr().err
    assert f"interrupted after training: the weights are in {tmp_path / 'run' / 'model.safetensors'}" in told


def test_a_run_whose_time_is_over_takes_no_more_steps(tmp_path):
    smoke.make_data(tmp_path / "data")
    words = [
        *smoke.SETTINGS,
        f"data={tmp_path / 'data'}",
        f"looks_file={tmp_path / 'data' / 'looks.json'}",
        f"run={tmp_path / 'run'}",
        "max_steps=1000",
        "validate=false",
        "minutes=0.002",
    ]
    done = [loop.main(None, words, lambda line: None)["progress"]["step"] for _ in range(2)]
    assert 3 < done[0] < 50 and done[1] == done[0]


# ---- what a run says of itself --------------------------------------------------------------------


def stats(**more) -> TrainStats:
    values = dict(
        run="runs/x",
        device="cuda:0",
        processes=4,
        parameters=8_900_000,
        step=120,
        steps_total=None,
        seconds=63.0,
        minutes=7.0,
        terms={"loss": 0.31234, "l1": 0.1234, "edges": 0.0456},
        first_terms={"loss": 0.9, "l1": 0.5},
        images_per_second=6150.4,
        learning_rate=5.9e-4,
        left_seconds=357.0,
        memory_mib=20480.0,
    )
    return TrainStats(**{**values, **more})


def test_the_table_of_a_run_shows_every_number():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(dashboard.render(stats()))
    text = console.export_text()
    for part in (
        "15%",
        "step 120",
        "ETA 5:57",
        "6150 images/s",
        "5.90e-04",
        "20480 MiB",
        "8.90 M parameters",
        "cuda:0, 4 processes",
        "loss",
        "0.3123",
        "0.9",
        "l1",
        "0.1234",
        "edges",
        "0.0456",
    ):
        assert part in text, part


def test_the_line_of_a_run_is_plain():
    line = dashboard.plain_line(stats(steps_total=480))
    assert line.startswith("step 120/480  loss 0.3123  l1 0.1234") and "\x1b" not in line
    for part in ("6150 images/s", "learning rate 5.90e-04", "memory 20480 MiB", "ETA 5:57"):
        assert part in line, part
    assert stats(steps_total=200).share == 0.6 and stats(minutes=0.0).share == 0.0


def test_the_meter_has_means_and_speed():
    meter = progress.Meter()
    for step in range(1, 31):
        terms = {"l1": torch.tensor(1.0 if step == 1 else 0.5), "loss": torch.tensor(2.0 / step)}
        meter.took(0.25 * step, terms | ({"distil": torch.tensor(0.1)} if step % 4 == 0 else {}))
    now, first = meter.terms()
    assert list(now) == ["loss", "l1", "distil"] and first == pytest.approx({"loss": 2.0, "l1": 1.0, "distil": 0.1})
    assert 0.5 < now["l1"] < 0.6 and meter.step_seconds() == pytest.approx(0.25)
    meter.pause()
    assert meter.step_seconds() == 0.0 and meter.memory_mib(torch.device("cpu")) > 50


def test_the_terminal_gets_plain_lines_where_it_is_none(monkeypatch, capsys):
    from mirage_cli.commands.ui import TerminalUi

    monkeypatch.setattr(TerminalUi, "LINE_SECONDS", 0.0)
    ui = TerminalUi(quiet=False, progress=True, logs=False)
    for step in (1, 2):
        ui.tick(lambda step=step: stats(step=step))
    assert capsys.readouterr().err.startswith("step 2  loss 0.3123")


class Board:
    """Stands for torch.utils.tensorboard.SummaryWriter."""

    made: list[Board] = []

    def __init__(self, log_dir: str) -> None:
        self.folder, self.scalars, self.closed = log_dir, [], False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert not self.closed
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def test_the_log_is_json_lines_and_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_writer", lambda: Board)
    with progress.RunLog(tmp_path / "log.jsonl", "curves") as log:
        log.write({"step": 2, "loss": 0.5, "note": "x"})
        log.write({"step": 4, "loss": 0.25})
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"step": 2, "loss": 0.5, "note": "x"},
        {"step": 4, "loss": 0.25},
    ]
    board = Board.made[-1]
    assert board.folder == "curves" and board.closed
    assert board.scalars == [("train/loss", 0.5, 2), ("train/loss", 0.25, 4)]


def test_tensorboard_without_its_package_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # an import of it fails
    assert (
        main(["train", "--tensorboard", str(tmp_path / "curves"), f"looks_file={ROOT / 'models/lsd-small/looks.json'}"])
        == 2
    )
    told = capsys.readouterr().err
    assert "TensorBoard is asked for" in told and "pip install -c constraints.txt -e '.[tensorboard]'" in told
    assert len(told.strip().splitlines()) == 2


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with progress.RunLog(tmp_path / "log.jsonl", str(tmp_path / "curves")) as log:
        for step in (1, 2):
            log.write({"step": step, "loss": 1.0 / step, "learning_rate": 1e-3})
    events = EventAccumulator(str(tmp_path / "curves")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/learning_rate"}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
