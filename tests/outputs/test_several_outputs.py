"""Several outputs at once, their names, and pipes among them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import media
from helpers.flow import Sink
from helpers.sent import INFO, RGB, Fails

from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import Frame
from mirage_cli.media.formats import choose_container
from mirage_cli.media.place import Place
from mirage_cli.outputs.fan_out import FanOut
from mirage_cli.outputs.file import open_output
from mirage_cli.outputs.names import check_targets


def test_one_output_that_fails_does_not_take_the_others_along(tmp_path):
    good, bad, told = open_output(tmp_path / "o.mp4", INFO), Fails(), []
    both = FanOut([("bad", bad), ("o.mp4", good)], told.append)
    for n in range(10):
        both.write(Frame(RGB[n], n / 25, n))
    assert bad.ended == [False] and "bad is left out" in told[0]
    with pytest.raises(MediaError, match="the disk is full") as caught:
        both.close()
    assert caught.value.remedy.startswith("o.mp4: whole")
    assert media.probe(tmp_path / "o.mp4").frames == 10
    alone = FanOut([("bad", Fails(0))])
    with pytest.raises(MediaError, match="the disk is full"):
        alone.write(Frame(RGB[0], 0.0, 0))


def test_names_of_outputs(tmp_path):
    def places(*names):
        return [Place.of_output(str(name)) for name in names]

    names = ("rtmp://a.rtmp.example.com/live2/abcd-key", "srt://me:pw@h:9000?passphrase=x", "-", "/a/b.mp4")
    shown = [place.shown for place in places(*names)]
    assert shown == ["rtmp://a.rtmp.example.com/live2/...", "srt://h:9000", "standard output", "b.mp4"]
    assert [place.typed for place in places("rtmp://h/live2/key", "a/b.mp4")] == ["rtmp://h/live2/...", "a/b.mp4"]
    seen: list[Place] = []
    check_targets(places("-", "rtmp://h/a/b", "camera", "a.mp4", "b.mp4"), seen.append)
    assert [place.path for place in seen] == ["a.mp4", "b.mp4"]
    with pytest.raises(MediaError, match="the same file"):
        check_targets(places(tmp_path / "a.mp4", f"{tmp_path}/./a.mp4"), seen.append)


@pytest.mark.parametrize("form", ["matroska", "mpegts", "y4m", "rawvideo"])
def test_what_goes_through_a_pipe(form, tmp_path, monkeypatch):
    with open(tmp_path / "pipe", "wb") as pipe:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", pipe)
            sink = open_output("-", INFO, form=form)
        for n in range(10):
            sink.write(Frame(RGB[n], n / 25, n))
        sink.close()
    data = (tmp_path / "pipe").read_bytes()
    if form == "rawvideo":
        back = np.frombuffer(data, np.uint8).reshape(10, 48, 64, 3)
        assert np.array_equal(back, np.stack(RGB[:10]))
        return
    if form == "y4m":
        assert data.startswith(b"YUV4MPEG2 W64 H48 F25:1")
    raw = media.ffmpeg(
        "-i", "pipe:0", "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-", feed=data
    )
    back = np.frombuffer(raw, np.uint8).reshape(-1, 48, 64, 3).astype(int)
    assert len(back) == 10 and np.abs(back - np.stack(RGB[:10])).mean() < 6


def test_pipes_of_other_kinds_are_refused():
    assert choose_container(Place.of_output("-")).muxer == "matroska"
    with pytest.raises(UsageProblem, match="hls file does not hold|no video encoder"):
        open_output("rtmp://127.0.0.1:1/live/x", INFO, codec="h999")
    assert re.match("hls", choose_container(Place.of_output("https://h/x.m3u8")).muxer)


def test_files_are_finished_before_what_somebody_must_read():
    class Ends(Fails):
        waits = False

        def __init__(self, waits):
            super().__init__()
            self.waits = waits

        def close(self, commit=True):
            order.append(self.waits)

    order: list[bool] = []
    FanOut([("pipe", Ends(True)), ("file", Ends(False))]).close()
    assert order == [False, True]


def test_fan_out_closes_all_its_sinks_whatever_happens():
    class Bad(Sink):
        def close(self, commit=True):
            super().close(commit)
            raise MediaError("cannot finish")

    one, two = Bad(), Sink()
    both = FanOut([("one", one), ("two", two)])
    both.write(Frame(np.zeros((2, 2, 3), np.uint8), 0.0, 0))
    with pytest.raises(MediaError, match="cannot finish"):
        both.close(True)
    assert one.ended == two.ended == [True] and len(two.frames) == 1
