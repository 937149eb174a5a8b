"""``mirage eval`` as a command: its document, its processes, its budget, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from helpers.eval_process import serve_or_die
from helpers.paths import ROOT
from helpers.sessions import moving
from helpers.streams import evaluate, write_pictures

from mirage_cli.cli import main
from mirage_cli.errors import MediaError, ModelError, UsageProblem
from mirage_cli.evaluation import run, worker

pytestmark = pytest.mark.slow


def test_the_command_writes_document_sheet_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    names = [str(tmp_path / name) for name in ("doc.json", "sheet.png", "plot.png")]
    code = evaluate(
        "--clips",
        str(tmp_path / "walk"),
        "--looks",
        "night,mosaic",
        "--parts",
        "drift,temporal",
        "--frames",
        "104",
        "-o",
        names[0],
        "--sheet",
        names[1],
        "--plot",
        names[2],
        "--json",
    )
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(Path(names[0]).read_text())
    assert printed["complete"] and set(printed["looks"]) == {"night", "mosaic"}
    night = printed["looks"]["night"]
    assert night["drift"][0]["frames"] == 104 and night["temporal"]["warped_error"] > 0
    assert {bar["bar"] for bar in printed["bars"]} >= {"video drift error", "flicker on a still, levels, worst look"}
    assert cv2.imread(names[1]).shape[1] > 4 * 192 and cv2.imread(names[2]) is not None
    assert not list(tmp_path.glob("*.part"))


def test_two_processes_and_a_table(tmp_path: Path) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mirage_cli",
            "eval",
            "--clips",
            tmp_path / "walk",
            "--looks",
            "night,thermal",
            "--parts",
            "drift",
            "--frames",
            "64",
            "--size",
            "64x48",
            "--jobs",
            "2",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "night" in done.stdout and "thermal" in done.stdout and "2/2" in done.stderr


def test_a_process_that_dies_loses_its_task_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "serve", serve_or_die)
    grave = tmp_path / "grave"
    specs = [SimpleNamespace(mortal=number == 0, grave=grave) for number in range(2)]
    tasks = [run.Task("drift", name) for name in "abcd"]
    got = {task.look: found for task, found, complete, _ in run.in_processes(specs, tasks) if complete}
    assert set(got) == set("abcd")
    assert sum("failed" in found for found in got.values()) == 1
    assert sum(found.get("measured", False) for found in got.values()) == 3


def test_a_stream_cut_short_is_named_and_not_called_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    words = ("--clips", str(tmp_path / "walk"), "--looks", "night", "--parts", "drift", "--frames", "9000")
    assert evaluate(*words, "--budget-seconds", "4s", "-o", str(tmp_path / "e.json")) == 0
    assert "of 9000 frames: no time left (night)" in capsys.readouterr().out
    assert not json.loads((tmp_path / "e.json").read_text())["complete"]


def test_a_spent_budget_leaves_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "walk", moving(20))
    words = ("--clips", str(tmp_path / "walk"), "--looks", "night", "--parts", "drift,temporal", "--frames", "64")
    assert evaluate(*words, "--budget-seconds", "0.01s") == 0
    assert "left out: temporal: no time left (night)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("--looks", "no-such"),
        ("--parts", "speed"),
        ("--frames", "10"),
        ("--size", "native"),
        ("--lpips", "/no/file"),
        ("--parts", ""),
        ("-o", "clip.mp4"),
        ("--sheet", "sheet.json"),
    ],
)
def test_what_is_not_allowed(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *words]) in (UsageProblem.exit_code, ModelError.exit_code)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "none/e.json"),
        ("--sheet", "none/s.png"),
        ("--plot", "none/p.png"),
        ("--data", "none"),
        ("--clips", "clip.png", "--sheet", "clip.png"),
    ],
)
def test_files_that_cannot_be_are_told_before_the_work(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "load_clips", lambda *given: pytest.fail("the work has begun"))
    (tmp_path / "clip.png").write_bytes(b"mine")
    assert main(["eval", *words]) == MediaError.exit_code
    told = capsys.readouterr().err
    assert "error:" in told and "fault of mirage" not in told and (tmp_path / "clip.png").read_bytes() == b"mine"


def test_a_model_without_paraphrases_is_measured_in_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``held_out`` may be empty, and an unforeseen error costs its own measurement only."""
    monkeypatch.setattr(worker, "read_looks", lambda folder: [])
    monkeypatch.setattr(worker.Worker, "_temporal", lambda self, task: 1 / 0)
    write_pictures(tmp_path / "walk", moving(20))
    words = (
        "--clips",
        str(tmp_path / "walk"),
        "--looks",
        "night",
        "--parts",
        "prompts,temporal,drift",
        "--frames",
        "64",
    )
    assert evaluate(*words, "-o", str(tmp_path / "e.json")) == 1  # something failed
    document = json.loads((tmp_path / "e.json").read_text())
    why = {entry["part"]: entry["why"] for entry in document["left_out"]}
    assert "no look has both" in why["prompts"] and "ZeroDivisionError" in why["temporal"]
    assert document["looks"]["night"]["drift"] and not document["complete"]
