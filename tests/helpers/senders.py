"""Real senders and listeners on loopback, made of ffmpeg and of Python's own servers."""

from __future__ import annotations

import functools
import http.server
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirage_cli.media.ffmpeg import find_ffmpeg

SIZE, FPS = (96, 64), 25


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@functools.lru_cache(maxsize=1)
def protocols() -> tuple[frozenset[str], frozenset[str]]:
    """The protocols that this ffmpeg reads and writes."""
    text = subprocess.run([find_ffmpeg().path, "-hide_banner", "-protocols"], capture_output=True, text=True).stdout
    before, after = text.split("Output:")
    return frozenset(re.findall(r"^  (\w+)$", before, re.M)), frozenset(re.findall(r"^  (\w+)$", after, re.M))


def need(*names: str) -> None:
    """Skip the test where ffmpeg was built without a protocol."""
    reads, writes = protocols()
    for name in names:
        if name not in reads or name not in writes:
            pytest.skip(f"this ffmpeg has no {name}")


def picture(seconds: float, size: tuple[int, int] = SIZE, fps: int = FPS) -> list[str]:
    """A moving test picture in real time, encoded as a camera would."""
    return [
        "-re",
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=s={size[0]}x{size[1]}:r={fps}",
        "-t",
        f"{seconds}",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-tune",
        "zerolatency",
        "-g",
        "5",
        "-pix_fmt",
        "yuv420p",
    ]


@contextmanager
def ffmpeg(*arguments: str, wait: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A running ffmpeg, ended with the block; ``wait`` lets it end by itself first."""
    command = [find_ffmpeg().path, "-hide_banner", "-v", "error", "-nostdin", "-y", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
        if wait:
            process.wait(10)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def later(seconds: float, *arguments: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The same, but it starts after a while; the list holds what was started."""
    started: list[subprocess.Popen[bytes]] = []
    ended = threading.Event()

    def start() -> None:
        if not ended.wait(seconds):
            command = [find_ffmpeg().path, "-v", "error", "-nostdin", "-y", *arguments]
            started.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )

    thread = threading.Thread(target=start)
    thread.start()
    try:
        yield started
    finally:
        ended.set()
        thread.join()
        for process in started:
            process.kill()
            process.wait()


def wait_for_server(url: str) -> None:
    """Until something listens at the address's port, without connecting to it."""
    port, table = int(re.search(r":(\d+)", url)[1]), "udp" if url.startswith(("srt", "udp")) else "tcp"
    shown = re.compile(rf"^ *\d+: \w+:{port:04X} \w+:\w+ (?:0A|07) ", re.M)
    if not Path("/proc/net", table).exists():
        time.sleep(1.0)
        return
    wait_for(lambda: shown.search(Path("/proc/net", table).read_text()), 10.0)


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """A web server of a folder; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wait_for(ready, seconds: float = 5.0) -> None:
    """Until ``ready()`` is true; fails the test when it never is."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
