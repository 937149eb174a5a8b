"""The screen as a source, and the cameras that a machine has."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
from helpers.live import play

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.inputs.devices import Camera, find_camera, list_cameras, list_devices
from mirage_cli.inputs.stream import StreamSource

# The screen


@pytest.fixture(scope="module")
def screen():
    """A display of 200x120 pixels, all white."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("needs Xvfb")
    read, write = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(write), "-screen", "0", "200x120x24", "-wr", "-nolisten", "tcp"],
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        number = os.read(read, 20).decode().strip()
        if not number:
            pytest.skip("Xvfb does not start here")
        yield f":{number}"
    finally:
        os.close(read)
        server.kill()
        server.wait()


@pytest.mark.slow
def test_the_screen_is_a_source(screen, monkeypatch):
    monkeypatch.setenv("DISPLAY", screen)
    play("screen:64x48+10+20", frames=3, size=(64, 48), fps=30.0)
    (entry,) = list_devices()["screens"]
    assert entry["size"] == [200, 120] and entry["display"] == screen
    part = StreamSource(live_screen("screen:64x48+10+20"), attempts=0)
    assert (part.info.width, part.info.height) == (64, 48)  # unscaled
    part.close()
    source = StreamSource(live_screen("screen"), attempts=0)
    assert np.median(next(iter(source)).rgb) == 255  # the pointer is drawn as well
    source.close()


def live_screen(name):
    from mirage_cli.media.addresses import screen_address

    return screen_address(name, 30.0)


def test_no_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(MediaError, match="DISPLAY is not set"):
        live_screen("screen")
    monkeypatch.setenv("DISPLAY", ":987")
    with pytest.raises(MediaError, match="cannot read screen :987"):
        StreamSource(live_screen("screen"))
    with pytest.raises(UsageProblem, match="not a part of a screen"):
        live_screen("screen:wide")


# Cameras


@pytest.fixture()
def machine(tmp_path):
    """A machine with a camera of two devices, a virtual camera and one that does not answer."""
    names = {0: "Logitech C920", 1: "Logitech C920", 4: "OBS Virtual Camera", 10: ""}
    for number, name in names.items():
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / f"video{number}").touch()
        if name:
            (tmp_path / "sys" / f"video{number}").mkdir(parents=True)
            (tmp_path / "sys" / f"video{number}" / "name").write_text(name + "\n")
    caps = {"video0": 0x1, "video1": 0x00800000, "video4": 0x3, "video10": None}
    return list_cameras(tmp_path / "dev", tmp_path / "sys", lambda path: caps[os.path.basename(path)])


def test_cameras_are_listed_with_names_and_what_they_do(machine):
    assert [(c.index, c.name, c.captures, c.takes) for c in machine] == [
        (0, "Logitech C920", True, False),
        (1, "Logitech C920", False, False),
        (4, "OBS Virtual Camera", True, True),
        (10, "", None, None),
    ]


def test_a_camera_is_found_by_number_name_and_path(machine, tmp_path):
    assert find_camera("4", machine) == 4
    assert find_camera("logi", machine) == 0  # its second device gives no pictures
    assert find_camera("OBS Virtual Camera", machine) == 4
    assert find_camera(str(tmp_path / "dev" / "video10"), machine) == 10
    (tmp_path / "by-id").symlink_to(tmp_path / "dev" / "video4")
    assert find_camera(str(tmp_path / "by-id"), machine) == 4
    for wanted, telling in (
        ("7", "no camera 7; cameras found: 0 Logitech C920"),
        ("Sony", "no camera is called 'Sony'"),
        ("/dev/video987", "no camera"),
    ):
        with pytest.raises(MediaError, match=telling):
            find_camera(wanted, machine)
    with pytest.raises(UsageProblem, match="is the name of 0 Logitech C920, 4 OBS"):
        find_camera("o", machine)
    assert find_camera("c920", [*machine[:1], Camera(2, "/dev/video2", "C920", True, False)]) == 2
