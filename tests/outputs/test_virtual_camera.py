"""The virtual camera, on a stand-in for its library."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.sent import output

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame
from mirage_cli.outputs.virtual_camera import VirtualCameraSink


class FakeCamera:
    """Stands in for pyvirtualcam.Camera."""

    made: list[FakeCamera] = []

    def __init__(self, width, height, fps, fmt, device):
        if device == "/dev/video99":
            raise RuntimeError("'/dev/video99' is not a v4l2loopback device\nmore")
        self.asked = (width, height, fps, fmt, device)
        self.device = device or "/dev/video7"
        self.times, self.values, self.closed = [], [], False
        self.fail_at: int | None = None
        FakeCamera.made.append(self)

    def send(self, rgb):
        assert rgb.shape == (48, 64, 3) and rgb.flags["C_CONTIGUOUS"]
        if self.fail_at == len(self.values):
            raise OSError("device unplugged")
        self.times.append(time.perf_counter())
        self.values.append(int(rgb[0, 0, 0]))

    def close(self):
        self.closed = True


PYVIRTUALCAM = SimpleNamespace(Camera=FakeCamera, PixelFormat=SimpleNamespace(RGB="rgb"))


def grey(n):
    return Frame(np.full((48, 64, 3), n, np.uint8), n / 25, n)


def test_a_virtual_camera_keeps_its_rate_and_repeats_the_last_frame():
    sink = VirtualCameraSink("camera", 64, 48, 50.0, module=PYVIRTUALCAM)
    camera = FakeCamera.made[-1]
    assert camera.asked == (64, 48, 50.0, "rgb", None) and sink.device == "/dev/video7"
    time.sleep(0.05)
    assert camera.values == []  # nothing before there is a frame
    for n in range(5):  # 12.5 frames a second come, 50 are sent
        sink.write(grey(n))
        time.sleep(0.08)
    sink.close()
    sink.close()
    assert camera.closed and sorted(set(camera.values)) == [0, 1, 2, 3, 4]
    assert camera.values == sorted(camera.values) and 14 <= len(camera.values) <= 22
    assert sink.repeated == sink.sent - 5 and np.median(np.diff(camera.times)) == pytest.approx(0.02, abs=0.008)


def test_a_virtual_camera_that_is_not_there_or_fails(monkeypatch):
    with pytest.raises(MediaError, match="not a v4l2loopback device") as caught:
        VirtualCameraSink("camera:/dev/video99", 64, 48, 30.0, module=PYVIRTUALCAM)
    assert "modprobe v4l2loopback" in caught.value.remedy and "\n" not in caught.value.message
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(MediaError, match="needs pyvirtualcam") as caught:
        output("camera")
    assert "mirage-cli[camera]" in caught.value.remedy
    sink = VirtualCameraSink("camera", 64, 48, 100.0, module=PYVIRTUALCAM)
    FakeCamera.made[-1].fail_at = 2
    with pytest.raises(MediaError, match="/dev/video7 failed: device unplugged"):
        for n in range(100):
            sink.write(grey(n % 200))
            time.sleep(0.01)
    sink.close(commit=False)
