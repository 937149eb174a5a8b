"""Sinks without a file: a window, and nothing.

A window belongs to the main thread on most systems, so ``WindowSink.write`` only keeps the newest
frame, and ``pump``, called by the main thread many times a second, shows it and reads the keys.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any, Protocol

import numpy as np

from mirage_cli.errors import MediaError, first_line
from mirage_cli.frames import Frame, FrameSink

QUIT_KEYS = ("q", "Q", "\x1b")


class NullSink(FrameSink):
    """Takes frames and keeps none."""

    def write(self, frame: Frame) -> None:
        pass

    def close(self, commit: bool = True) -> None:
        pass


class _Toolkit(Protocol):
    name: str

    def show(self, rgb: np.ndarray) -> None: ...

    def key(self) -> str: ...

    def gone(self) -> bool: ...

    def destroy(self) -> None: ...


class _OpenCvWindow:
    """A window of an OpenCV build that has one."""

    name = "opencv"

    def __init__(self, title: str, width: int, height: int) -> None:
        import cv2

        self._cv2, self._title = cv2, title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(title, width, height)
        self._shown = False

    def show(self, rgb: np.ndarray) -> None:
        self._cv2.imshow(self._title, self._cv2.cvtColor(rgb, self._cv2.COLOR_RGB2BGR))
        self._shown = True

    def key(self) -> str:
        code = self._cv2.waitKey(1)
        return chr(code & 0xFF) if code >= 0 else ""

    def gone(self) -> bool:
        visible = self._cv2.WND_PROP_VISIBLE
        return self._shown and self._cv2.getWindowProperty(self._title, visible) < 1

    def destroy(self) -> None:
        try:
            self._cv2.destroyWindow(self._title)
        except self._cv2.error:
            pass


class _TkWindow:
    """A window of Python's own Tk, for OpenCV builds without one."""

    name = "tk"

    def __init__(self, title: str, width: int, height: int) -> None:
        import tkinter

        self._tk = tkinter
        self._root = tkinter.Tk(className="mirage")
        self._root.title(title)
        self._root.configure(background="black")
        self._picture = tkinter.PhotoImage(master=self._root, width=width, height=height)
        self._label = tkinter.Label(self._root, image=self._picture, borderwidth=0, background="black")
        self._label.pack()
        self._keys: list[str] = []
        self._gone = False
        self._root.bind("<Key>", lambda event: self._keys.append(event.char or ""))
        self._root.protocol("WM_DELETE_WINDOW", self._closed)
        self._root.update()

    def _closed(self) -> None:
        self._gone = True

    def show(self, rgb: np.ndarray) -> None:
        height, width = rgb.shape[:2]
        self._picture.configure(
            width=width, height=height, format="PPM", data=b"P6 %d %d 255\n" % (width, height) + rgb.tobytes()
        )

    def key(self) -> str:
        if not self._gone:
            self._root.update()
        return self._keys.pop(0) if self._keys else ""

    def gone(self) -> bool:
        return self._gone

    def destroy(self) -> None:
        try:
            self._root.destroy()
        except self._tk.TclError:
            pass


def opencv_gui(cv2: Any) -> str:
    """What an OpenCV build opens windows with (QT5, GTK3, ...); empty for a headless build."""
    for line in cv2.getBuildInformation().splitlines():
        words = line.split()
        if words[:1] == ["GUI:"] and words[1:] not in ([], ["NONE"]):
            return words[1]
    return ""


def x_display_opens() -> bool:
    """Whether the X server that DISPLAY names can be connected to."""
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.argtypes, x11.XOpenDisplay.restype = [ctypes.c_char_p], ctypes.c_void_p
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    display = x11.XOpenDisplay(None)
    if display:
        x11.XCloseDisplay(display)
    return bool(display)


def _open_toolkit(title: str, width: int, height: int) -> _Toolkit:
    remedy = "Write to a file with -o out.mp4, or run without a picture: --no-window"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise MediaError("no window can be shown: there is no display (DISPLAY is not set)", remedy)
    reasons = []
    try:
        import cv2

        gui = opencv_gui(cv2)
        if not gui:
            raise RuntimeError("this OpenCV is the headless build")
        # Qt ends the whole process where it finds no server.
        if gui.startswith("QT") and sys.platform.startswith("linux") and not x_display_opens():
            raise RuntimeError(f"display {os.environ.get('DISPLAY', '')!r} cannot be opened")
        return _OpenCvWindow(title, width, height)
    except Exception as error:
        reasons.append(first_line(error))
    try:
        return _TkWindow(title, width, height)
    except Exception as error:
        reasons.append(f"Tk: {first_line(error)}")
    raise MediaError(
        f"no window can be shown: {'; '.join(reasons)}", f"Install opencv-python or Python's tkinter. {remedy}"
    )


class WindowSink(FrameSink):
    """Shows the newest frame in a window.

    Raises:
        MediaError: there is no display, or nothing on this machine can open a window.
    """

    def __init__(self, title: str, width: int, height: int) -> None:
        super().__init__()
        self._toolkit = _open_toolkit(title, width, height)
        self.toolkit_name = self._toolkit.name
        self._lock = threading.Lock()
        self._newest: np.ndarray | None = None
        self._open = True
        self.shown = 0

    def write(self, frame: Frame) -> None:
        with self._lock:
            self._newest = frame.rgb

    def pump(self) -> bool:
        """Show what is new and read the keys; main thread only.

        Returns:
            False when the user closed the window or pressed q or Escape in it.
        """
        if not self._open:
            return False
        with self._lock:
            rgb, self._newest = self._newest, None
        if rgb is not None:
            self._toolkit.show(rgb)
            self.shown += 1
        key = self._toolkit.key()
        return key not in QUIT_KEYS and not self._toolkit.gone()

    def close(self, commit: bool = True) -> None:
        if self._open:
            self._open = False
            self._toolkit.destroy()
