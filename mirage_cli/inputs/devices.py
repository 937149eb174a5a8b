"""What this machine can watch and feed: cameras, virtual cameras and the screen.

find_camera("0"), find_camera("Logitech"), find_camera("/dev/video2")   -> 0, 4, 2
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mirage_cli.errors import MediaError, MirageError, UsageProblem

DEV, SYS = Path("/dev"), Path("/sys/class/video4linux")
# linux/videodev2.h: struct v4l2_capability is 104 bytes, _IOR('V', 0, ...) asks for it.
VIDIOC_QUERYCAP = 0x80685600
CAPABILITY = struct.Struct("16s32s32s3I12x")
CAP_CAPTURE, CAP_OUTPUT, CAP_DEVICE_CAPS = 0x1, 0x2, 0x80000000
NO_CAMERA = 'Plug one in and run "mirage devices", or try: mirage live --input test'


@dataclass(frozen=True)
class Camera:
    """One /dev/videoN.

    Attributes:
        index: N.
        path: of the device.
        name: as its driver calls it; "" where that is unknown.
        captures: gives pictures; None where it cannot be asked.
        takes: pictures can be written to it, as to a v4l2loopback device.
    """

    index: int
    path: str
    name: str
    captures: bool | None
    takes: bool | None


def list_cameras(
    dev: Path = DEV, sys_class: Path = SYS, capabilities: Callable[[str], int | None] | None = None
) -> list[Camera]:
    """All video devices the system names, by number (Linux; empty elsewhere).

    A camera often has a second device for metadata, which gives no pictures: ``captures`` is False.
    """
    ask = capabilities or _capabilities
    found = []
    for path in dev.glob("video*"):
        match = re.fullmatch(r"video(\d+)", path.name)
        if not match:
            continue
        try:
            name = (sys_class / path.name / "name").read_text("utf-8", "replace").strip()
        except OSError:
            name = ""
        caps = ask(str(path))
        found.append(
            Camera(
                int(match[1]),
                str(path),
                name,
                None if caps is None else bool(caps & CAP_CAPTURE),
                None if caps is None else bool(caps & CAP_OUTPUT),
            )
        )
    return sorted(found, key=lambda camera: camera.index)


def _capabilities(path: str) -> int | None:
    """What the device can do, as V4L2 flags; None where it does not answer."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except (ImportError, OSError):
        return None
    try:
        answer = bytearray(CAPABILITY.size)
        fcntl.ioctl(descriptor, VIDIOC_QUERYCAP, answer)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    *_, whole, own = CAPABILITY.unpack(answer)
    return own if whole & CAP_DEVICE_CAPS else whole


def find_camera(wanted: str, cameras: list[Camera] | None = None) -> int:
    """The number of the camera that is meant by a number, a /dev path or a part of its name.

    Raises:
        MediaError: there is none such, or it gives no pictures.
        UsageProblem: several have that name.
    """
    known = list_cameras() if cameras is None else cameras
    listed = ", ".join(f"{camera.index} {camera.name}".strip() for camera in known) or "none"
    text = wanted.strip()
    if text.startswith("/"):
        # A link such as /dev/v4l/by-id/... outlives the numbers, which change with every plug.
        real = os.path.realpath(text)
        match = re.fullmatch(r"video(\d+)", os.path.basename(real))
        if not os.path.exists(real) or not match:
            raise MediaError(f"there is no camera {wanted!r}; cameras found: {listed}", NO_CAMERA)
        return int(match[1])
    if text.isdecimal():
        number = int(text)
        if sys.platform.startswith("linux") and number not in [c.index for c in known]:
            raise MediaError(f"there is no camera {number}; cameras found: {listed}", NO_CAMERA)
        return number
    named = [c for c in known if text.lower() in c.name.lower() and c.captures is not False]
    exact = [c for c in named if c.name.lower() == text.lower()]
    named = exact or named
    if not named:
        raise MediaError(f"no camera is called {wanted!r}; cameras found: {listed}", NO_CAMERA)
    if len(named) > 1:
        some = ", ".join(f"{camera.index} {camera.name}" for camera in named)
        raise UsageProblem(f"{wanted!r} is the name of {some}", "Give the number or the whole name.")
    return named[0].index


def screen_size(display: str | None = None) -> tuple[int, int]:
    """Width and height in pixels of the X display, DISPLAY's by default.

    Raises:
        MediaError: there is no display, or it cannot be read.
    """
    from mirage_cli.media.addresses import SCREEN_INPUT
    from mirage_cli.media.ffmpeg import find_ffmpeg
    from mirage_cli.media.probe import probe_media

    display = display or os.environ.get("DISPLAY", "")
    if not display:
        raise MediaError(
            "there is no screen to watch: DISPLAY is not set",
            "Run it in a graphical session; on Wayland, in one with Xwayland.",
        )
    probe = probe_media(find_ffmpeg(), display, name=f"screen {display}", input_options=SCREEN_INPUT)
    if probe.video is None:
        raise MediaError(f"screen {display} gives no picture", "Check DISPLAY: xdpyinfo")
    return probe.video.width, probe.video.height


def list_devices() -> dict[str, list[dict[str, Any]]]:
    """Cameras, virtual cameras and screens as plain data, each with what to type for it."""
    cameras, virtual = [], []
    for camera in list_cameras():
        entry = asdict(camera)
        if camera.takes:
            virtual.append({**entry, "use": f"mirage live ... -o camera:{camera.path}"})
        if camera.captures is not False:
            cameras.append({**entry, "use": f"mirage live --camera {camera.index}"})
    screens = []
    if os.environ.get("DISPLAY"):
        entry = {"display": os.environ["DISPLAY"], "size": None, "use": "mirage live -i screen"}
        try:
            entry["size"] = list(screen_size())
        except MirageError as error:
            entry["problem"] = error.message
        screens.append(entry)
    return {"cameras": cameras, "virtual_cameras": virtual, "screens": screens}
