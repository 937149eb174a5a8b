"""What the tests of the command line share: a clip."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import media


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """20 frames of 96x64 with sound, one second."""
    return media.clip(tmp_path_factory.mktemp("clips") / "in.mp4", seconds=1, fps=20, sound="aac")
