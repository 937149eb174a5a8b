"""The segments of a job join to what one would be, with the stand-in and with the real model."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers import media
from helpers.fakes import RecordingUi
from helpers.jobs import Mirror, config, do

from mirage_cli.config import ModelOptions
from mirage_cli.errors import ModelError
from mirage_cli.outputs.job_folder import Progress, job_path, unfinished
from mirage_cli.outputs.segments import JobSink
from mirage_cli.runs import transform
from mirage_cli.styling.loading import Models
from mirage_cli.styling.styler import Styler

pytestmark = pytest.mark.usefixtures("echo")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, codec",
    [
        ("o.mp4", None),
        ("o.mov", "prores"),
        ("o.mkv", "h265"),
        ("o.webm", None),
        ("o.ts", None),
        ("o.mp4", "av1"),
        ("o.mkv", "ffv1"),
    ],
)
def test_segments_join_to_what_one_would_be(tmp_path, name, codec):
    """Frame count, times and sound, with gaps that differ and B-frames across the joints."""
    source = media.variable_rate_clip(tmp_path / "in.mp4")
    times = media.times_of(source)
    out = tmp_path / name
    document, _ = do(config(source, out, codec=codec, segment_frames=7))
    assert document["frames"] == len(times) and not document["warnings"]
    np.testing.assert_allclose(media.times_of(out), times, atol=1.1e-3)
    assert media.probe(out).sound


@pytest.mark.slow
def test_flash_and_beep_stay_together_across_segments(tmp_path, monkeypatch):
    monkeypatch.delenv("FAKE_ECHO")
    source = media.flash_and_beep(tmp_path / "in.mp4", at=1.0, seconds=1.6)
    out = tmp_path / "out.mp4"
    ui = RecordingUi()
    transform.run(config(source, out, model=ModelOptions(strength=0.0), segment_frames=7), ui, models=Mirror())
    assert media.flash_seconds(out) == pytest.approx(1.0, abs=1 / 30)
    assert media.beep_seconds(out) == pytest.approx(media.flash_seconds(out), abs=1 / 30)


# The real model


@pytest.fixture(scope="module")
def real() -> Models:
    """Loads what ships, once."""
    return Models()


@pytest.mark.slow
def test_a_session_goes_on_bit_for_bit(real):
    """lsd-small on the CPU: history, memory bank and guard are all that a frame depends on."""
    models, options = real, ModelOptions(device="cpu")
    frames = [f.rgb for f in _pictures(14)]

    def fresh():
        made = models.session(options, 64, 48)
        made.set_look({"ink-wash": 1.0})
        return made

    whole = fresh()
    expected = []
    for number, rgb in enumerate(frames):
        expected.append(whole.step(rgb))
        if number == 8:
            arrays, facts = whole.state()
    facts = json.loads(json.dumps(facts))  # as it is kept
    again = fresh()
    again.load_state((arrays, facts))
    for number in range(9, 14):
        assert np.array_equal(again.step(frames[number]), expected[number]), number
    assert not np.array_equal(fresh().step(frames[9]), expected[9])  # the past does matter
    with pytest.raises(ModelError, match="saved state has history.last"):
        models.session(options, 96, 48).load_state((arrays, facts))


def test_what_a_program_carries_goes_along(real):
    """On a GPU the whole frame may be one plan with tensors of its own; here a painter stands in for it."""
    import torch

    from mirage_cli.lsd.painter import TorchPainter
    from mirage_cli.lsd.plan_painter import PlanPainter
    from mirage_cli.stream.session import Session

    class Planned(TorchPainter):
        lost = PlanPainter.lost

        def state(self):
            return {**super().state(), "program.0": self.carried}

    model = real.model(ModelOptions(device="cpu"))

    def session(width, value):
        painter = Planned(model.net, (width, 48), steps=1, seed=0, reason="a test")
        painter.carried, painter.derived = torch.full((1, 1, width), value), frozenset({"program.0"})
        painter.history.valid.fill_(1.0)
        return Session(model, width=width, height=48, painter=painter)

    one, two, other, without = session(64, 5.0), session(64, 0.0), session(96, 0.0), session(64, 0.0)
    two.load_state(one.state())
    assert float(two.painter.carried.min()) == 5.0 and float(two.painter.history.valid[0]) == 1.0
    other.load_state(one.state(), fit=True)
    assert float(other.painter.carried.max()) == 0.0 and float(other.painter.history.valid[0]) == 0.0
    arrays, facts = one.state()
    del arrays["program.0"]
    without.load_state((arrays, facts))  # of a job that ran elsewhere
    assert float(without.painter.carried.max()) == 0.0 and float(without.painter.history.valid[0]) == 0.0


def _pictures(count):
    from mirage_cli.inputs.landscape import TestPicture

    return list(TestPicture(64, 48, paced=False, frames=count))


@pytest.mark.slow
def test_the_whole_command_with_the_real_model(real, tmp_path, monkeypatch):
    clip = media.clip(tmp_path / "in.mp4", seconds=0.8, fps=30, size=(64, 48))
    options = ModelOptions(device="cpu")
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    models = real
    wanted = config(clip, one, model=options, prompts=("0:ink wash", "0.4s:neon cyberpunk"), blend_seconds=0.2)
    do(wanted, models)
    step = Styler.step

    def dies(self, frame):
        if frame.index == 16:
            raise KeyboardInterrupt
        return step(self, frame)

    monkeypatch.setattr(Styler, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        do(replace(wanted, output=str(two)), models)
    monkeypatch.undo()
    assert unfinished(two) == 10
    do(replace(wanted, output=str(two), resume=True), models)
    assert one.read_bytes() == two.read_bytes() and media.probe(two).frames == 24


@pytest.mark.slow
def test_a_job_is_a_sink_that_knows_its_segments(clip, tmp_path):
    """The kill test cannot pass by making no segments."""
    seen = []
    step = Styler.step

    def look(self, frame):
        if frame.index == 35:
            time.sleep(0.3)
            seen.append(sorted(path.name for path in job_path(tmp_path / "o.mp4").iterdir()))
        return step(self, frame)

    Styler.step = look
    try:
        do(config(clip, tmp_path / "o.mp4"))
    finally:
        Styler.step = step
    assert {
        "job.json",
        "lock",
        "progress.json",
        "piece-00000.mp4",
        "piece-00002.mp4",
        "state-000030.safetensors",
    } <= set(seen[0])
    assert "state-000020.safetensors" not in seen[0] and JobSink.__doc__


def test_progress_is_stored_as_earlier_versions_did():
    """``progress.json`` of a job that was begun before segments had that name, key by key."""
    stored = {
        "pieces": [{"name": "piece-00000.mp4", "frames": 250, "first_tick": 0}],
        "state": "state-000250.safetensors",
        "first_pts": 0.02,
        "last_pts": 8.3,
        "last_tick": 747000,
    }
    progress = Progress.from_document(stored)
    assert progress.frames == 250 and progress.document() == stored and list(progress.document()) == list(stored)
    with pytest.raises(KeyError):
        Progress.from_document({"state": ""})
