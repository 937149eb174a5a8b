"""Nearness to the teacher: known warps, strokes, weaves and the perceptual distance."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.pictures import texture
from helpers.sessions import tiny_model

from mirage_cli.errors import ModelError
from mirage_cli.evaluation import fidelity, perceptual, strokes

# --- fidelity --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warps():
    with pytest.MonkeyPatch.context() as patch:  # a quarter of the pixels
        patch.setattr(fidelity, "WINDOW", 128)
        patch.setattr(fidelity, "STILL_SIZE", (256, 352))
        yield small_warps()


def small_warps() -> fidelity.KnownWarps:
    model = tiny_model()
    model.net.config = type(model.net.config)(**{**vars(model.net.config), "looks": ("night", "film-noir", "identity")})
    teachers = fidelity.open_teachers(["night", "film-noir", "gauguin", "identity"], None, "lsd-small", model.device)
    assert teachers.looks == ["night", "film-noir"] and "--data" in teachers.skipped["gauguin"]
    still = texture(300, 400, grain=6.0)
    return fidelity.KnownWarps(model, teachers, [still], None, period=56)


@pytest.mark.slow
def test_known_warps_return_and_grade_the_teacher_itself_as_perfect(warps, monkeypatch) -> None:
    frames, targets = warps.video("film-noir")  # its vignette stays on the screen
    assert frames.shape == targets.shape == (56, 1, 3, 128, 128)
    assert (frames[0] - frames[28]).abs().mean() > 0.05  # the camera goes away in between
    monkeypatch.setattr(
        warps, "_roll", lambda rounds, look, steps, history: (targets[i % 56] for i, _ in enumerate(rounds))
    )
    found = warps.measure("film-noir", 2)
    assert found["first_5"] == found["last_return"] == found["return_difference"] == 0.0
    assert found["warped_error"] == found["warped_error_teacher"] and found["returns"] == 2
    assert found["edges_kept"] == found["edges_kept_teacher"] > 0.3
    for name in ("strokes_first", "strokes", "strokes_first_likeness", "strokes_likeness"):
        assert found[name] == pytest.approx(1.0, abs=1e-5)
    assert found["weave_levels_first"] == found["weave_levels"] == 0.0


@pytest.mark.slow
def test_errors_that_grow_from_return_to_return_are_seen(warps, monkeypatch) -> None:
    _, targets = warps.video("night")

    def worse(rounds, look, steps, history):
        for i, _ in enumerate(rounds):
            yield targets[i % 56] + (0.1 + 0.002 * i if history else 0.1)

    monkeypatch.setattr(warps, "_roll", worse)
    found = warps.measure("night", 2)
    assert found["first_5"] == pytest.approx(0.104, abs=1e-4)
    assert found["last_over_first_return"] > 1.4 and found["last_return_over_history_off"] > 2
    assert found["last_return_above_history_off_levels"] == pytest.approx(127.5 * 0.224, rel=0.02)
    assert found["return_difference"] == pytest.approx(0.112, abs=1e-3)


@pytest.mark.slow
def test_the_network_itself_runs_over_known_warps(warps) -> None:
    found = warps.measure("night", 1)
    assert 0 < found["first_5"] < 2 and found["returns"] == 1
    assert found["first_5"] != found["history_off_first_5"]
    steps = warps.measure_steps("night", against=2)
    assert steps["l1_1_over_2"] == steps["l1_1"] / steps["l1_2"] > 0


def test_strokes_count_wherever_they_lie() -> None:
    """Bold strokes elsewhere are as good as the teacher's own; faint ones, a blur and noise are not."""
    scene = torch.zeros(1, 3, 128, 128)
    scene[..., :64] = torch.rand(1, 3, 128, 64, generator=torch.Generator().manual_seed(1)) - 0.5
    generator = torch.Generator().manual_seed(2)
    lines = F.interpolate(torch.rand(1, 3, 32, 32, generator=generator) - 0.5, scale_factor=4.0, mode="bicubic")
    teacher = 0.2 + lines

    def of(picture: torch.Tensor) -> tuple[float, float]:
        found = strokes.stroke_numbers(picture, teacher, scene)
        return found["strength"], found["likeness"]

    assert of(teacher) == pytest.approx((1.0, 1.0))
    strength, likeness = of(teacher.flip(-1))  # other strokes in every window
    assert 0.9 < strength < 1.1 and likeness > 0.95
    strength, likeness = of(0.2 + 0.4 * lines)
    assert 0.35 < strength < 0.6 and likeness < 0.8
    strength, likeness = of(0.2 + 2 * lines)
    assert strength > 1.6 and likeness < 0.9
    assert max(of(F.avg_pool2d(teacher, 9, 1, 4))) < 0.7
    strength, likeness = of(teacher + 0.5 * torch.randn(teacher.shape, generator=generator))
    assert strength > 2 and likeness < 0.8
    # What is not plain in the scene does not count.
    assert of(torch.cat((teacher[..., :64] * 0, teacher[..., 64:]), dim=-1))[1] > 0.9
    with pytest.raises(ValueError, match="32 pixels"):
        strokes.band_strengths(torch.zeros(1, 3, 16, 64))


def test_a_weave_of_the_cells_is_seen_and_strokes_are_not() -> None:
    generator = torch.Generator().manual_seed(2)
    teacher, elsewhere = (
        0.8 * F.interpolate(torch.rand(1, 3, 64, 64, generator=generator) - 0.5, scale_factor=4.0, mode="bicubic")
        for _ in range(2)
    )
    assert strokes.weave_levels(teacher, teacher) == 0.0
    assert strokes.weave_levels(elsewhere, teacher) < 0.5 < 10 < 127.5 * float((elsewhere - teacher).std())
    checks = 8 / 255 * (1 - 2 * ((torch.arange(256)[:, None] + torch.arange(256)) % 2))  # half a period is a pixel
    assert strokes.weave_levels(teacher + checks, teacher) == pytest.approx(4.0, abs=0.1)
    assert strokes.weave_levels(teacher + checks, teacher + checks) == 0.0  # the look's own


# --- perceptual ------------------------------------------------------------------------------------


def test_perceptual_distance_has_the_form_of_one() -> None:
    torch.manual_seed(3)
    distance = perceptual.PerceptualDistance(None)
    for layer in distance.weighting:
        layer.weight.data.abs_()
    picture, other = texture(), texture(seed=4)
    assert distance.of_frames(picture, picture) == 0.0
    assert distance.of_frames(picture, other) == pytest.approx(distance.of_frames(other, picture), rel=1e-5)
    assert distance.of_frames(picture, cv2.GaussianBlur(picture, (0, 0), 1)) > 0


def test_perceptual_distance_with_its_weights() -> None:
    """Values of the package's own code (0.0.2) on the same frames."""
    weights = perceptual.find_weights(None)
    if weights is None:
        pytest.skip("stlpips-pytorch is not installed")
    distance = perceptual.PerceptualDistance(weights)
    one = ((np.arange(96 * 128 * 3, dtype=np.int64).reshape(96, 128, 3) * 7919) % 256).astype(np.uint8)
    assert distance.of_frames(one, cv2.GaussianBlur(one, (0, 0), 1.5)) == pytest.approx(0.642398, abs=1e-4)
    picture = texture()
    shifted, blurred = np.roll(picture, 1, axis=1), cv2.GaussianBlur(picture, (0, 0), 3)
    assert distance.of_frames(picture, shifted) < 0.2 * distance.of_frames(picture, blurred)


def test_foreign_perceptual_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"net.slice1.0.weight": torch.zeros(2, 2, 2, 2)}, tmp_path / "foreign.pth")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    for name in ("foreign.pth", "broken.pth"):
        with pytest.raises(ModelError, match="shift-tolerant"):
            perceptual.PerceptualDistance(tmp_path / name)
    with pytest.raises(ModelError):
        perceptual.find_weights(str(tmp_path / "missing.pth"))
