"""Drift and flicker: a known-good stream is called good and a known-bad one bad."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.pictures import texture
from helpers.sessions import moving
from helpers.streams import Painter, clip, mixed, of, toned

from mirage_cli.evaluation import drift, temporal
from mirage_cli.evaluation.clips import Clip
from mirage_cli.training.known_warps import error_summary


def test_the_same_places_are_compared_so_a_steady_look_has_no_drift_at_all() -> None:
    found = of(toned)
    assert found["complete"] and found["frames"] == 200
    assert found["drift"]["video_drift_error_worst"] < 1e-6
    assert all(ratio == pytest.approx(1.0, abs=1e-6) for ratio in found["drift"]["tail_over_head"].values())
    assert found["return_difference_levels"] == 0.0
    assert set(found["pictures"]) == {1, 100}


@pytest.mark.parametrize(
    "paint, name",
    [
        (lambda n, rgb: mixed(toned(n, rgb), 128.0, min(1, n / 300)), "luma_spread"),
        (lambda n, rgb: mixed(toned(n, rgb), toned(n, rgb).mean(axis=2, keepdims=True), min(1, n / 250)), "saturation"),
        (lambda n, rgb: cv2.GaussianBlur(toned(n, rgb), (0, 0), 0.3 + n / 80), "sharpness"),
        (lambda n, rgb: np.clip(toned(n, rgb).astype(int) + n // 4, 0, 255).astype(np.uint8), "luma_mean"),
    ],
    ids=["greys out", "loses colour", "blurs", "brightens"],
)
def test_streams_that_drift_are_caught(paint, name: str) -> None:
    found = of(paint)
    assert found["drift"]["video_drift_error"][name] > 0.05
    assert abs(found["drift"]["tail_over_head"][name] - 1) > 0.1
    assert found["return_difference_levels"] > 1.0


def test_smears_make_stripes_rise() -> None:
    def smear(n: int, rgb: np.ndarray) -> np.ndarray:
        share = min(1.0, n / 60)
        rough = np.tile(texture(64, 1, grain=0.8, seed=2)[:48], (1, 64, 1))
        return mixed(rgb, rough.astype(float), share)

    assert of(smear)["drift"]["stripes_rise"] > 0.3
    assert abs(of(toned)["drift"]["stripes_rise"]) < 1e-6


def test_video_drift_error_is_a_weighted_mean_of_departures() -> None:
    numbers = drift.Numbers.of(drift.ANCHORED + 30, 10)
    numbers.values[:, drift.NAMES.index("luma_mean")] = 0.5
    numbers.values[drift.ANCHORED + 10 :, drift.NAMES.index("luma_mean")] = 0.6
    numbers.values[drift.ANCHORED + 20 :, drift.NAMES.index("luma_mean")] = 0.55
    numbers.count = len(numbers.values)
    floor = drift.FLOOR["luma_mean"]
    expected = (2 * 0.1 + 1 * 0.05) / 3 / (0.5 + floor)  # weights N - i + 1 over their sum
    assert drift.video_drift_error(numbers)["luma_mean"] == pytest.approx(expected, rel=1e-5)
    short = drift.Numbers.of(20, 10)
    with pytest.raises(ValueError, match="needs 36"):
        drift.tail_over_head(short)


def test_a_stream_stops_at_its_deadline_and_says_how_far_it_came() -> None:
    ticks = iter(range(10_000))
    found = of(toned, deadline=120.0, clock=lambda: float(next(ticks)))
    assert not found["complete"] and 60 < found["frames"] < 200 and found["frames_asked"] == 200


def test_history_off_hides_the_past_before_every_frame() -> None:
    session = Painter(toned)
    list(drift.measure_drift(session, clip(), 100, history=False))
    assert session.hidden
    session = Painter(toned)
    list(drift.measure_drift(session, clip(), 100))
    assert not session.hidden


def test_temporal_tells_a_steady_look_from_a_flickering_one() -> None:
    motion = temporal.ClipMotion(Clip("pan", np.stack(moving(20, 96, 128)), ""), 8)
    noise = np.random.default_rng(5)

    def flickering(n: int, rgb: np.ndarray) -> np.ndarray:
        return np.clip(toned(n, rgb) + noise.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8)

    steady = temporal.measure_temporal(Painter(toned), motion)
    bad = temporal.measure_temporal(Painter(flickering), motion)
    assert steady["warped_error"] < motion.input_error and bad["warped_error"] > 3 * steady["warped_error"]
    assert steady["still_flicker_levels"] == 0.0 and bad["still_flicker_levels"] > 5
    assert steady["edges_kept"] > 0.9
    elsewhere = temporal.measure_temporal(Painter(lambda n, rgb: texture(96, 128, seed=n)), motion)
    assert elsewhere["edges_kept"] < 0.3


def test_one_return_says_nothing_of_the_last_over_the_first() -> None:
    errors = [0.1] * 10 + [0.3] * 5
    assert error_summary(errors, [0.1] * 10, 10)["last_over_first_return"] is None
    assert error_summary(errors + [0.3] * 10, [0.1] * 10, 10)["last_over_first_return"] == pytest.approx(1.0)
