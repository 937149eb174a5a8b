"""Streams as sources: real senders on loopback, lost and found again; the screen; cameras."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import media
import numpy as np
import pytest
import rtsp_server
import senders
from cli_fakes import FakeEngine, RecordingUi
from senders import FPS, SIZE, free_port, need, picture

from mirage_cli.config import LiveConfig
from mirage_cli.errors import MediaError, UsageProblem
from mirage_cli.inputs.devices import Camera, find_camera, list_cameras, list_devices
from mirage_cli.inputs.stream import StreamSource, _untagged_hd, shown_url
from mirage_cli.media.addresses import endless_type, is_broadcast, pause_seconds, stream_address
from mirage_cli.media.ffmpeg import find_ffmpeg
from mirage_cli.runs import live


def play(url, frames=15, **values):
    """``mirage live`` on a stream with a stand-in model: its document and what the user was told."""
    given = {
        "prompts": ("ink wash",),
        "window": False,
        "frames": frames,
        "timeout_seconds": 9.0,
        "reconnect": 0,
        **values,
    }
    ui = RecordingUi()
    document = live.run(LiveConfig(input=url, **given), ui, engine=FakeEngine(), keys=False)
    assert document["frames"] == frames and document["size"] == list(given.get("size") or SIZE)
    return document, ui


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
    """As network cameras and radio stations send: no length, data for ever."""

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
    """A network camera: five pictures a second for ever, for whoever has the password."""

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
    assert is_broadcast(listening)
    with senders.later(0.4, *picture(5), "-f", form, *more, target):
        document, ui = play(listening, frames=10)
    assert any("waiting for a sender" in note for note in ui.notes)


def test_nobody_there_is_said_at_once():
    url = f"rtmp://127.0.0.1:{free_port()}/live/key"
    begin = time.perf_counter()
    with pytest.raises(MediaError, match="Connection refused") as caught:
        StreamSource(stream_address(url), attempts=5)
    assert time.perf_counter() - begin < 5.0 and caught.value.exit_code == 3


def test_a_server_that_says_nothing_is_no_hang():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"rtmp://127.0.0.1:{server.getsockname()[1]}/live/key"
        with pytest.raises(MediaError, match="no picture came within 0.6 s"):
            StreamSource(stream_address(url), timeout_seconds=0.6)


def test_a_lost_stream_is_found_again_and_its_times_go_on():
    url = f"http://127.0.0.1:{free_port()}/live.ts"
    arguments = [*picture(30), "-f", "mpegts", "-listen", "1", url]
    told: list[str] = []
    with senders.ffmpeg(*arguments) as first:
        senders.wait_for_server(url)
        source = StreamSource(stream_address(url), timeout_seconds=5.0, tell=told.append)
        frames = []
        with senders.later(0.9, *arguments):
            for frame in source:
                frames.append(frame)
                if frame.index == 10:
                    first.kill()
                if source.reconnects and len(frames) > frames_before + 10:
                    break
                frames_before = len(frames) if not source.reconnects else frames_before
            source.close()
    assert source.reconnects == 1 and source.state == "connected"
    times = np.array([frame.pts_seconds for frame in frames])
    assert np.diff(times).min() > 0 and [f.index for f in frames] == list(range(len(frames)))
    assert 0.3 < np.diff(times).max() < 8.0  # the gap is kept: times stay those of the clock
    assert any("attempt 1 of 10" in text for text in told) and "connected again" in told[-1]


def test_a_stream_that_stays_lost_ends_with_what_was_tried():
    url = f"http://127.0.0.1:{free_port()}/live.ts"
    with senders.ffmpeg(*picture(1.0), "-f", "mpegts", "-listen", "1", url):
        senders.wait_for_server(url)
        source = StreamSource(stream_address(url), timeout_seconds=5.0, attempts=1)
        frames = []
        with pytest.raises(MediaError, match=r"lost after \d+ frames .* 1 attempts") as caught:
            for frame in source:
                frames.append(frame)
        source.close()
    assert len(frames) >= 5 and "refused" in caught.value.message


def test_a_sender_that_stops_sending_is_lost_after_the_timeout():
    url = f"http://127.0.0.1:{free_port()}/live.ts"
    with senders.ffmpeg(*picture(30), "-f", "mpegts", "-listen", "1", url) as sender:
        senders.wait_for_server(url)
        source = StreamSource(stream_address(url), timeout_seconds=1.5, attempts=0)
        begin = None
        with pytest.raises(MediaError, match="no picture for 1.5 s"):
            for frame in source:
                if frame.index == 5:
                    sender.send_signal(signal.SIGSTOP)
                    begin = time.perf_counter()
        source.close()
        assert begin is not None and 1.0 < time.perf_counter() - begin < 4.0
        sender.send_signal(signal.SIGCONT)


def listening_on(port):
    """Whether a program of this machine listens there."""
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


def test_ctrl_c_while_a_sender_is_waited_for_frees_the_port():
    port = free_port()
    program = [sys.executable, str(Path(__file__).with_name("cli_fakes.py")), "live", "-p", "night", "--no-window"]
    waits = subprocess.Popen(
        [*program, "-i", f"rtmp://127.0.0.1:{port}/live/key?listen=1", "--timeout", "60"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        senders.wait_for(lambda: listening_on(port), 30.0)
        waits.send_signal(signal.SIGINT)
        waits.communicate(timeout=20)
    finally:
        waits.kill()
    assert waits.returncode == 130 and not listening_on(port)


def test_a_stream_that_is_closed_while_it_connects_again_frees_the_port(monkeypatch):
    monkeypatch.setattr("mirage_cli.inputs.stream.pause_seconds", lambda attempt: 0.1)
    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    with senders.later(0.5, *picture(1.0), "-f", "mpegts", url):
        source = StreamSource(stream_address(f"{url}?listen=1"), timeout_seconds=60.0)
        reads = threading.Thread(target=lambda: list(source), daemon=True)
        reads.start()
        senders.wait_for(lambda: "attempt 1" in source.state and listening_on(port), 15.0)
    source.close()
    reads.join(5.0)
    assert not reads.is_alive() and not listening_on(port)


def test_a_connection_that_is_there_when_the_run_has_ended_is_closed(monkeypatch):
    class There:
        """A connection whose stream ends at once."""

        stalled = True
        closed = False

        def frames(self, timeout_seconds):
            return iter(())

        def reason(self, timeout_seconds):
            return "ended"

        def close(self):
            self.closed = True

    source = StreamSource.__new__(StreamSource)
    source._address, source._attempts, source._timeout, source._tell = stream_address("tcp://h:1"), 1, 1.0, print
    source._closed, source.sound, source._connection, second = threading.Event(), None, There(), There()
    monkeypatch.setattr("mirage_cli.inputs.stream.pause_seconds", lambda attempt: 0.0)
    source._open = lambda: (source.close(), second)[1]
    assert list(source) == [] and second.closed


def test_a_word_in_the_address_is_no_sound_that_failed():
    told: list[str] = []
    url = f"rtsp://me:pw@127.0.0.1:{free_port()}/Streaming/Channels/101/audio"
    with pytest.raises(MediaError, match="Connection refused"):
        StreamSource(stream_address(url), attempts=0, tell=told.append, with_line=True)
    assert told == []


def test_what_came_while_the_model_was_loaded_is_not_shown():
    url = f"http://127.0.0.1:{free_port()}/live.ts"
    with senders.ffmpeg(*picture(30), "-f", "mpegts", "-listen", "1", url):
        senders.wait_for_server(url)
        source = StreamSource(stream_address(url), attempts=0)
        time.sleep(1.5)
        frames = [frame for frame, _ in zip(source, range(10))]
        source.close()
    assert np.diff([frame.pts_seconds for frame in frames]) == pytest.approx(np.full(9, 1 / FPS), abs=2e-3)
    clip = media.ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=s={SIZE[0]}x{SIZE[1]}:r={FPS}",
        "-t",
        "1",
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    )
    early = np.frombuffer(clip, np.uint8).reshape(FPS, SIZE[1], SIZE[0], 3).astype(int)
    assert np.abs(early - frames[0].rgb).mean(axis=(1, 2, 3)).min() > 8.0  # none of the first second


def test_back_off_and_names():
    assert [pause_seconds(n) for n in (1, 2, 3, 4, 5, 6, 99)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert shown_url("rtsp://me:secret@cam.local/s?key=1") == "rtsp://cam.local/s"
    assert not is_broadcast("http://host/clip.mp4") and not is_broadcast("clip.mp4")
    assert stream_address("rtmp://h/a/k?listen=1&x=2").url == "rtmp://h/a/k?x=2"
    assert stream_address("rtsp://h/a").options["rtsp_transport"] == "tcp"


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


def test_the_screen_is_a_source(screen, monkeypatch):
    monkeypatch.setenv("DISPLAY", screen)
    play("screen:64x48+10+20", frames=3, size=(64, 48), fps=30.0)
    (entry,) = list_devices()["screens"]
    assert entry["size"] == [200, 120] and entry["display"] == screen
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
    with pytest.raises(UsageProblem, match="no part of a screen"):
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


# Patience of the run


def test_a_source_that_hangs_ends_with_what_it_gave(tmp_path, monkeypatch):
    """A named pipe whose writer stops in the middle."""
    monkeypatch.setattr("mirage_cli.inputs.pipe.HEAD_PAUSE_S", 0.1)
    clip = media.clip(tmp_path / "in.mkv", seconds=1.0, sound=None)
    data = clip.read_bytes()
    fifo, out, held = tmp_path / "fifo", tmp_path / "out.mp4", threading.Event()
    os.mkfifo(fifo)

    def feed():
        with open(fifo, "wb") as pipe:
            pipe.write(data[: int(len(data) * 0.7)])
            pipe.flush()
            held.wait(20)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    ui = RecordingUi()
    with pytest.raises(MediaError, match="fifo has given no frame for 0.7 s") as caught:
        live.run(
            LiveConfig(input=str(fifo), output=str(out), prompts=("night",), window=False, timeout_seconds=0.7),
            ui,
            engine=FakeEngine(),
            keys=False,
        )
    held.set()
    assert caught.value.exit_code == 3 and media.probe(out).frames >= 10
    assert any("what came before the source failed" in note for note in ui.notes)


def test_standard_input_that_gives_nothing(monkeypatch):
    read, write = os.pipe()
    with os.fdopen(read) as silent:
        monkeypatch.setattr("sys.stdin", silent)
        with pytest.raises(MediaError, match="standard input gave nothing within 0.3 s"):
            live.run(
                LiveConfig(input="-", prompts=("night",), window=False, timeout_seconds=0.3),
                RecordingUi(),
                engine=FakeEngine(),
                keys=False,
            )
    os.close(write)


def test_a_stopped_process_goes_on_and_blames_nobody(tmp_path):
    """A second and a half of SIGSTOP, as under a closed lid, with a patience of one."""
    program = [sys.executable, str(Path(__file__).with_name("cli_fakes.py")), "live", "--input", "test"]
    done = subprocess.Popen(
        [
            *program,
            "-p",
            "night",
            "--no-window",
            "--size",
            "64x48",
            "--fps",
            "50",
            "--frames",
            "60",
            "--timeout",
            "1",
            "--json",
            "-o",
            str(tmp_path / "o.mkv"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    senders.wait_for((tmp_path / "o.mkv.part").exists, 30.0)  # the run begins
    time.sleep(0.3)
    done.send_signal(signal.SIGSTOP)
    time.sleep(1.6)
    done.send_signal(signal.SIGCONT)
    out, err = done.communicate(timeout=20)
    document = json.loads(out)
    assert done.returncode == 0, err
    assert document["frames"] == 60 and document["seconds"] > 1.5
    # Nothing is caught up: were the missed 75 frames given at once, most would have been dropped.
    assert document["dropped"] < 20 and document["latency_ms"]["end_to_end"]["p50"] < 40
