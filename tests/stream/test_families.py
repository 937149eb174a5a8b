"""A second family of models: what steps a stream takes it as it takes the first, and knows neither."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import media
from helpers.echo_family import KIND, EchoModel, write_model
from helpers.fakes import RecordingUi
from helpers.paths import ROOT
from helpers.sessions import moving
from mirage_cli.models import catalog

from mirage_cli.config import ModelOptions, TransformConfig
from mirage_cli.errors import ModelError, UsageProblem
from mirage_cli.runs import transform
from mirage_cli.stream import families
from mirage_cli.stream.families import FAMILIES, look_names, open_model, open_prompts
from mirage_cli.stream.session import Session
from mirage_cli.styling.loading import Models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(FAMILIES, KIND, "helpers.echo_family")
    return write_model(tmp_path / "mine")


def test_families_open_what_config_names(folder: Path) -> None:
    model = open_model(folder, device="cpu")
    assert isinstance(model, EchoModel) and model.name == "mine"
    assert look_names(folder) == [] and open_prompts(folder).match("a city in snow").weights == {"a city in snow": 1.0}
    assert catalog.read_kind(folder) == KIND and catalog.list_models(folder.parent)[0].kind == KIND
    (document,) = _described(folder)
    assert document["looks"] == []


def _described(folder: Path) -> list[dict]:
    (folder / "model.safetensors").write_bytes((catalog.MODELS_ROOT / "lsd-small" / "model.safetensors").read_bytes())
    return catalog.describe_models(folder.parent)


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"kind": "nosuch"}', "is of kind 'nosuch'; allowed: 'lsd', 'echo'"),
        ("{}", "not the config of a model"),
        ("[]", "not the config of a model"),
        ('{"kind": 3}', "not the config of a model"),
        ("{", "not the config of a model"),
    ],
)
def test_families_refuse_what_they_do_not_know(folder: Path, text: str, words: str) -> None:
    (folder / "config.json").write_text(text)
    for ask in (open_model, open_prompts, look_names):
        with pytest.raises(ModelError, match=words):
            ask(folder)


def test_session_steps_a_painter_of_ten_lines(folder: Path) -> None:
    session = Session(open_model(folder, device="cpu"), width=64, height=48, guard=False)
    frames = moving(4)
    first, second = session.step(frames[0]), session.step(frames[1])
    assert np.array_equal(first, 255 - frames[0]) and np.abs(second.astype(int) - (255 - frames[1])).max() > 0
    assert session.report.stages.keys() == {"prepare", "denoise", "compose"} and session.report.stages["denoise"] > 0
    saved = json.loads(json.dumps(session.state()[1])), session.state()[0]
    third = session.step(frames[2])
    assert np.array_equal(first, 255 - frames[0])  # its own memory
    again = Session(session.model, width=64, height=48, guard=False)
    again.load_state((saved[1], saved[0]))
    assert np.array_equal(again.step(frames[2]), third)
    session.reset()
    assert np.array_equal(session.step(frames[3]), 255 - frames[3])
    session.set_strength(0.0)
    assert np.array_equal(session.step(frames[0]), frames[0])
    about = session.describe()
    assert (about["model"], about["backend"], about["backend_reason"]) == ("mine", "torch", "an echo")
    with pytest.raises(UsageProblem, match="3 steps; allowed: 1 to 2"):
        Session(session.model, width=64, height=48, steps=3)


def test_session_state_fits_another_size(folder: Path) -> None:
    model = open_model(folder, device="cpu")
    large, small = (Session(model, width=w, height=h, guard=False) for w, h in ((64, 48), (32, 24)))
    large.step(np.full((48, 64, 3), 55, np.uint8))
    small.load_state(large.state(), fit=True)
    assert float(small.painter.last.mean()) == pytest.approx(200.0)
    with pytest.raises(ModelError, match="saved state has last of shape"):
        small.load_state(large.state())


def test_session_rechecks_with_any_painter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspicion that is not confirmed leaves all as it was; one that is, leaves the fresh frame."""
    session = Session(open_model(folder, device="cpu"), width=64, height=48)
    frames = moving(3)
    expected = [Session(session.model, width=64, height=48, guard=False) for _ in range(1)][0]
    wanted = [expected.step(frame) for frame in frames]
    monkeypatch.setattr(session.guard, "check", lambda *_: "grey-out")
    monkeypatch.setattr(session.guard, "confirm", lambda *_: None)
    assert all(np.array_equal(session.step(f), w) for f, w in zip(frames, wanted))
    monkeypatch.setattr(session.guard, "confirm", lambda *_: "grey-out")
    assert np.array_equal(session.step(frames[1]), 255 - frames[1])
    assert session.report.guard_event == "grey-out" and session.counters["guard_opinions"] == 4


def test_transform_runs_a_model_of_another_family(folder: Path, tmp_path: Path) -> None:
    clip = media.clip(tmp_path / "in.mp4", seconds=0.4, size=(64, 48))
    out, ui = tmp_path / "out.mp4", RecordingUi()
    document = transform.run(
        TransformConfig(
            input=str(clip),
            output=str(out),
            prompts=("0:a city in snow", "0.2s:bright sun"),
            blend_seconds=0.1,
            model=ModelOptions(model=str(folder), device="cpu"),
        ),
        ui,
        models=Models(),
    )
    assert document["model"]["backend_reason"] == "an echo" and document["model"]["looks"] == {"bright sun": 1.0}
    assert [prompt["look"] for prompt in document["prompts"]] == ["a city in snow", "bright sun"]
    assert {"prepare", "denoise", "compose"} <= document["latency_ms"].keys()
    assert media.probe(out).frames == media.probe(clip).frames


# --- who may know a family -----------------------------------------------------------------------


@pytest.mark.slow
def test_families_are_not_imported_before_they_are_asked_for() -> None:
    """The room stream/ and what stands on it work without a family's room."""
    program = "import sys; import mirage_cli.stream.session, mirage_cli.stream.families, mirage_cli.styling.styler;"
    program += "sys.exit(any(name.startswith('mirage_cli.lsd') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0


FREE_OF_FAMILIES = ("stream", "styling", "runs", "control", "inputs", "outputs", "prompts", "bench")


@pytest.mark.parametrize("room", FREE_OF_FAMILIES)
def test_rooms_name_no_family(room: str) -> None:
    """Neither an import nor an attribute of a family's painter; ``families`` itself has the table."""
    rooms = {name.split(".")[1] for name in FAMILIES.values()}
    for path in sorted((ROOT / "mirage_cli" / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            assert not any(name.startswith(f"mirage_cli.{family}") for name in names for family in rooms), path.name
    assert families.FAMILIES is FAMILIES
