"""Addresses as outputs: real listeners, broken and connected again."""

from __future__ import annotations

import http.server
import os
import socket
import threading
import time

import numpy as np
import pytest
from helpers import media, senders
from helpers.senders import free_port, need
from helpers.sent import INFO, RGB, check_received, output, send

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame
from mirage_cli.media.formats import choose_container
from mirage_cli.media.place import Place
from mirage_cli.outputs.file import open_output, plan_output
from mirage_cli.outputs.push import PushSink

pytestmark = pytest.mark.slow


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
        choose_container(Place.of_output("http://host/clip.mp4"))


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
    monkeypatch.setattr("mirage_cli.outputs.push.FIRST_SECONDS", 0.1)
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
    monkeypatch.setattr("mirage_cli.outputs.push.FIRST_SECONDS", 0.0)
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
    monkeypatch.setattr("mirage_cli.outputs.push.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("mirage_cli.outputs.push.pause_seconds", lambda attempt: 0.01)

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
