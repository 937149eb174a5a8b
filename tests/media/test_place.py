"""What a name stands for, and how it is shown."""

from __future__ import annotations

import os

import pytest
from helpers import media
from helpers.fakes import RecordingUi

from mirage_cli.config import LiveConfig
from mirage_cli.errors import MediaError
from mirage_cli.inputs.open import open_live
from mirage_cli.media.place import Kind, Place

INPUTS = {
    "-": Kind.PIPE,
    "clip.mp4": Kind.FILE,
    "camera": Kind.FILE,
    "a.png": Kind.FILE,  # not there
    "%04d.png": Kind.PICTURES,
    "*.png": Kind.PICTURES,
    "http://host/clip.mp4": Kind.ADDRESS,
    "http://cam/video?name=a.jpg": Kind.ADDRESS,  # by its end and its question mark a glob of pictures
}
LIVE = {
    "test": Kind.TEST,
    "screen:640x360": Kind.SCREEN,
    "rtsp://cam/1": Kind.STREAM,
    "http://0.0.0.0:8080/x?listen=1": Kind.STREAM,
    "https://host/x.M3U8?token=1": Kind.PLAYLIST,
    "rtsp://host/x.m3u8": Kind.PLAYLIST,
}
OUTPUTS = {
    "-": Kind.PIPE,
    "camera": Kind.VIRTUAL_CAMERA,
    "camera:/dev/video4": Kind.VIRTUAL_CAMERA,
    "camera.mp4": Kind.FILE,
    "test": Kind.FILE,
    "out/%05d.png": Kind.PICTURES,
    "rtmp://h/app/key": Kind.ADDRESS,
    "http://h/x.m3u8": Kind.ADDRESS,
    "live.m3u8": Kind.PLAYLIST,
    "/dev/null": Kind.DEVICE,
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_place_of_an_input():
    assert {name: Place.of_input(name).kind for name in INPUTS} == INPUTS
    assert {name: Place.of_live_input(name).kind for name in INPUTS | LIVE} == INPUTS | LIVE
    # A transform reads all of these as a file or an address.
    assert {Place.of_input(name).kind for name in LIVE} == {Kind.FILE, Kind.ADDRESS}
    assert Place.of_camera(0) == Place(Kind.CAMERA, "0", "camera 0")


def test_place_of_an_output():
    assert {name: Place.of_output(name).kind for name in OUTPUTS} == OUTPUTS
    assert [name for name in OUTPUTS if Place.of_output(name).is_watched] == ["rtmp://h/app/key"]


def test_place_looks_at_the_disk(tmp_path):
    os.mkfifo("pipe.mp4")
    assert Place.of_input("pipe.mp4").kind is Place.of_output("pipe.mp4").kind is Kind.DEVICE
    (tmp_path / "shots").mkdir()
    assert Place.of_input("shots").kind is Kind.FILE
    for name in ("10.png", "9.png", ".hidden.txt"):
        (tmp_path / "shots" / name).touch()
    assert Place.of_input("shots").pictures() == ["shots/9.png", "shots/10.png"]
    assert Place.of_input("shots/%d.png").pictures() == ["shots/9.png", "shots/10.png"]
    (tmp_path / "shots" / "clip.mp4").touch()
    assert Place.of_input("shots").pictures() == []
    with pytest.raises(MediaError, match="no picture is called 'shots/x%d.png'"):
        Place.of_input("shots/x%d.png").pictures()


@pytest.mark.parametrize(
    "name, shown, typed",
    [
        ("films/clip.mp4", "clip.mp4", "films/clip.mp4"),
        ("-", "standard input", "-"),
        ("https://me:pw@h/clip.mp4?key=1", "https://h/clip.mp4", "https://h/clip.mp4"),
        ("films/a\nb.mp4", "a\\nb.mp4", "films/a\nb.mp4"),
    ],
)
def test_place_shows_no_secret(name, shown, typed):
    place = Place.of_input(name)
    assert (place.shown, place.typed, place.path) == (shown, typed, name)


def test_open_live_gives_the_sizes():
    config = LiveConfig(input="test", size=(96, 64))
    opened = open_live(Place.of_live_input("test"), config, RecordingUi(), on_cpu=True)
    assert opened.size == opened.input_size == (96, 64) and opened.source.pausing
    opened.source.close()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/sp%20ace.mp4", "/a/sp ace.mp4"),
        ("FILE://localhost/a/b#1.mp4", "/a/b#1.mp4"),
        ("file:///a/%E5%BD%B1.mkv", "/a/影.mkv"),
        ("file:///a/100%.mp4", "/a/100%.mp4"),
    ],
)
def test_a_file_url_is_the_path_that_it_names(url, path):
    for place in (Place.of_input(url), Place.of_live_input(url), Place.of_output(url)):
        assert (place.kind, place.path, place.is_address) == (Kind.FILE, path, False)


def test_the_input_by_a_file_url_is_not_written_over(tmp_path):
    source = media.clip(tmp_path / "self.mp4", seconds=0.2)
    before = source.read_bytes()
    for read, written in [(f"file://{source}", str(source)), (str(source), f"file://{source}")]:
        with pytest.raises(MediaError, match="is the input itself"):
            media.copy_clip(read, written, overwrite=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("scheme", ["rtmp", "RTMP", "Rtmps"])
def test_a_stream_key_is_never_shown(scheme):
    for place in (Place.of_output(f"{scheme}://host/app/secret"), Place.of_live_input(f"{scheme}://host/app/secret")):
        assert "secret" not in place.typed + Place.of_output(place.path).shown
