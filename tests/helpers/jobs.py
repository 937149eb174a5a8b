"""Jobs in short segments, and models that fail in them."""

from __future__ import annotations

from helpers.fakes import FakeModels, RecordingUi
from mirage_cli.config import TransformConfig
from mirage_cli.runs import transform

SEGMENT = 10


def config(clip, out, **values) -> TransformConfig:
    given = {"prompts": ("night",), "segment_frames": SEGMENT, **values}
    return TransformConfig(input=str(clip), output=str(out), **given)


def do(wanted: TransformConfig, models=None, stop=None):
    ui = RecordingUi()
    return transform.run(wanted, ui, models=models or FakeModels(), stop=stop), ui


class Dies(FakeModels):
    """Its session fails at a frame, once."""

    def session(self, options, width, height):
        made = super().session(options, width, height)
        made.fail_at = self.session_options.get("fail_at")
        return made


class Mirror(FakeModels):
    """Gives the input back."""

    def session(self, *arguments):
        made = super().session(*arguments)
        made.step = lambda rgb: rgb
        return made
