"""Numbered pictures, or one, as an output."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import Frame, FrameSink
from mirage_cli.media.picture_names import is_pattern, numbered, pattern_matches
from mirage_cli.outputs.part_names import new_part_folder

JPEG_QUALITY = 95


class ImageSink(FrameSink):
    """Writes each frame as a picture.

    Pictures are written to ``FOLDER/.NAME.part/`` and moved to their places when all are whole.

    Args:
        target: a pattern, ``out/%05d.png``, or one name for a single frame.
        overwrite: replace pictures of the same names.

    Raises:
        MediaError: the folder is not there or cannot be written to.
    """

    def __init__(self, target: str, *, overwrite: bool = False) -> None:
        super().__init__()
        self.target = target
        self.frames_written = 0
        self._closed = False
        self._folder = Path(os.path.dirname(target) or ".")
        self._single = not is_pattern(target)
        there = [self.target] if self._single else pattern_matches(target)
        if not overwrite and any(map(os.path.exists, there)):
            raise MediaError(f"output {there[0]!r} exists", "add -y to replace it")
        options = {".jpg": cv2.IMWRITE_JPEG_QUALITY, ".jpeg": cv2.IMWRITE_JPEG_QUALITY}
        kind = options.get(os.path.splitext(target)[1].lower())
        self._options = [] if kind is None else [kind, JPEG_QUALITY]
        try:
            self._part = new_part_folder(self._folder / f".{numbered(os.path.basename(target), 'N')}")
        except OSError as problem:
            raise MediaError(
                f"output {target!r} cannot be written: {problem.strerror}", f"mkdir -p {self._folder}"
            ) from None

    def _name(self, number: int) -> str:
        name = os.path.basename(self.target)
        return name if self._single else numbered(name, number)

    def write(self, frame: Frame) -> None:
        if self._single and self.frames_written:
            raise UsageProblem(
                f"{self.target!r} names one picture, and the input has more", "Name a pattern: -o 'out/%05d.png'"
            )
        name = self._name(self.frames_written + 1)
        bgr = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR)
        try:
            done, data = cv2.imencode(os.path.splitext(name)[1], bgr, self._options)
            if not done:
                raise OSError(0, "the encoder failed")
            with open(self._part / name, "wb") as file:
                file.write(data)
        except OSError as problem:
            full = "the disk is full: " if problem.errno == 28 else ""
            raise MediaError(
                f"{full}{self.target} could not be written ({problem.strerror})",
                f"free some space in {self._folder}, or write elsewhere with -o",
            ) from None
        self.frames_written += 1

    def close(self, commit: bool = True) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if commit:
                for number in range(1, self.frames_written + 1):
                    name = self._name(number)
                    os.replace(self._part / name, self._folder / name)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)
