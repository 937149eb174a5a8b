"""Streams that are not there, are lost and found again, or are closed while they connect."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import media, senders
from helpers.paths import FAKES
from helpers.senders import FPS, SIZE, free_port, picture

from mirage_cli.errors import MediaError
from mirage_cli.inputs.stream import StreamSource
from mirage_cli.media.addresses import pause_seconds, stream_address
from mirage_cli.media.place import Kind, Place


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
        frames, frames_before = [], 0
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
    program = [sys.executable, str(FAKES), "live", "-p", "night", "--no-window"]
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
    assert Place.of_live_input("rtsp://me:secret@cam.local/s?key=1").shown == "rtsp://cam.local/s"
    assert Place.of_live_input("http://host/clip.mp4").kind is Kind.ADDRESS
    assert Place.of_live_input("clip.mp4").kind is Kind.FILE
    assert stream_address("rtmp://h/a/k?listen=1&x=2").url == "rtmp://h/a/k?x=2"
    assert stream_address("rtsp://h/a").options["rtsp_transport"] == "tcp"
