"""A virtual camera: what mirage makes, as a webcam that any program can open.

pyvirtualcam (the extra ``camera``) writes to a v4l2loopback device. A program that watches a camera
expects a steady rate, so the last frame is sent again while there is no new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mirage_cli.errors import MediaError, first_line
from mirage_cli.frames import Frame, FrameSink

REMEDY = (
    "pip install 'mirage-cli[camera]', then: sudo modprobe v4l2loopback exclusive_caps=1 "
    "card_label=mirage; mirage devices shows it"
)


class VirtualCameraSink(FrameSink):
    """Sends frames to a virtual camera.

    Args:
        target: ``camera``, or ``camera:DEVICE``.
        fps: the steady rate.
        module: pyvirtualcam, or what stands in for it.

    Attributes:
        sent, repeated: frames the camera got, and how many of them were the last one again.

    Raises:
        MediaError: pyvirtualcam or the device is not there, or does not take the size.
    """

    def __init__(
        self,
        target: str,
        width: int,
        height: int,
        fps: float,
        *,
        module: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        self.sent = self.repeated = 0
        device = target.partition(":")[2] or None
        if module is None:
            try:
                import pyvirtualcam as module  # type: ignore[no-redef]  # the stand-in's name
            except ImportError:
                raise MediaError("a virtual camera needs pyvirtualcam, which is not installed", REMEDY) from None
        try:
            self._camera = module.Camera(width=width, height=height, fps=fps, fmt=module.PixelFormat.RGB, device=device)
        except Exception as error:
            raise MediaError(f"no virtual camera can be opened: {first_line(error)}", REMEDY) from None
        self.device = str(self._camera.device)
        self._period, self._clock = 1.0 / fps, clock
        self._newest: np.ndarray | None = None
        self._fresh = False
        self._changed = threading.Condition()
        self._ended = False
        self._problem: MediaError | None = None
        self._thread = threading.Thread(target=self._send, name="mirage-camera", daemon=True)
        self._thread.start()

    def write(self, frame: Frame) -> None:
        """Takes one frame; never waits.

        Raises:
            MediaError: the camera failed.
        """
        if self._problem is not None:
            raise self._problem
        with self._changed:
            self._newest, self._fresh = frame.rgb, True
            self._changed.notify()

    def close(self, commit: bool = True) -> None:
        with self._changed:
            if self._ended:
                return
            self._ended = True
            self._changed.notify()
        self._thread.join(2.0)
        self._camera.close()

    def _send(self) -> None:
        due: float | None = None
        while True:
            with self._changed:
                while not self._ended and (self._newest is None or self._early(due)):
                    self._changed.wait(None if due is None else max(0.0, due - self._clock()))
                if self._ended:
                    return
                rgb, fresh, self._fresh = self._newest, self._fresh, False
            try:
                self._camera.send(np.ascontiguousarray(rgb))
            except Exception as error:
                self._problem = MediaError(f"the virtual camera {self.device} failed: {error}", REMEDY)
                return
            self.sent += 1
            self.repeated += not fresh
            now = self._clock()
            due = now + self._period if due is None or now - due > 1.0 else due + self._period

    def _early(self, due: float | None) -> bool:
        return due is not None and self._clock() < due
