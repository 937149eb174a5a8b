"""What the tests of the command line share: a clip, and the stand-in model."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import media
from helpers.fakes import FakeEngine


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """20 frames of 96x64 with sound, one second."""
    return media.clip(tmp_path_factory.mktemp("clips") / "in.mp4", seconds=1, fps=20, sound="aac")


@pytest.fixture()
def fakes(monkeypatch):
    """The model is a stand-in, in this process."""
    monkeypatch.setattr("mirage_cli.runs.transform.Engine", FakeEngine)
    monkeypatch.setattr("mirage_cli.runs.live.Engine", FakeEngine)
