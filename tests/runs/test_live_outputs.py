"""``mirage live`` into several outputs, pipes that nobody reads, and addresses that are not there."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import pytest
from helpers import media, senders
from helpers.fakes import FakeModels, RecordingUi
from helpers.senders import free_port

from mirage_cli.config import LiveConfig
from mirage_cli.errors import MediaError
from mirage_cli.inputs.file import open_file
from mirage_cli.runs import live

pytestmark = pytest.mark.slow


def test_live_into_several_outputs_while_recording(tmp_path, monkeypatch):
    monkeypatch.setattr("mirage_cli.outputs.push.FIRST_SECONDS", 0.1)
    url = f"tcp://127.0.0.1:{free_port()}"
    ui = RecordingUi()
    with senders.ffmpeg("-i", f"{url}?listen", "-c", "copy", str(tmp_path / "got.mkv"), wait=True):
        senders.wait_for_server(url)
        document = live.run(
            LiveConfig(
                input="test",
                prompts=("night",),
                window=False,
                size=(64, 48),
                fps=25.0,
                frames=30,
                output=str(tmp_path / "a.mp4"),
                record=True,
                record_folder=str(tmp_path),
                more_outputs=(url, str(tmp_path / "live.m3u8")),
            ),
            ui,
            models=FakeModels(),
            keys=False,
        )
    assert document["frames"] == 30 and document["more_outputs"][0] == url
    (recorded,) = document["files"]
    assert media.probe(tmp_path / "a.mp4").frames == media.probe(recorded).frames == 30
    with open_file(tmp_path / "live.m3u8") as source:
        assert len(list(source)) == 30
    assert media.probe(tmp_path / "got.mkv").frames >= 20


def test_an_address_that_is_not_there_leaves_the_file_whole(tmp_path):
    config = LiveConfig(
        input="test",
        prompts=("night",),
        window=False,
        size=(64, 48),
        fps=25.0,
        frames=40,
        output=f"rtmp://127.0.0.1:{free_port()}/live/key",
        more_outputs=(str(tmp_path / "a.mp4"),),
    )
    ui = RecordingUi()
    with pytest.raises(MediaError, match=r"cannot send to rtmp://.*refused") as caught:
        live.run(config, ui, models=FakeModels(), keys=False)
    assert caught.value.exit_code == 3 and "a.mp4: whole" in caught.value.remedy
    assert media.probe(tmp_path / "a.mp4").frames == 40
    assert any("the other outputs go on" in text for text in ui.warnings)


def test_a_pipe_that_nobody_reads_leaves_the_file_whole(tmp_path, monkeypatch):
    """Once while frames flow, and once at the end, where ffmpeg still holds some."""
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "wb") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        config = LiveConfig(
            input="test",
            prompts=("night",),
            window=False,
            size=(640, 360),
            fps=50.0,
            timeout_seconds=0.8,
            output=str(tmp_path / "a.mkv"),
            more_outputs=("-",),
            format="rawvideo",
        )
        ui = RecordingUi()
        with pytest.raises(MediaError, match="^standard output has taken no frame for 0.8 s") as caught:
            live.run(config, ui, models=FakeModels(), keys=False)
        assert caught.value.exit_code == 3
        assert ui.notes[-1] == f"wrote {tmp_path / 'a.mkv'}: what came before the output failed"
        assert media.probe(tmp_path / "a.mkv").frames >= 1
        config = replace(config, frames=2, overwrite=True)
        with pytest.raises(MediaError, match="^standard output has taken no frame for 0.8 s") as caught:
            live.run(config, ui, models=FakeModels(), keys=False)
        assert media.probe(tmp_path / "a.mkv").frames == 2 and "a.mkv: whole" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_a_pipe_that_is_read_slowly_is_waited_for(monkeypatch):
    """It has no room for all that is left at the end, for longer than the timeout."""
    read, write = os.pipe()
    got: list[int] = []

    def take():
        while data := os.read(read, 20_000):
            got.append(len(data))
            time.sleep(0.1)

    reader = threading.Thread(target=take)
    with os.fdopen(read), os.fdopen(write, "wb") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        reader.start()
        config = LiveConfig(
            input="test",
            prompts=("night",),
            window=False,
            size=(64, 48),
            fps=100.0,
            frames=60,
            timeout_seconds=0.8,
            output="-",
            format="rawvideo",
        )
        begin = time.monotonic()
        assert live.run(config, RecordingUi(), models=FakeModels(), keys=False)["frames"] == 60
        assert time.monotonic() - begin > 1.5
        pipe.close()
        reader.join()
    assert sum(got) == 60 * 64 * 48 * 3


def test_a_run_goes_on_for_its_recording(tmp_path):
    config = LiveConfig(
        input="test",
        prompts=("night",),
        window=False,
        size=(64, 48),
        fps=25.0,
        frames=60,
        record=True,
        output=f"rtmp://127.0.0.1:{free_port()}/live/key",
        record_folder=str(tmp_path),
    )
    with pytest.raises(MediaError, match=r"cannot send to rtmp://.*refused"):
        live.run(config, RecordingUi(), models=FakeModels(), keys=False)
    (recorded,) = tmp_path.iterdir()
    assert media.probe(recorded).frames == 60


def test_two_names_of_one_file_are_refused(tmp_path):
    config = LiveConfig(
        input="test",
        prompts=("night",),
        window=False,
        output=f"{tmp_path}/a.mp4",
        more_outputs=(f"{tmp_path}/./a.mp4",),
    )
    with pytest.raises(MediaError, match="the same file"):
        live.run(config, RecordingUi(), models=FakeModels(), keys=False)
