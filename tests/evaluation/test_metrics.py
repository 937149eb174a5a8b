"""Each metric calls a known-good case good and a known-bad case bad."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.pictures import texture

from mirage_cli.evaluation import metrics


def test_look_of_flat_frames_is_known() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    look = metrics.frame_look(red)
    assert look.luma_mean == pytest.approx(0.2126, abs=1e-5)
    assert look.luma_spread == pytest.approx(0.0, abs=1e-6)
    assert look.saturation == pytest.approx(1.0)
    assert look.sharpness == pytest.approx(0.0, abs=1e-9)


def test_luma_spread_of_half_black_half_white() -> None:
    frame = np.zeros((10, 10, 3), np.uint8)
    frame[:, 5:] = 255
    look = metrics.frame_look(frame)
    assert look.luma_mean == pytest.approx(0.5, abs=1e-5)
    assert look.luma_spread == pytest.approx(0.5, abs=1e-5)


def test_sharpness_falls_with_blur_and_saturation_with_grey() -> None:
    frame = texture()
    blurred = cv2.GaussianBlur(frame, (0, 0), 3.0)
    grey = np.repeat(frame.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    whole = metrics.frame_look(frame)
    assert metrics.frame_look(blurred).sharpness < 0.2 * whole.sharpness
    assert metrics.frame_look(grey).saturation == 0.0 < whole.saturation


def test_stripes_rise_with_smears_and_grey_with_lost_colour() -> None:
    frame = texture(grain=1.0)
    smeared = cv2.blur(frame, (41, 1))
    smeared = np.clip((smeared.astype(float) - 128) * 4 + 128, 0, 255).astype(np.uint8)
    assert metrics.frame_look(frame).stripes < 0.05
    assert metrics.frame_look(smeared).stripes > 0.6
    flat = np.full_like(frame, 128)
    assert metrics.frame_look(flat).stripes == 0.0  # nothing there has no direction
    assert metrics.frame_look(frame).grey < 0.1 and metrics.frame_look(flat).grey == 1.0


def test_edges_are_kept_by_a_new_tone_and_lost_by_another_picture() -> None:
    frame = texture(grain=4.0)
    assert metrics.edges_kept(frame, frame) == pytest.approx(1.0)
    toned = (frame[..., ::-1] // 2 + 60).astype(np.uint8)
    assert metrics.edges_kept(frame, np.ascontiguousarray(toned)) > 0.5
    assert abs(metrics.edges_kept(frame, texture(seed=8, grain=4.0))) < 0.25
    strokes = texture(seed=9, grain=0.8)  # full of edges, none of them where it matters
    assert metrics.edges_kept(frame, strokes) < 0.25


def test_warped_error_of_a_pan_is_small_and_of_flicker_is_large() -> None:
    wide = texture(96, 160)
    inputs = (wide[:, 0:128].copy(), wide[:, 4:132].copy())
    styled = tuple(255 - frame for frame in inputs)
    assert metrics.warped_error(inputs, styled) < 0.02
    flicker = (styled[0], np.clip(styled[1].astype(int) + 40, 0, 255).astype(np.uint8))
    assert metrics.warped_error(inputs, flicker) > 0.1
    known = metrics.FlowWarper().motion(*inputs)
    assert metrics.warped_gap(*flicker, *known) == metrics.warped_error(inputs, flicker)
    frozen = (styled[0], styled[0])  # an output that does not move with the picture
    assert metrics.warped_error(inputs, frozen) > 0.05


def test_warped_error_leaves_out_what_was_not_visible() -> None:
    wide = texture(192, 320, grain=5.0)
    where, seen = metrics.FlowWarper().motion(wide[:, 0:256].copy(), wide[:, 16:272].copy())
    assert where.shape == (192, 256, 2) and seen.shape == (192, 256)
    assert seen[:, 16:220].mean() > 0.9
    assert np.median(where[:, 16:220, 0] - np.arange(16, 220)) == pytest.approx(16, abs=0.5)
    assert seen[:, 246:].mean() < 0.1  # came into the picture from the right


def test_psnr() -> None:
    frame = texture()
    assert metrics.psnr_db(frame, frame) == float("inf")
    assert metrics.psnr_db(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)) == 0.0
    with pytest.raises(ValueError):
        metrics.psnr_db(frame, frame[:10])


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_frames_of_another_kind_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        metrics.frame_look(bad)
