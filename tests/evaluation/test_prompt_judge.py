"""Prompts are judged on the picture that they paint."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from helpers.pictures import texture

from mirage_cli.evaluation import fidelity, prompts


@pytest.fixture(scope="module")
def judge() -> prompts.PictureJudge:
    """Five looks' own teachers on two pictures."""
    teachers = fidelity.open_teachers(
        ["night", "film-noir", "thermal", "cartoon", "charcoal"], None, "lsd-small", torch.device("cpu")
    )
    sources = [texture(96, 128, seed=seed, grain=5.0) for seed in (1, 2)]
    return prompts.PictureJudge(prompts.teacher_pictures(teachers, sources, torch.device("cpu")), sources)


def painted_by(judge: prompts.PictureJudge, look: str) -> list[np.ndarray]:
    """The teacher's pictures as a small network would give them: softer and a little off in tone."""
    teachers = fidelity.open_teachers([look], None, "lsd-small", torch.device("cpu"))
    pictures_ = prompts.teacher_pictures(teachers, judge.sources, torch.device("cpu"))[look]
    return [np.clip(cv2.GaussianBlur(p, (0, 0), 0.7) * 0.95 + 8, 0, 255).astype(np.uint8) for p in pictures_]


@pytest.mark.slow
def test_pictures_are_named_by_their_statistics(judge: prompts.PictureJudge) -> None:
    for look in judge.looks:
        ranked = judge.judge(painted_by(judge, look))
        assert ranked[0][0] == look and ranked[0][1] < 0.7 * ranked[1][1], ranked


@pytest.mark.slow
def test_prompts_are_judged_on_the_picture_not_on_the_text(judge: prompts.PictureJudge) -> None:
    def match(text: str) -> dict[str, float]:
        return {text.split()[0]: 1.0}

    unseen = [("night", "night sky"), ("thermal", "thermal camera"), ("charcoal", "cartoon by a slip of the text")]

    def paint(weights: dict[str, float]) -> list[np.ndarray]:
        return painted_by(judge, next(iter(weights)))

    good = prompts.measure_prompts(judge, paint, match, unseen)
    assert good["by_name"] == 1.0 and good["share"] == pytest.approx(2 / 3)
    assert good["wrong"] == [{"prompt": unseen[2][1], "look": "charcoal", "read_as": "cartoon", "picture": "cartoon"}]

    def always_noir(weights: dict[str, float]) -> list[np.ndarray]:  # reads well, paints one thing
        return painted_by(judge, "film-noir")

    bad = prompts.measure_prompts(judge, always_noir, match, unseen)
    assert bad["share"] == 0.0 and bad["by_name"] == pytest.approx(1 / 5)
