"""The drift guard: damage to the past is mended within ten frames, and scenery is no alarm."""

from __future__ import annotations

import functools
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.pictures import texture
from helpers.sessions import moving, tiny_model

from mirage_cli.lsd.model import Prediction
from mirage_cli.lsd.painter import TorchPainter
from mirage_cli.stream import guard as guards
from mirage_cli.stream.families import open_model
from mirage_cli.stream.guard import DriftGuard
from mirage_cli.stream.session import Session

KINDS = ("grey", "cast", "blur", "nan")
RECOVERY_FRAMES = 10
DAMAGED = 22  # the frame before which the past is spoilt


@torch.inference_mode()
def damage(session: Session, kind: str) -> None:
    """Spoil all that the session remembers of its own frames, values in [-1, 1]."""
    for tensor in (session.painter.history.last, session.painter.history.older):
        colours = tensor.view(tensor.shape[0], -1, 3, *tensor.shape[2:])
        if kind == "grey":
            colours.mul_(0.1)
        elif kind == "cast":
            colours[:, :, 0] += 0.6
            colours[:, :, 2] -= 0.6
            tensor.clamp_(-1, 1)
        elif kind == "blur":
            tensor.copy_(F.avg_pool2d(tensor, 15, stride=1, padding=7, count_include_pad=False))
        else:
            tensor.fill_(float("nan"))


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(one.astype(np.int16) - other).mean())


# --- what it judges --------------------------------------------------------------------------------


def settled(frames: int = 40, **options) -> tuple[DriftGuard, np.ndarray]:
    watch, picture = DriftGuard(**options), texture()
    assert all(watch.check(picture, picture) is None for _ in range(frames))
    return watch, picture


def test_sudden_damage_is_suspected_at_once_and_the_fresh_frame_decides() -> None:
    for number, (spoilt, name) in enumerate(
        [
            (lambda p: (p * 0.1 + 115).astype(np.uint8), "grey-out"),
            (
                lambda p: np.repeat(p.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
                "loss or excess of colour",
            ),
            (lambda p: np.clip(p + np.array([40.0, 0, -40]), 0, 255).astype(np.uint8), "colour cast"),
        ]
    ):
        watch, picture = settled()
        bad = spoilt(picture)
        assert watch.check(bad, picture) is not None, number
        assert watch.confirm(bad, picture, picture) == name
        watch, picture = settled()
        assert watch.check(bad, picture) is not None
        assert watch.confirm(bad, bad, picture) is None  # the look is like that here: not the past's fault
        assert all(watch.check(bad, picture) is None for _ in range(40))


def test_strokes_that_stay_may_be_bolder_than_those_of_one_frame_but_not_fainter() -> None:
    strokes = np.random.default_rng(2).normal(0, 1, (96, 128, 1)) * np.ones(3)
    single = (120 + 15 * strokes).astype(np.uint8)
    for amplitude, fault in ((1.4, False), (0.85, False), (2.2, True), (0.65, True)):
        found = DriftGuard().confirm((120 + 15 * amplitude * strokes).clip(0, 255).astype(np.uint8), single, single)
        assert bool(found) == fault, amplitude


def test_guard_has_all_its_rechecks_for_another_stream() -> None:
    watch, picture = settled()
    bad = (picture * 0.6 + 30).astype(np.uint8)
    asked = [watch.check(bad, picture) and watch.confirm(bad, bad, picture) for _ in range(1)]
    assert asked == [None]  # the look is like that
    watch._rechecks = 0.0  # spent in vain
    watch.reset()
    assert watch.state()[1] == DriftGuard().state()[1]
    assert all(watch.check(picture, picture) is None for _ in range(40))
    assert watch.check((picture * 0.1 + 115).astype(np.uint8), picture) is not None


def test_slow_drift_is_suspected_too() -> None:
    watch, picture = settled()
    faded = [np.clip(128 + (picture.astype(float) - 128) * 0.993**n, 0, 255).astype(np.uint8) for n in range(150)]
    found = [watch.check(frame, picture) for frame in faded]
    first = next(n for n, name in enumerate(found) if name)
    assert 20 < first < 80
    assert watch.confirm(faded[first], picture, picture)


def test_the_switch_and_scenery() -> None:
    off, picture = DriftGuard(enabled=False), texture()
    assert all(off.check(np.zeros_like(picture), picture) is None for _ in range(100))
    watch = DriftGuard()
    rng = np.random.default_rng(1)
    scenes = [np.clip(texture(32, 32, seed=n) * rng.uniform(0.1, 1.5), 0, 255).astype(np.uint8) for n in range(20)]
    asked = 0
    for _ in range(1000):  # outputs that have nothing to do with their inputs
        out, rgb = scenes[rng.integers(20)], scenes[rng.integers(20)]
        if watch.check(out, rgb):
            asked += 1
            watch.confirm(out, out, rgb)
    assert 5 <= asked <= 1000 / guards.FRAMES_PER_RECHECK + guards.MOST_RECHECKS


def test_every_eighth_frame_is_enough_for_a_fast_device() -> None:
    watch, picture = settled(80, every=8)
    bad = (picture * 0.1 + 115).astype(np.uint8)
    found = [watch.check(bad, picture) for _ in range(8)]
    assert sum(name is not None for name in found) == 1


# --- a network that believes all it remembers ------------------------------------------------------


def credulous(keep: float, **options) -> Session:
    """A session whose network copies most of its past, so that damage stays unless the guard acts."""

    class Credulous(TorchPainter):
        def denoise(self, frame, past):
            styled = -0.8 * frame
            kept = torch.where(past.valid[:, None, None, None] > 0, keep * past.last + (1 - keep) * styled, styled)
            return Prediction(kept, torch.zeros_like(frame[:, :1]), torch.zeros_like(self.tokens))

    model = tiny_model()
    painter = Credulous(model.net, (64, 48), steps=1, seed=0, reason="a test")
    return Session(model, width=64, height=48, painter=painter, **options)


@pytest.mark.slow
@pytest.mark.parametrize("still", [True, False], ids=["still", "moving"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_mended_within_ten_frames(kind: str, still: bool, caplog: pytest.LogCaptureFixture) -> None:
    frames = moving(1) * (DAMAGED + RECOVERY_FRAMES + 1) if still else moving(DAMAGED + RECOVERY_FRAMES + 1)
    keep = 0.98 if still else 0.9  # more would be blurred by moving it, and mended for that
    guarded, bare, undisturbed = credulous(keep), credulous(keep, guard=False), credulous(keep)
    with caplog.at_level(logging.INFO, "mirage_cli.stream.session"):
        for number, frame in enumerate(frames):
            if number == DAMAGED:
                damage(guarded, kind)
                if kind != "nan":
                    damage(bare, kind)
            good, mended, spoilt = (session.step(frame) for session in (undisturbed, guarded, bare))
            truth = (255 - (frame * 0.8 + 25.5)).astype(np.uint8)
            if number == DAMAGED - 1:
                assert gap(good, mended) == 0.0
            if number == DAMAGED + 4 and kind != "nan":
                assert gap(spoilt, truth) > gap(good, truth) + 4
            if number >= DAMAGED + 4:  # and stays so to the tenth frame
                assert gap(mended, truth) < gap(good, truth) + 1
    assert guarded.counters["guard_events"] == 1 and f"drift guard at frame {DAMAGED}" in caplog.text
    assert undisturbed.counters["guard_events"] == bare.counters["guard_events"] == 0


def test_a_suspicion_that_comes_to_nothing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving(30)
    suspicious, plain = (Session(tiny_model(), width=64, height=48, guard=on) for on in (True, False))
    calls = iter(range(1000))
    monkeypatch.setattr(suspicious.guard, "check", lambda *_: "grey-out" if next(calls) % 5 == 4 else None)
    monkeypatch.setattr(suspicious.guard, "confirm", lambda *_: None)
    assert all(np.array_equal(suspicious.step(frame), plain.step(frame)) for frame in frames)
    assert suspicious.counters["guard_opinions"] == 6 and suspicious.counters["guard_events"] == 0
    assert suspicious.report.stages["denoise"] > 0


def test_the_state_of_a_guard_is_whole() -> None:
    watch, picture = settled(13)
    again = DriftGuard()
    again.load_state(*watch.state())
    faded = [(picture * (1 - 0.01 * n)).astype(np.uint8) for n in range(60)]
    found = [watch.check(frame, picture) for frame in faded]
    assert found == [again.check(frame, picture) for frame in faded]
    assert any(found)


# --- the shipped model -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("look", ["starry-night", "pastel-haze"])
@pytest.mark.parametrize("still", [True, False], ids=["still", "moving"])
def test_the_shipped_model_comes_back(look: str, still: bool) -> None:
    """Its tone is that of an undisturbed run, and it is no farther from it than a stream begun anew there.

    Strokes may lie elsewhere after a restart; that is no fault.
    """
    frames = moving(34, 96, 128) if not still else moving(1, 96, 128) * 34
    session = Session(open_model("lsd-small"), width=128, height=96)
    session.set_look({look: 1.0})
    for frame in frames[:22]:
        session.step(frame)
    saved = session.state()

    def last(before=lambda: None) -> np.ndarray:
        session.load_state(saved)
        before()
        return [session.step(frame) for frame in frames[22 : 22 + RECOVERY_FRAMES]][-1]

    good, anew = last(), last(session.reset)
    for kind in KINDS:
        mended = last(functools.partial(damage, session, kind))
        assert gap(good, mended) <= 1.25 * gap(good, anew) + 2.0, kind
        apart = np.abs(guards.difference(guards.picture_numbers(good), guards.picture_numbers(mended)))
        assert (apart < guards.CONFIRMED).all(), (kind, apart)
