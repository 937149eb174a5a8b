"""Fidelity to the teacher on known warps: a camera walks a closed path over stills.

The teacher paints each still once and its picture takes the same path, so every frame has an exact
target, and every place comes back after ``PERIOD`` frames: a model that feeds on its own errors is worse at
a later return than at the first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_cli.errors import MirageError
from mirage_cli.evaluation.clips import Clip
from mirage_cli.evaluation.metrics import FlowWarper, edges_kept, warped_gap
from mirage_cli.evaluation.perceptual import PerceptualDistance
from mirage_cli.evaluation.strokes import stroke_numbers, weave_levels
from mirage_cli.models import catalog
from mirage_cli.models.catalog import IDENTITY
from mirage_cli.stream.model import Model
from mirage_cli.teachers.choose import Teachers, filter_looks
from mirage_cli.training.data import load_stills, shuffled
from mirage_cli.training.known_warps import FIRST, error_summary, known_warp, ratio

PERIOD = 100
STILL_SIZE = (512, 704)  # height, width; the camera's window is WINDOW pixels a side
WINDOW = 256
WARP_PAIRS = range(10, 34)  # neighbours whose warped error is taken
JUDGED_AT = (4, 12, 24, 36, 49)  # frames of a round whose perceptual distance is taken
STROKES_AT = JUDGED_AT[-1]  # next to the first frame, whose strokes have no past to lean on
STEP_FRAMES, STEP_JUDGED = 20, (4, 9, 14, 19)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass
class TeacherSet:
    """Who paints which look, and what cannot be painted here.

    Attributes:
        looks: the looks that can be painted, in the model's order.
        skipped: look -> why it cannot.
    """

    teachers: Teachers
    looks: list[str]
    skipped: dict[str, str]


def open_teachers(looks: Iterable[str], data: str | None, model: str, device: torch.device) -> TeacherSet:
    """The teachers of a model's looks; those painted by networks need the training data folder.

    Which of two teachers a look was trained on is read from the train.toml next to the model's weights, or
    next to those of the bundled model.
    """
    preferred: list[str] = []
    for folder in (catalog.model_dir(model), catalog.model_dir()):
        if (folder / "train.toml").is_file():
            preferred = tomllib.loads((folder / "train.toml").read_text("utf-8")).get("prefer_filters", [])
            break
    root = Path(data) if data is not None else None
    by_filter, skipped, known = filter_looks(preferred), {}, []
    if root is not None:
        from mirage_cli.teachers.neural_recipes import RECIPES

        by_filter = by_filter | set(RECIPES)
    for look in looks:
        if look == IDENTITY:
            continue
        if look in by_filter:
            known.append(look)
        else:
            skipped[look] = (
                "painted by a style network; --data names the training data" if root is None else "no teacher"
            )
    return TeacherSet(Teachers(root, known, preferred, device), known, skipped)


def choose_stills(data: str | None, clips: list[Clip], count: int) -> list[np.ndarray]:
    """Stills never trained on: of the data's validation photos, else frames of the clips. uint8 [H, W, 3]."""
    if data is not None:
        stills = shuffled(load_stills(Path(data), "val", True, 0, 0), 5)
        if stills:
            return stills[:count]
    places = [
        (clip, len(clip.frames) * (1 + k // len(clips)) // (2 + count // len(clips)))
        for k, clip in enumerate((clips * count)[:count])
    ]
    return [clip.frames[place] for clip, place in places]


class KnownWarps:
    """The paths over the stills, for one model; ``measure`` and ``measure_steps`` take one look each.

    Args:
        stills: uint8 [H, W, 3] each.
        perceptual: None leaves the perceptual distances out.
        period: frames of one round, more than any frame that is judged in it.
        seed: of the noise.
        without: parts of the model to leave out, see ``Model.roll``.
    """

    def __init__(
        self,
        model: Model,
        teachers: TeacherSet,
        stills: list[np.ndarray],
        perceptual: PerceptualDistance | None,
        period: int = PERIOD,
        seed: int = 0,
        without: Sequence[str] = (),
    ) -> None:
        self.model, self.teachers, self.stills, self.perceptual = model, teachers, stills, perceptual
        self.period, self.seed, self.without = period, seed, without
        self.motions: list[list] = []
        self._video: tuple[str, Tensor, Tensor] | None = None

    def video(self, look: str) -> tuple[Tensor, Tensor]:
        """Frames and targets of one round, [period, B, 3, h, w] in [-1, 1]."""
        if self._video is None or self._video[0] != look:
            teachers, device = self.teachers.teachers, self.model.device
            self._video = look, *known_warp(teachers, look, self.stills, STILL_SIZE, WINDOW, self.period, device)
        return self._video[1:]

    def _roll(self, frames: Iterable[Tensor], look: str, steps: int, history: bool) -> Iterable[Tensor]:
        rolled = self.model.roll(
            frames, {look: 1.0}, steps=steps, seed=self.seed, history=history, without=self.without
        )
        if rolled is None:
            raise MirageError(f"models such as {self.model.name} are not measured on known warps", "Try --parts drift.")
        return rolled

    def measure(
        self,
        look: str,
        returns: int,
        steps: int = 1,
        history: bool = True,
        deadline: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> dict:
        """L1 and perceptual distance to the teacher, at the start and at returns, with and without history.

        Errors are mean absolute differences of values in [-1, 1].

        Raises:
            MirageError: the model's family cannot be measured so.
        """
        frames, targets = self.video(look)
        period, total = self.period, returns * self.period + FIRST
        errors, kept, first_round, last_round = [], {}, [], []
        rounds = (frames[i % period] for i in range(total))
        half = period // 2
        for i, out in enumerate(self._roll(rounds, look, steps, history)):
            errors.append((out - targets[i % period]).abs().mean())
            if i == 0 or i < period and (i in JUDGED_AT or i in WARP_PAIRS or i - 1 in WARP_PAIRS):
                kept[i] = out
            if half <= i < half + FIRST:
                first_round.append(out)
            elif half <= i - (returns - 1) * period < half + FIRST:
                last_round.append(out)
            if i % 25 == 24:
                errors[-1] = errors[-1].cpu()  # let the device catch up before the clock is read
                if clock() > deadline:
                    break
        error = [float(e) for e in errors]
        alone = list(self._roll(iter(frames), look, steps, False))
        off = torch.stack([(out - target).abs().mean() for out, target in zip(alone, targets)]).tolist()
        result = {"stills": len(self.stills), "returns_asked": returns, **error_summary(error, off, period)}
        if len(last_round) == FIRST and returns > 1:
            apart = [(a - b).abs().mean() for a, b in zip(first_round, last_round)]
            result["return_difference"] = float(torch.stack(apart).mean())
        result |= self._judged(frames, targets, kept, alone)
        return result

    def _judged(self, frames: Tensor, targets: Tensor, kept: dict[int, Tensor], alone: list[Tensor]) -> dict:
        """Perceptual distances, strokes, weave, warped errors (model, history off, teacher), edges of round one."""
        result: dict = {}
        places = [i for i in JUDGED_AT if i in kept]
        for name, i in (("strokes_first", 0), ("strokes", STROKES_AT)):
            if i in kept:
                found = stroke_numbers(kept[i], targets[i], frames[i])
                result |= {name: found["strength"], f"{name}_likeness": found["likeness"]}
                result[name.replace("strokes", "weave_levels")] = weave_levels(kept[i], targets[i])
        if self.perceptual is not None and places:
            result["perceptual"] = self._distance(kept, targets, places)
            result["perceptual_history_off"] = self._distance(alone, targets, places)
        if all(i in kept for i in (WARP_PAIRS[0], WARP_PAIRS[-1] + 1)):
            numbers = range(WARP_PAIRS[0], WARP_PAIRS[-1] + 2)
            pictures = {
                name: {i: levels(video[i]) for i in numbers}
                for name, video in (("model", kept), ("off", alone), ("teacher", targets))
            }
            if not self.motions:
                inputs, warper = {i: levels(frames[i]) for i in numbers}, FlowWarper()
                self.motions = [
                    [warper.motion(inputs[i][s], inputs[i + 1][s]) for s in range(len(self.stills))] for i in WARP_PAIRS
                ]
            error = {name: self._warped_error(shown) for name, shown in pictures.items()}
            inputs = {i: levels(frames[i]) for i in places}
            result |= {
                "warped_error": error["model"],
                "warped_error_history_off": error["off"],
                "warped_error_teacher": error["teacher"],
                "warped_error_over_history_off": ratio(error["model"], error["off"]),
                "warped_error_over_teacher": ratio(error["model"], error["teacher"]),
                "edges_kept": _edges(inputs, {i: levels(kept[i]) for i in places}),
                "edges_kept_teacher": _edges(inputs, {i: levels(targets[i]) for i in places}),
            }
        return result

    def _distance(
        self, video: Mapping[int, Tensor] | Sequence[Tensor], targets: Tensor, places: Iterable[int]
    ) -> float:
        assert self.perceptual is not None, "asked for only where there are weights"
        return float(torch.stack([self.perceptual(video[i].clamp(-1, 1), targets[i]).mean() for i in places]).mean())

    def _warped_error(self, pictures: dict[int, np.ndarray]) -> float:
        gaps = [
            warped_gap(pictures[i][s], pictures[i + 1][s], *self.motions[i - WARP_PAIRS[0]][s])
            for i in WARP_PAIRS
            for s in range(len(self.stills))
        ]
        return float(np.nanmean(gaps))

    def measure_steps(self, look: str, against: int = 4) -> dict:
        """Distance to the teacher in one step and in ``against`` steps, on the same frames."""
        frames, targets = self.video(look)
        result: dict = {}
        for steps in (1, against):
            out = list(self._roll(iter(frames[:STEP_FRAMES]), look, steps, True))
            result[f"l1_{steps}"] = float(torch.stack([(out[i] - targets[i]).abs().mean() for i in STEP_JUDGED]).mean())
            if self.perceptual is not None:
                result[f"perceptual_{steps}"] = self._distance(out, targets, STEP_JUDGED)
        for name in ("l1", "perceptual"):
            if f"{name}_{against}" in result:
                result[f"{name}_1_over_{against}"] = ratio(result[f"{name}_1"], result[f"{name}_{against}"])
        return result


def levels(pictures: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3] on the host."""
    shown = (pictures.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return shown.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _edges(inputs: dict[int, np.ndarray], shown: dict[int, np.ndarray]) -> float:
    kept = [edges_kept(a, b) for i in inputs for a, b in zip(inputs[i], shown[i])]
    return float(np.nanmean(kept))
