"""Settings of ``mirage live`` for tests, and a run of it on a stream."""

from __future__ import annotations

from helpers.fakes import FakeModels, RecordingUi
from helpers.senders import SIZE
from mirage_cli.config import LiveConfig
from mirage_cli.runs import live


def config(**values):
    given = {"input": "test", "prompts": ("ink wash",), "window": False, "size": (64, 48), **values}
    return LiveConfig(**given)


def play(url, frames=15, **values):
    """``mirage live`` on a stream with a stand-in model: its document and what the user was told."""
    given = {
        "prompts": ("ink wash",),
        "window": False,
        "frames": frames,
        "timeout_seconds": 9.0,
        "reconnect": 0,
        **values,
    }
    ui = RecordingUi()
    document = live.run(LiveConfig(input=url, **given), ui, models=FakeModels(), keys=False)
    assert document["frames"] == frames and document["size"] == list(given.get("size") or SIZE)
    return document, ui
