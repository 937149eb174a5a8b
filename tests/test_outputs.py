"""Outputs other than files: addresses with real listeners, broken and mended; a virtual camera; pipes."""

from __future__ import annotations

import http.server
import os
import re
import socket
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import media
import numpy as np
import pytest
import senders
from cli_fakes import FakeEngine, RecordingUi
from senders import free_port, need
from test_video_out import pictures, still_info

from mirage_cli.config import LiveConfig
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.frames import Frame
from mirage_cli.inputs.file import open_file
from mirage_cli.media.formats import choose_container
from mirage_cli.outputs.fan_out import FanOut
from mirage_cli.outputs.file import open_output, plan_output
from mirage_cli.outputs.names import check_targets, shown_target, without_secrets
from mirage_cli.outputs.open import live_info, open_live_output
from mirage_cli.outputs.push import PushSink
from mirage_cli.outputs.virtual_camera import VirtualCameraSink
from mirage_cli.runs import live

RGB = pictures(30)
INFO = live_info(still_info(fps=25.0), (64, 48))


def send(sink, count, fps=25.0, begin=0):
    """Frames at their pace."""
    started = time.perf_counter()
    for n in range(count):
        time.sleep(max(0.0, started + n / fps - time.perf_counter()))
        sink.write(Frame(RGB[(begin + n) % 30], (begin + n) / fps, begin + n))


def output(target, tell=lambda text: None, **values):
    config = LiveConfig(input="test", **{"timeout_seconds": 8.0, **values})
    return open_live_output(target, config, INFO, tell)


def check_received(path, least, most=30):
    with open_file(path) as source:
        frames = list(source)
    assert least <= len(frames) <= most, len(frames)
    assert frames[0].rgb.shape == (48, 64, 3)
    # They are the frames that were sent: near to one of them, and the first to an early one.
    off = [np.abs(frames[0].rgb.astype(int) - rgb).mean() for rgb in RGB]
    assert min(off) < 8.0


@pytest.mark.parametrize("scheme", ["rtmp", "srt", "tcp"])
def test_a_push_arrives(tmp_path, scheme):
    need(scheme)
    kind = socket.SOCK_DGRAM if scheme == "srt" else socket.SOCK_STREAM
    url, got = f"{scheme}://127.0.0.1:{free_port(kind)}", tmp_path / "got.mkv"
    url += "/live/key" if scheme == "rtmp" else ""
    listen = ["-listen", "1", "-i", url]
    if scheme != "rtmp":
        listen = ["-i", f"{url}?mode=listener" if scheme == "srt" else f"{url}?listen"]
    with senders.ffmpeg(*listen, "-c", "copy", str(got), wait=True):
        senders.wait_for_server(url)
        sink = output(url)
        assert isinstance(sink, PushSink)
        send(sink, 30)
        sink.close()
        assert sink.sent + sink.missed == 30 and sink.state == "connected"
    check_received(got, 20)
    assert "key" not in sink.name


def test_udp_is_sent_whether_or_not_somebody_listens(tmp_path):
    url, got = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", tmp_path / "got.ts"
    with senders.ffmpeg("-analyzeduration", "200000", "-i", url, "-t", "0.4", "-c", "copy", str(got), wait=True):
        senders.wait_for_server(url)
        sink = output(url + "?pkt_size=1316")
        send(sink, 75, fps=50.0)
        sink.close()
    assert media.probe(got).frames >= 8


def test_hls_into_a_folder(tmp_path):
    target = tmp_path / "live.m3u8"
    sink = output(str(target))
    send(sink, 30, fps=300.0)
    sink.close()
    assert "#EXT-X-ENDLIST" in target.read_text()
    check_received(target, 30)
    with pytest.raises(MediaError, match="cannot write to http"):
        choose_container("http://host/clip.mp4")


def test_hls_to_a_web_server(tmp_path):
    class Takes(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            data = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                data = self.rfile.read(int(self.headers["Content-Length"]))
            (tmp_path / os.path.basename(self.path)).write_bytes(data)
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sink = output(f"http://127.0.0.1:{server.server_port}/live.m3u8")
        send(sink, 30, fps=100.0)
        sink.close()
        last = tmp_path / "live.m3u8"  # the server may still be at it
        senders.wait_for(lambda: last.exists() and "ENDLIST" in last.read_text())
        server.shutdown()
    check_received(tmp_path / "live.m3u8", 15)


def test_a_playlist_on_a_server_that_was_lost_gets_higher_numbers():
    first, again = (plan_output("http://h/x.m3u8", INFO, low_delay=True, again=again) for again in (False, True))
    assert "hls_start_number_source" not in first.container.options
    assert again.container.options["hls_start_number_source"] == "epoch"
    assert again.container.options["hls_flags"] == first.container.options["hls_flags"] + "+discont_start"


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("made", [5, 25])
def test_a_key_frame_every_two_seconds_whatever_is_dropped(tmp_path, codec, made):
    """Of 25 frames a second, 5 are made; and none for a while."""
    target = tmp_path / "o.ts"
    with open_output(target, INFO, codec=codec, low_delay=True) as sink:
        for n in range(7 * made):
            sink.write(Frame(RGB[0], n / made + (6 if n >= 5 * made else 0), n))
    shown = media.ffmpeg(
        "-skip_frame",
        "nokey",
        "-i",
        target,
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/1000",
        "-f",
        "framecrc",
        "-",
    ).decode()
    times = [int(line.split(",")[1]) / 1000 for line in shown.splitlines() if not line.startswith("#")]
    assert np.array(times) - times[0] == pytest.approx([0, 2, 4, 11], abs=0.05)


def test_a_wrong_address_is_said_soon():
    sink = output(f"rtmp://127.0.0.1:{free_port()}/live/key")
    begin = time.perf_counter()
    with pytest.raises(MediaError, match=r"cannot send to rtmp://127.0.0.1:\d+/live/...: .*refused"):
        for n in range(200):
            sink.write(Frame(RGB[n % 30], n / 25, n))
            time.sleep(0.02)
    assert time.perf_counter() - begin < 3.5
    sink.close(commit=False)


def test_a_push_that_breaks_is_mended(tmp_path, monkeypatch):
    monkeypatch.setattr("mirage_cli.outputs.open.push.FIRST_SECONDS", 0.1)
    url = f"tcp://127.0.0.1:{free_port()}"
    told: list[str] = []
    listen = ["-i", f"{url}?listen", "-c", "copy"]
    with senders.ffmpeg(*listen, str(tmp_path / "one.mkv")) as first:
        senders.wait_for_server(url)
        sink = output(url, told.append)
        send(sink, 15)
        first.kill()
        first.wait()
    with senders.ffmpeg(*listen, str(tmp_path / "two.mkv"), wait=True):
        deadline, n = time.monotonic() + 15, 15
        while not sink.reconnects and time.monotonic() < deadline:
            send(sink, 5, begin=n)  # the run goes on all the while
            n += 5
        send(sink, 15, begin=n)
        sink.close()
    assert sink.reconnects == 1 and sink.missed > 0
    assert any("attempt 1 of 10" in text for text in told) and "connected again" in told[-1]
    assert any("connected again 1 times" in text for text in sink.warnings)
    check_received(tmp_path / "two.mkv", 10)


class Line:
    """A connection that takes nothing until it is killed."""

    def __init__(self, made, stuck):
        made.append(self)
        self.warnings: list[str] = []
        self.begun = self.running = True
        self.killed, self.stuck, self.frames, self.ended = threading.Event(), stuck, [], []

    def write(self, frame):
        if self.stuck:
            self.killed.wait(20)
        if self.killed.is_set():
            raise MediaError("ffmpeg could not write it: Broken pipe")
        self.frames.append(frame.index)

    def close(self, commit=True):
        self.ended.append(commit)

    def kill(self):
        self.killed.set()


def test_a_push_that_takes_nothing_is_lost_after_the_timeout(monkeypatch):
    monkeypatch.setattr("mirage_cli.outputs.open.push.FIRST_SECONDS", 0.0)
    made: list[Line] = []
    sink = PushSink("line", lambda again: Line(made, stuck=not made), timeout_seconds=0.3)
    begin = time.perf_counter()
    slowest = 0.0
    for n in range(400):
        before = time.perf_counter()
        sink.write(Frame(RGB[0], n / 100, n))
        slowest = max(slowest, time.perf_counter() - before)
        if sink.reconnects:
            break
        time.sleep(0.01)
    assert sink.reconnects == 1 and time.perf_counter() - begin < 5.0
    assert slowest < 0.25  # the run itself is never kept
    sink.close()
    first, second = made
    assert first.killed.is_set() and first.ended == [False] and second.ended == [True]
    assert len(second.frames) >= 2 and second.frames == sorted(second.frames)


def test_a_push_that_stays_lost(monkeypatch):
    monkeypatch.setattr("mirage_cli.outputs.open.push.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("mirage_cli.outputs.open.push.pause_seconds", lambda attempt: 0.01)

    def connect(again):
        made.append(1)
        line = Line([], stuck=False)
        line.killed.set()
        return line

    made: list[int] = []
    sink = PushSink("line", connect, attempts=3)
    with pytest.raises(MediaError, match="line was lost .* 3 attempts"):
        for n in range(500):
            sink.write(Frame(RGB[0], n / 100, n))
            time.sleep(0.005)
    sink.close(commit=False)
    assert len(made) == 4


# Several


class Fails:
    warnings: list[str] = []

    def __init__(self, at=3):
        self.at, self.ended = at, []

    def write(self, frame):
        if frame.index == self.at:
            raise MediaError("the disk is full", "Free some.")

    def close(self, commit=True):
        self.ended.append(commit)


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
    assert shown_target("rtmp://a.rtmp.example.com/live2/abcd-key") == ("rtmp://a.rtmp.example.com/live2/...")
    assert shown_target("srt://me:pw@h:9000?passphrase=x") == "srt://h:9000"
    assert shown_target("-") == "standard output" and shown_target("/a/b.mp4") == "b.mp4"
    assert without_secrets("rtmp://h/live2/key") == "rtmp://h/live2/..." and without_secrets("a/b.mp4") == "a/b.mp4"
    seen: list[str] = []
    check_targets(["-", "rtmp://h/a/b", "camera", "a.mp4", "b.mp4"], seen.append)
    assert seen == ["a.mp4", "b.mp4"]
    with pytest.raises(MediaError, match="the same file"):
        check_targets([str(tmp_path / "a.mp4"), f"{tmp_path}/./a.mp4"], seen.append)


# Pipes


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


# The virtual camera


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


def test_pipes_of_other_kinds_are_refused():
    assert choose_container("-", None).muxer == "matroska"
    with pytest.raises(UsageProblem, match="hls file does not hold|no video encoder"):
        open_output("rtmp://127.0.0.1:1/live/x", INFO, codec="h999")
    assert re.match("hls", choose_container("https://h/x.m3u8").muxer)


# mirage live as a whole


def test_live_into_several_outputs_while_recording(tmp_path, monkeypatch):
    monkeypatch.setattr("mirage_cli.outputs.open.push.FIRST_SECONDS", 0.1)
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
            engine=FakeEngine(),
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
        live.run(config, ui, engine=FakeEngine(), keys=False)
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
            live.run(config, ui, engine=FakeEngine(), keys=False)
        assert caught.value.exit_code == 3
        assert ui.notes[-1] == f"wrote {tmp_path / 'a.mkv'}: what came before the output failed"
        assert media.probe(tmp_path / "a.mkv").frames >= 1
        config = replace(config, frames=2, overwrite=True)
        with pytest.raises(MediaError, match="^standard output has taken no frame for 0.8 s") as caught:
            live.run(config, ui, engine=FakeEngine(), keys=False)
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
        assert live.run(config, RecordingUi(), engine=FakeEngine(), keys=False)["frames"] == 60
        assert time.monotonic() - begin > 1.5
        pipe.close()
        reader.join()
    assert sum(got) == 60 * 64 * 48 * 3


def test_files_are_finished_before_what_somebody_must_read():
    class Ends(Fails):
        def __init__(self, waits):
            super().__init__()
            self.waits = waits

        def close(self, commit=True):
            order.append(self.waits)

    order: list[bool] = []
    FanOut([("pipe", Ends(True)), ("file", Ends(False))]).close()
    assert order == [False, True]


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
        live.run(config, RecordingUi(), engine=FakeEngine(), keys=False)
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
        live.run(config, RecordingUi(), engine=FakeEngine(), keys=False)
