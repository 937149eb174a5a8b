"""Keeping up: quality that follows the time there is, and frames that need no model."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from helpers.fakes import FakeModels, RecordingUi

from mirage_cli.config import LiveConfig, ModelOptions
from mirage_cli.runs import live
from mirage_cli.styling.adaptive import (
    MOST_IN_A_ROW,
    AdaptiveSession,
    LiveModels,
    PaceKeeper,
    Rung,
    SimilarFrames,
    ladder,
)
from mirage_cli.styling.loading import Models


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def drive(keeper, clock, cost, seconds):
    """Frames one after the other for so long; ``cost`` of a rung in ms. Gives the rungs in order."""
    seen, end = [keeper.place], clock.now + seconds
    while clock.now < end:
        took = cost(keeper.rung)
        clock.now += max(took, keeper.budget_ms) / 1e3
        if keeper.saw(took):
            seen.append(keeper.place)
    return seen


def test_the_ladder_gives_up_steps_first_and_then_size():
    rungs = ladder(3)
    assert rungs[:3] == [Rung(3, 1.0), Rung(2, 1.0), Rung(1, 1.0)]
    assert all(a.work > b.work for a, b in pairwise(rungs)) and rungs[-1] == Rung(1, 0.5)


def test_it_goes_down_to_what_holds_and_stays_there():
    clock = Clock()
    keeper = PaceKeeper(25.0, ladder(2), clock)  # 40 ms
    seen = drive(keeper, clock, lambda rung: 70.0 * rung.work, 60.0)
    # 140 ms at first, 70 with one step, 49 at 0.84, 35 at 0.71: that holds.
    assert seen == [0, 1, 2, 3] and keeper.rung == Rung(1, 0.71)


def test_it_goes_back_up_when_there_is_time_and_not_at_once():
    clock = Clock()
    keeper = PaceKeeper(25.0, ladder(2), clock)
    drive(keeper, clock, lambda rung: 70.0 * rung.work, 10.0)
    begin = clock.now
    seen = drive(keeper, clock, lambda rung: 10.0 * rung.work, 60.0)
    assert seen == [3, 2, 1, 0] and clock.now - begin > 3 * keeper.UP_SECONDS


def test_on_the_edge_it_does_not_swing():
    """What fits the rung above by its size is too slow there in truth: it tries, less and less."""
    clock = Clock()
    keeper = PaceKeeper(25.0, ladder(1), clock)
    cost = {1.0: 45.0, 0.84: 22.0, 0.71: 16.0, 0.59: 12.0, 0.5: 9.0}
    seen = drive(keeper, clock, lambda rung: cost[rung.scale], 200.0)
    assert set(seen) == {0, 1} and len(seen) <= 13


def test_one_slow_frame_changes_nothing():
    clock = Clock()
    keeper = PaceKeeper(25.0, ladder(2), clock)
    for number in range(500):
        clock.now += 0.04
        assert not keeper.saw(400.0 if number % 50 == 0 else 30.0)


class Slow(FakeModels):
    """A model whose time follows its work: 60 ms at one step and 96x64."""

    def session(self, options, width, height):
        made = super().session(options, width, height)
        step = made.step

        def timed(rgb):
            time.sleep(0.060 * options.steps * width * height / (96 * 64))
            return step(rgb)

        made.step = timed
        return made


@pytest.mark.slow
def test_a_slow_model_holds_the_rate_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(PaceKeeper, "DOWN_SECONDS", 0.2)
    monkeypatch.setattr(PaceKeeper, "FRAMES", 4)
    ui, models = RecordingUi(), Slow()
    document = live.run(
        LiveConfig(
            input="test",
            prompts=("ink wash",),
            window=False,
            size=(96, 64),
            fps=30.0,
            duration_seconds=2.5,
            target_fps=25.0,
            model=ModelOptions(steps=2),
        ),
        ui,
        models=models,
        keys=False,
    )
    told = [note for note in ui.notes if "to hold 25 frames a second" in note]
    assert "1 step, 96x64 inside" in told[0] and len(told) >= 3
    model = document["model"]
    assert model["quality_changes"] == told and model["inside"][0] <= 69
    assert document["size"] == [96, 64]
    last = models.sessions[-1]
    assert last.looks == [{"ink-wash": 1.0}] and last.frames > 5


def test_similar_frames_are_told_from_others():
    filter_ = SimilarFrames(2.0)
    base = np.full((288, 512, 3), 100, np.uint8)
    assert not filter_.like_the_last(base) and filter_.like_the_last(base + 1)
    noise = np.random.default_rng(0).integers(-8, 9, base.shape)
    assert filter_.like_the_last((base + noise).astype(np.uint8))  # grain of a camera
    moved = base.copy()
    moved[32:48, 64:80] = 200  # a small thing, one field of the thumbnail
    assert not filter_.like_the_last(moved) and filter_.like_the_last(moved)
    slow = [filter_.like_the_last(moved + step) for step in range(12)]
    assert slow.count(False) >= 3  # a slow change adds up against the last one that was made
    assert filter_.skipped == 3 + slow.count(True)
    filter_.forget()
    results = [filter_.like_the_last(base) for _ in range(MOST_IN_A_ROW + 2)]
    assert results.count(False) == 2 and not results[0] and not results[-1]


def test_a_skipped_frame_costs_no_model_and_a_new_look_is_made():
    models = LiveModels(FakeModels(), None, 2.0, print)
    session = models.session(ModelOptions(), 64, 48)
    session.set_look({"night": 1.0})
    rgb = np.full((48, 64, 3), 50, np.uint8)
    first = session.step(rgb)
    assert session.step(rgb) is first and session.report.stages["denoise"] == 0.0
    assert session.inner.frames == 1 and session.describe()["skipped_similar"] == 1
    session.set_look({"mosaic": 1.0})
    session.step(rgb)
    session.set_strength(0.5)
    session.step(rgb)
    assert session.inner.frames == 3


@pytest.mark.slow
def test_the_past_goes_along_with_the_size():
    """lsd-small: after a change of size the stream goes on and does not begin anew."""
    models, options = Models(), ModelOptions(device="cpu")
    changes: list[str] = []
    session = AdaptiveSession(
        lambda steps, width, height: models.session(options, width, height),
        96,
        64,
        1,
        PaceKeeper(1000.0, ladder(1)),
        None,
        changes.append,
    )
    session.set_look({"ink-wash": 1.0})
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    for _ in range(3):
        before = session.step(rgb)
    session.keeper.place = 2
    session._change()
    assert session.inner.width == 68 and "68x45 inside" in changes[-1]
    assert float(session.inner.painter.history.valid[0]) == 1.0
    after = session.step(rgb)
    assert after.shape == (64, 96, 3) and not session.report.cut
    assert np.abs(after.astype(int) - before).mean() < 40
