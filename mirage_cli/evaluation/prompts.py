"""Prompts judged on the picture: does an unseen paraphrase give the picture of its look?

The text classifier is not asked. The model paints a few frames as the paraphrase says, and the
picture's statistics are compared with those of every teacher on the same frames; the nearest teacher
is the look that a viewer would name.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from mirage_cli.evaluation.fidelity import TeacherSet, levels
from mirage_cli.evaluation.metrics import frame_look, luma

PAINTED = 3  # frames of the same picture that the model is given; the last one is judged
QUANTILES = (5, 25, 50, 75, 95)
BANDS = 4


def picture_statistics(picture: np.ndarray, source: np.ndarray) -> np.ndarray:
    """What a look does to a picture, as numbers on unlike scales: float64 [31].

    Mean and spread of CIE L*a*b*, quantiles of luma, energy in the octaves of a Laplacian pyramid (Burt
    and Adelson, 1983), of colour in two of them, likeness to the source's luma, stripes, and the mean
    colour where the source is dark, middling and bright.

    Args:
        picture: the styled frame; source: what it was made from; uint8 [H, W, 3].
    """
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float64)
    light, before = luma(picture), luma(source)
    numbers = [*lab.mean(axis=(0, 1)), *lab.std(axis=(0, 1)), *(255 * np.percentile(light, QUANTILES))]
    numbers += [20 * e for e in _octaves(light * 255)]
    numbers += [20 * e for channel in (1, 2) for e in _octaves(lab[..., channel].astype(np.float32))[1:3]]
    likeness = np.corrcoef(light.ravel(), before.ravel())[0, 1] if light.std() > 0 and before.std() > 0 else 0.0
    numbers += [100 * likeness, 100 * frame_look(picture).stripes]
    low, high = np.percentile(before, (33, 67))
    for where in (before <= low, (before > low) & (before < high), before >= high):
        numbers += list(lab[where].mean(axis=0)) if where.any() else [0.0] * 3
    return np.array(numbers)


def _octaves(light: np.ndarray) -> list[float]:
    """log of the RMS in each octave, from pixels up: [H, W] in levels -> BANDS numbers."""
    result = []
    for _ in range(BANDS):
        small = cv2.pyrDown(light)
        detail = light - cv2.pyrUp(small, dstsize=light.shape[::-1])
        result.append(float(np.log(np.sqrt((detail**2).mean()) + 0.3)))
        light = small
    return result


class PictureJudge:
    """Names the look of a styled frame: the teacher with the nearest statistics on the same frame.

    Args:
        painted: look -> the teacher's pictures of the frames, uint8 [H, W, 3] each.
        sources: the frames.
    """

    def __init__(self, painted: dict[str, list[np.ndarray]], sources: list[np.ndarray]) -> None:
        self.looks, self.sources = list(painted), sources
        # [looks, frames, numbers]
        known = np.array([[picture_statistics(p, s) for p, s in zip(painted[look], sources)] for look in self.looks])
        self.centre, self.scale = known.mean(axis=0), known.std(axis=0) + 1.0
        self.known = (known - self.centre) / self.scale

    def judge(self, pictures: list[np.ndarray]) -> list[tuple[str, float]]:
        """All looks, nearest first, with their distances, for the model's pictures of the frames."""
        shown = np.array([picture_statistics(p, s) for p, s in zip(pictures, self.sources)])
        gaps = np.sqrt((((shown - self.centre) / self.scale - self.known) ** 2).mean(axis=2)).mean(axis=1)
        return sorted(zip(self.looks, gaps.tolist()), key=lambda item: item[1])


def teacher_pictures(
    teachers: TeacherSet, frames: list[np.ndarray], device: torch.device
) -> dict[str, list[np.ndarray]]:
    """Every look's teacher on every frame; frames uint8 [H, W, 3], sides multiples of 8."""
    rgb = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).to(device).float() / 255
    result = {}
    for look in teachers.looks:
        with torch.inference_mode():
            result[look] = list(levels(teachers.teachers.render(look, rgb) * 2 - 1))
    return result


def measure_prompts(
    judge: PictureJudge,
    paint: Callable[[dict[str, float]], list[np.ndarray]],
    match: Callable[[str], dict[str, float]],
    paraphrases: list[tuple[str, str]],
) -> dict:
    """How often paraphrases give the picture of their look.

    Args:
        paint: weights of looks -> the model's pictures of the judge's frames.
        match: a prompt -> weights of looks.
        paraphrases: (look, text), of looks that the judge knows.

    Returns:
        "share" of the paraphrases whose picture is nearest to their look's teacher; "by_name", the same
        for the looks' own names, that is, without the text's part in the errors; what was taken for what.
    """
    painted: dict[tuple, str] = {}

    def seen(weights: dict[str, float]) -> str:
        key = tuple(sorted((look, round(weight, 3)) for look, weight in weights.items()))
        if key not in painted:
            painted[key] = judge.judge(paint(weights))[0][0]
        return painted[key]

    by_name = {look: seen({look: 1.0}) for look in judge.looks}
    wrong = []
    for look, text in paraphrases:
        weights = match(text)
        picture = seen(weights)
        if picture != look:
            wrong.append(
                {
                    "prompt": text,
                    "look": look,
                    "read_as": max(weights, key=lambda name: weights[name]),
                    "picture": picture,
                }
            )
    count = len(paraphrases)
    return {
        "paraphrases": count,
        "looks": len(judge.looks),
        "share": (count - len(wrong)) / count if count else None,
        "by_name": sum(look == picture for look, picture in by_name.items()) / len(by_name),
        "by_name_taken_for": {look: picture for look, picture in by_name.items() if look != picture},
        "wrong": wrong,
    }
