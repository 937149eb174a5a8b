"""A camera: its newest frames at its own pace, opened again when it was unplugged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from mirage_cli.errors import MediaError, MirageError
from mirage_cli.frames import Frame, FrameSource, StreamInfo
from mirage_cli.inputs.devices import find_camera, list_cameras
from mirage_cli.inputs.opencv import quiet_opencv
from mirage_cli.inputs.wrappers import Clock
from mirage_cli.media.addresses import pause_seconds

LONGEST_PAUSE_SECONDS = 2.0  # a look at /dev costs nothing, and a user is waiting


class CameraSource(FrameSource):
    """Frames of a camera.

    Args:
        wanted: its number (0 is the first camera), a part of its name, or its /dev path.
        size: width and height to ask of the camera; frames are scaled when it gives others.
        fps: rate to ask of it.
        timeout_seconds: how long to wait for a camera that was unplugged; 0 ends at once.
        tell: gets a sentence when the camera is gone or there again.

    Attributes:
        state: "connected", or what is being done about it.
        pausing: it waits for the camera to come back, and keeps its own watch.
        reconnects: how often it came back.

    Raises:
        MediaError: there is no such camera, it is in use, or it gives no picture.
    """

    live = True
    pausing: bool = False
    state: str = "connected"

    def __init__(
        self,
        wanted: int | str,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        *,
        timeout_seconds: float = 0.0,
        tell: Callable[[str], None] = lambda text: None,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__()
        self.reconnects = 0
        self._wanted, self._asked, self._fps = str(wanted), size, fps
        self._timeout, self._tell, self._clock = timeout_seconds, tell, clock
        self._closed = threading.Event()
        self._index = index = find_camera(self._wanted)
        self._device_name = _name_of(index)
        quiet_opencv()
        opened = self._open(index)
        if opened is None:
            raise MediaError(
                f"camera {index} cannot be opened or gives no picture",
                "Close other programs that use it and check the permissions of "
                f"/dev/video{index}; without a camera try: mirage live --input test",
            )
        self._camera, first = opened
        self._size = size or (first.shape[1], first.shape[0])
        rate = float(self._camera.get(cv2.CAP_PROP_FPS) or 0.0)
        self.info = StreamInfo(
            width=self._size[0],
            height=self._size[1],
            fps=rate if 1.0 <= rate <= 1000.0 else 30.0,
            variable_rate=True,
            name=f"camera {index}",
        )

    def __iter__(self) -> Iterator[Frame]:
        begin: float | None = None
        index = 0
        try:
            while not self._closed.is_set():
                good, bgr = self._camera.read()
                if self._closed.is_set():
                    return
                if not good or bgr is None:
                    bgr = self._wait_for_it(index)
                    if bgr is None:
                        return
                now = self._clock()
                begin = now if begin is None else begin
                rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                if (rgb.shape[1], rgb.shape[0]) != self._size:
                    rgb = cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA)
                yield Frame(rgb, now - begin, index)
                index += 1
        finally:
            self._camera.release()

    def _open(self, index: int) -> tuple[cv2.VideoCapture, np.ndarray] | None:
        """The device and its first picture (BGR), or None."""
        camera = cv2.VideoCapture(index)
        if self._asked is not None:
            camera.set(cv2.CAP_PROP_FRAME_WIDTH, self._asked[0])
            camera.set(cv2.CAP_PROP_FRAME_HEIGHT, self._asked[1])
        if self._fps is not None:
            camera.set(cv2.CAP_PROP_FPS, self._fps)
        good, first = camera.read() if camera.isOpened() else (False, None)
        if not good or first is None:
            camera.release()
            return None
        return camera, first

    def _wait_for_it(self, frames: int) -> np.ndarray | None:
        """The first picture (BGR) of the camera once it is back; None when the source was closed meanwhile.

        Raises:
            MediaError: it did not come back in time.
        """
        name = self.info.name
        self._camera.release()  # or the system gives it another number when it comes back
        waited, attempt = 0.0, 0
        if self._timeout > 0:
            self.pausing = True
            self.state = f"{name} is gone; waiting up to {self._timeout:g} s"
            self._tell(self.state)
        try:
            while waited < self._timeout:
                attempt += 1
                pause = min(pause_seconds(attempt), LONGEST_PAUSE_SECONDS, self._timeout - waited)
                if self._closed.wait(pause):
                    return None
                waited += pause  # an hour of a closed lid counts as one pause
                index = self._number_now()
                if index is None or (opened := self._open(index)) is None:
                    continue
                self._camera, first = opened
                self.reconnects += 1
                moved = f" as camera {index}" if index != self._index else ""
                self._index = index
                self.state = "connected"
                self._tell(f"{name} is back{moved}")
                return first
        finally:
            self.pausing = False
        back = f" and did not come back within {self._timeout:g} s" if self._timeout > 0 else ""
        raise MediaError(
            f"{name} stopped giving pictures after {frames} frames{back}",
            "Check its cable, then start again; --timeout sets how long to wait for it.",
        )

    def _number_now(self) -> int | None:
        """Where the camera is now: a number or path may lead elsewhere after the plug."""
        index = None
        try:
            index = find_camera(self._wanted)
        except MirageError:
            pass
        if not self._device_name or (index is not None and _name_of(index) == self._device_name):
            return index
        try:
            return find_camera(self._device_name)
        except MirageError:
            return None  # not there, or two of that name: another camera must not be taken for it

    def close(self) -> None:
        # Only the reading thread may release the device: a release during a read crashes drivers.
        self._closed.set()


def _name_of(index: int) -> str:
    return next((camera.name for camera in list_cameras() if camera.index == index), "")
