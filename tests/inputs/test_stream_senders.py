"""Streams as sources: real senders on loopback, a protocol each."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
import time

import cv2
import numpy as np
import pytest
from helpers import rtsp_server, senders
from helpers.live import play
from helpers.senders import FPS, SIZE, free_port, need, picture

from mirage_cli.inputs.stream import StreamSource, _untagged_hd
from mirage_cli.media.addresses import endless_type, stream_address
from mirage_cli.media.ffmpeg import find_ffmpeg
from mirage_cli.media.place import Kind, Place

pytestmark = pytest.mark.slow


def check_times(url, skip=0, **options):
    """Frames of a sender at 25 a second: their size, their times, and that they move."""
    with_size = {"timeout_seconds": 9.0, "attempts": 0, **options}
    source = StreamSource(stream_address(url), **with_size)
    try:
        assert (source.info.width, source.info.height) == SIZE
        assert source.info.fps == pytest.approx(FPS, abs=1) and source.state == "connected"
        frames = [frame for frame, _ in zip(source, range(12))]
    finally:
        source.close()
    gaps = np.diff([frame.pts_seconds for frame in frames])
    assert gaps[skip:] == pytest.approx(np.full(11 - skip, 1 / FPS), abs=2e-3)
    assert not np.array_equal(frames[0].rgb, frames[-1].rgb) and frames[0].rgb.std() > 30


def test_rtmp():
    need("rtmp")
    url = f"rtmp://127.0.0.1:{free_port()}/live/key"
    with senders.ffmpeg(*picture(4), "-f", "flv", "-listen", "1", url):
        senders.wait_for_server(url)
        check_times(url)


def test_a_stream_without_sound_whose_sound_is_asked_for():
    need("rtmp")
    url = f"rtmp://127.0.0.1:{free_port()}/live/key"
    with senders.ffmpeg(*picture(1), "-f", "flv", "-listen", "1", url):
        senders.wait_for_server(url)
        source = StreamSource(stream_address(url), attempts=0, with_line=True)
        assert len(list(source)) > FPS / 4
    assert source.sound is None and "Slave" not in source._connection.reason(1.0)


def test_http_without_end():
    """As network cameras and radio stations send: no length, data without end."""

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            command = [find_ffmpeg().path, "-v", "error", *picture(5), "-f", "mpegts", "-"]
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as sender:
                try:
                    while data := sender.stdout.read1(1 << 16):
                        self.wfile.write(data)
                except OSError:
                    sender.kill()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        play(f"http://127.0.0.1:{server.server_port}/camera", frames=10)
        server.shutdown()


class Camera5(http.server.BaseHTTPRequestHandler):
    """A network camera: five pictures a second without end, for every client with the password."""

    way = "Basic"

    def do_GET(self):
        if not self.headers.get("Authorization", "").startswith(self.way):
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'{self.way} realm="camera", nonce="1", qop="auth"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        data = cv2.imencode(".jpg", np.zeros((SIZE[1], SIZE[0], 3), np.uint8))[1].tobytes()
        try:
            while True:
                head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                self.wfile.write(head + data + b"\r\n")
                time.sleep(0.2)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("way", ["Basic", "Digest"])
def test_a_network_camera_with_a_password(way, monkeypatch):
    monkeypatch.setattr(Camera5, "way", way)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera5) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}/video"
        assert endless_type(f"http://{host}") is None
        assert endless_type(f"http://me:p%40ss@{host}") == "multipart/x-mixed-replace"
        play(f"http://me:p%40ss@{host}", frames=2)
        server.shutdown()


def test_jpegs_of_a_network_camera_get_the_times_they_came_at(monkeypatch):
    monkeypatch.setattr(Camera5, "way", "")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera5) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/video"
        source = StreamSource(stream_address(url, endless_type(url)), attempts=0)
        frames = [frame for frame, _ in zip(source, range(8))]
        source.close()
        server.shutdown()
    assert np.median(np.diff([frame.pts_seconds for frame in frames])) == pytest.approx(0.2, abs=0.05)


def test_srt():
    need("srt")
    url = f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    with senders.ffmpeg(*picture(4), "-f", "mpegts", f"{url}?mode=listener"):
        senders.wait_for_server(url)
        check_times(url)


def test_udp():
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    with senders.ffmpeg(*picture(5), "-f", "mpegts", f"{url}?pkt_size=1316"):
        document, _ = play(url)
    assert document["frames_in"] >= 15


def test_rtsp_from_a_server_as_cameras_are():
    with rtsp_server.serve(picture(6)) as url:
        check_times(url, skip=1)  # RTP has no time of its own until the second picture


def test_hls_is_shown_at_its_own_pace(tmp_path):
    playlist = tmp_path / "live.m3u8"
    with senders.ffmpeg(*picture(8), "-f", "hls", "-hls_time", "0.4", "-hls_list_size", "4", str(playlist)):
        senders.wait_for(playlist.exists)
        with senders.web(tmp_path) as base:
            begin = time.perf_counter()
            document, _ = play(f"{base}/live.m3u8", frames=30)
    # Segments come whole, in an instant: without pacing 30 frames would take no time, or be lost.
    assert time.perf_counter() - begin > 29 / FPS
    assert document["dropped"] < 30


@pytest.mark.parametrize("scheme", ["rtmp", "rtsp", "srt"])
def test_mirage_waits_for_a_sender(scheme):
    need(scheme) if scheme != "rtsp" else None
    kind = socket.SOCK_DGRAM if scheme == "srt" else socket.SOCK_STREAM
    url = f"{scheme}://127.0.0.1:{free_port(kind)}"
    target, form = {"rtmp": (f"{url}/live/key", "flv"), "rtsp": (f"{url}/key", "rtsp"), "srt": (url, "mpegts")}[scheme]
    more = ["-rtsp_transport", "tcp"] if scheme == "rtsp" else []
    listening = f"{target}?mode=listener" if scheme == "srt" else f"{target}?listen=1"
    assert Place.of_live_input(listening).kind is Kind.STREAM
    with senders.later(0.4, *picture(5), "-f", form, *more, target):
        document, ui = play(listening, frames=10)
    assert any("waiting for a sender" in note for note in ui.notes)


def test_untagged_hd_is_taken_for_bt709():
    """The matrix undoes BT.601 and does BT.709, which for grey is nothing."""
    from mirage_cli.media.probe import parse_probe

    def probe(size: str, tags: str = "tv"):
        return parse_probe(
            "Input #0, flv, from 'x':\n  Stream #0:0: Video: h264 (High), "
            f"yuv420p({tags}, progressive), {size}, 25 fps, 25 tbr"
        )

    matrix = _untagged_hd(probe("1280x720"), 720)
    assert matrix @ np.ones(3) == pytest.approx(np.ones(3))
    luma = np.array([0.2126, 0.7152, 0.0722])
    assert luma @ matrix == pytest.approx([0.299, 0.587, 0.114])
    assert _untagged_hd(probe("640x360"), 360) is None
    assert _untagged_hd(probe("1280x720", "tv, bt709"), 720) is None
