"""A camera that gives pictures, stops, and comes back: the device is a stand-in, all above it is real."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from helpers.fakes import FakeModels, RecordingUi
from helpers.live import config
from helpers.media import probe

from mirage_cli.errors import MediaError
from mirage_cli.inputs.camera import CameraSource
from mirage_cli.inputs.devices import Camera
from mirage_cli.runs import live


class Device:
    """Stands in for cv2.VideoCapture: so many pictures of a colour, then it is pulled out."""

    def __init__(self, pictures=5, size=(60, 40), blue=200):
        self.left, self.released = pictures, False
        self.picture = np.zeros((size[1], size[0], 3), np.uint8)
        self.picture[..., 0] = blue  # in OpenCV's order

    def isOpened(self):
        return self.left > 0

    def set(self, *_):
        return False

    def get(self, _):
        return 0.0

    def read(self):
        assert not self.released
        self.left -= 1
        time.sleep(0.005)
        return (True, self.picture) if self.left >= 0 else (False, None)

    def release(self):
        self.released = True


class Plugs:
    """What is plugged in: (number, name) pairs, and what each opening of a device gives."""

    def __init__(self, monkeypatch, *devices, there=((0, "Logi C920"), (2, "Desk View"))):
        self.devices, self.opened, self.there = list(devices), [], list(there)
        monkeypatch.setattr("mirage_cli.inputs.camera.list_cameras", self.cameras)
        monkeypatch.setattr("mirage_cli.inputs.devices.list_cameras", self.cameras)
        monkeypatch.setattr("mirage_cli.inputs.camera.cv2.VideoCapture", self.open)
        monkeypatch.setattr("mirage_cli.inputs.camera.pause_seconds", lambda attempt: 0.02)

    def cameras(self):
        return [Camera(n, f"/dev/video{n}", name, True, False) for n, name in self.there]

    def open(self, index):
        assert index in [number for number, _ in self.there]
        self.opened.append(index)
        return self.devices.pop(0) if self.devices else Device(0)


def test_a_camera_gives_rgb_and_says_when_it_stops(monkeypatch):
    plugs = Plugs(monkeypatch, device := Device(6))
    camera = CameraSource(0, size=(30, 20))
    assert (camera.info.width, camera.info.height, camera.info.fps) == (30, 20, 30.0)
    frames = []
    with pytest.raises(MediaError, match="camera 0 stopped giving pictures after 5 frames$"):
        for frame in camera:
            frames.append(frame)
    assert len(frames) == 5 and frames[0].rgb.shape == (20, 30, 3)
    assert tuple(frames[0].rgb[0, 0]) == (0, 0, 200) and frames[0].pts_seconds == 0.0
    assert device.released and plugs.opened == [0]


def test_a_camera_that_is_plugged_in_again_goes_on(monkeypatch):
    devices = Device(4), Device(0), Device(0), Device(50, size=(120, 80), blue=90)
    plugs, told = Plugs(monkeypatch, *devices), []
    camera = CameraSource(0, timeout_seconds=5.0, tell=told.append)
    states = []
    monkeypatch.setattr(
        camera, "_tell", lambda text: (told.append(text), states.append((camera.state, camera.pausing)))
    )
    frames = []
    for frame in camera:
        frames.append(frame)
        if len(frames) == 10:
            camera.close()
    assert told == ["camera 0 is gone; waiting up to 5 s", "camera 0 is back"]
    assert states == [("camera 0 is gone; waiting up to 5 s", True), ("connected", True)]
    assert camera.state == "connected" and not camera.pausing and camera.reconnects == 1
    assert [int(frame.rgb[0, 0, 2]) for frame in frames] == [200] * 3 + [90] * 7
    assert {frame.rgb.shape for frame in frames} == {(40, 60, 3)}  # whatever it gives now
    assert [frame.index for frame in frames] == list(range(10))
    times = [frame.pts_seconds for frame in frames]
    assert times == sorted(times) and plugs.opened == [0, 0, 0, 0]
    assert all(device.released for device in devices)


@pytest.mark.parametrize("wanted", [0, "C920", "/dev/video0"])
def test_it_is_found_again_under_another_number(monkeypatch, wanted, tmp_path):
    monkeypatch.setattr("mirage_cli.inputs.devices.os.path.exists", lambda path: True)  # of /dev/video0
    plugs, told = Plugs(monkeypatch, Device(3), Device(20)), []
    camera = CameraSource(wanted, timeout_seconds=5.0, tell=told.append)
    for count, _ in enumerate(camera, start=1):
        if count == 1:  # another camera takes its number, it takes a new one
            plugs.there = [(0, "Desk View"), (4, "Logi C920")]
        if count == 5:
            camera.close()
    assert plugs.opened == [0, 4] and told[-1] == "camera 0 is back as camera 4"


def test_another_camera_is_not_taken_for_it(monkeypatch):
    plugs = Plugs(monkeypatch, Device(3))
    camera = CameraSource(0, timeout_seconds=0.2)
    begin = time.perf_counter()
    with pytest.raises(MediaError, match="after 2 frames and did not come back within 0.2 s"):
        for _ in camera:
            plugs.there = [(0, "Desk View")]
    assert plugs.opened == [0] and 0.15 < time.perf_counter() - begin < 2.0


def test_closing_does_not_wait_for_a_camera(monkeypatch):
    Plugs(monkeypatch, Device(3))
    camera = CameraSource(0, timeout_seconds=60.0)
    threading.Timer(0.2, camera.close).start()
    begin = time.perf_counter()
    assert len(list(camera)) == 2 and time.perf_counter() - begin < 5.0


def test_live_goes_on_when_the_camera_is_back(monkeypatch, tmp_path):
    Plugs(monkeypatch, Device(10), Device(0), Device(1000))
    monkeypatch.setattr("mirage_cli.inputs.camera.pause_seconds", lambda attempt: 0.5)
    out, ui = tmp_path / "out.mp4", RecordingUi()
    document = live.run(
        config(camera=0, input=None, size=None, output=str(out), frames=40, timeout_seconds=2.0),
        ui,
        models=FakeModels(),
        keys=False,
    )
    assert document["frames"] == probe(out).frames == 40 and document["ended_by"] == "frames"
    assert "camera 0 is gone; waiting up to 2 s" in ui.notes and "camera 0 is back" in ui.notes
    assert any("is gone; waiting" in stats.message for stats in ui.stats)  # the dashboard's line


@pytest.mark.parametrize("reconnect", [0, 10])
def test_a_camera_that_stays_away_spoils_nothing(monkeypatch, tmp_path, reconnect):
    Plugs(monkeypatch, Device(6))
    out, ui = tmp_path / "out.mp4", RecordingUi()
    telling = "stopped giving pictures after 5 frames" + (" and did not come back" if reconnect else "$")
    with pytest.raises(MediaError, match=telling) as caught:
        live.run(
            config(camera=0, input=None, size=None, output=str(out), timeout_seconds=0.3, reconnect=reconnect),
            ui,
            models=FakeModels(),
            keys=False,
        )
    assert caught.value.exit_code == 3
    assert probe(out).size == (60, 40) and probe(out).frames >= 1
    assert any(str(out) in note for note in ui.notes)
