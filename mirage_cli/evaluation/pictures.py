"""Pictures of an evaluation: the contact sheet by look and frame, and the plot of drift over frames."""

from __future__ import annotations

import colorsys
from pathlib import Path

import cv2
import numpy as np

from mirage_cli.errors import MediaError
from mirage_cli.evaluation.drift import ANCHORED, JUDGED, KEPT_FRAMES

CELL_WIDTH = 192
MARGIN, TITLE = 8, 22
INK, FAINT = (30, 30, 30), (205, 205, 205)


def draw_sheet(path: str, pictures: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]) -> None:
    """Rows are looks; for each of the frames 1, 100, 1000, 10000 that was reached, input and output.

    Args:
        pictures: look -> frame number -> (input, output), uint8 [H, W, 3].

    Raises:
        MediaError: the picture cannot be written.
    """
    numbers = [n for n in KEPT_FRAMES if any(n in shown for shown in pictures.values())]
    first = next(iter(next(iter(pictures.values())).values()))[0]
    width, height = CELL_WIDTH, round(CELL_WIDTH * first.shape[0] / first.shape[1])
    sheet = np.full(
        (TITLE + len(pictures) * (height + TITLE), MARGIN + len(numbers) * (2 * width + MARGIN), 3), 255, np.uint8
    )
    for column, number in enumerate(numbers):
        left = MARGIN + column * (2 * width + MARGIN)
        _write(sheet, f"frame {number}: input, output", left, TITLE - 6)
        for row, (look, shown) in enumerate(pictures.items()):
            top = TITLE + row * (height + TITLE)
            if column == 0:
                _write(sheet, look, left, top + height + TITLE - 8)
            for side, rgb in enumerate(shown.get(number, ())):
                cell = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
                sheet[top : top + height, left + side * width : left + (side + 1) * width] = cell
    _save(path, sheet)


def draw_plot(path: str, looks: dict[str, dict]) -> None:
    """Chunk means over the first chunk's, one panel for each judged number, a line for each look.

    Args:
        looks: the document's; those whose drift was measured are drawn.

    Raises:
        MediaError: the picture cannot be written.
    """
    runs = [
        (look, one)
        for look, found in looks.items()
        for one in found.get("drift", [])
        if "drift" in one and "loop_frames" in one
    ]
    if not runs:
        return
    panel, left, right = (680, 230), 64, 190
    picture = np.full((len(JUDGED) * (panel[1] + 50) + 40, left + panel[0] + right, 3), 255, np.uint8)
    last = max(one["frames"] for _, one in runs)
    colours = [
        tuple(int(255 * v) for v in colorsys.hsv_to_rgb(k / len(runs), 0.85, 0.45 + 0.4 * (k % 2)))
        for k in range(len(runs))
    ]
    for row, name in enumerate(JUDGED):
        lines = []
        for _, one in runs:
            values = np.array(one["drift"]["chunks"][name])
            frames = ANCHORED + one["loop_frames"] * (np.arange(len(values)) + 0.5)
            lines.append((frames, values / max(values[0], 1e-9)))
        reach = max(0.06, *(float(np.abs(values - 1).max()) * 1.1 for _, values in lines))
        top = 30 + row * (panel[1] + 50)

        def place(frame: float, value: float, top: int = top, reach: float = reach) -> tuple[int, int]:
            return round(left + panel[0] * frame / last), round(top + panel[1] * (0.5 - 0.5 * (value - 1) / reach))

        cv2.rectangle(picture, (left, top), (left + panel[0], top + panel[1]), FAINT, 1)
        for value in (1 - reach, 0.95, 1.0, 1.05, 1 + reach):
            y = place(0, value)[1]
            cv2.line(picture, (left, y), (left + panel[0], y), FAINT, 1)
            _write(picture, f"{value:.2f}", 14, y + 5)
        _write(picture, f"{name.replace('_', ' ')}, chunk over first chunk", left, top - 8)
        for (frames, values), colour in zip(lines, colours):
            points = np.array([place(f, v) for f, v in zip(frames, values)], np.int32)
            cv2.polylines(picture, [points], False, colour, 1, cv2.LINE_AA)
        for number in range(5):
            x = left + panel[0] * number // 4
            _write(picture, f"{last * number // 4}", x - 12, top + panel[1] + 16)
    step = min(18, (picture.shape[0] - 40) // len(runs))
    for k, ((look, _), colour) in enumerate(zip(runs, colours)):
        _write(picture, look[:24], left + panel[0] + 10, 40 + k * step, colour)
    _save(path, picture)


def _write(picture: np.ndarray, text: str, x: int, y: int, colour: tuple[int, ...] = INK) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def _save(path: str, rgb: np.ndarray) -> None:
    try:
        written = cv2.imwrite(str(Path(path)), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise MediaError(
            f"cannot write the picture {path!r}: {error.err}", "Give a name ending in .png or .jpg."
        ) from error
    if not written:
        raise MediaError(f"cannot write the picture {path!r}", "Is its folder there, and may you write to it?")
