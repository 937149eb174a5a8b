"""A small RTSP server, as a network camera has one: ffmpeg's RTP packets over one TCP connection."""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.senders import free_port
from mirage_cli.media.ffmpeg import find_ffmpeg


@contextmanager
def serve(picture: list[str]) -> Iterator[str]:
    """Serve what ffmpeg makes of ``picture`` to one client; gives the address."""
    with tempfile.TemporaryDirectory() as folder:
        sdp, port = Path(folder) / "s.sdp", free_port(socket.SOCK_DGRAM)
        rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rtp.bind(("127.0.0.1", port))
        command = [
            find_ffmpeg().path,
            "-v",
            "error",
            "-nostdin",
            *picture,
            "-f",
            "rtp",
            "-sdp_file",
            str(sdp),
            f"rtp://127.0.0.1:{port}",
        ]
        sender = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_answer, args=(server, rtp, sdp), daemon=True).start()
        try:
            yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/camera"
        finally:
            sender.kill()
            sender.wait()
            server.close()
            rtp.close()


def _answer(server: socket.socket, rtp: socket.socket, sdp: Path) -> None:
    with suppress(OSError):
        client, _ = server.accept()
        with client, client.makefile("rb") as lines:
            while request := lines.readline().decode():
                headers = {}
                while line := lines.readline().decode().strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                method = request.split()[0]
                more, body = "", ""
                if method == "OPTIONS":
                    more = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    body = _description(sdp)
                    more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif method == "SETUP":
                    more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
                answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{more}\r\n{body}"
                client.sendall(answer.encode())
                if method == "PLAY":
                    threading.Thread(target=_forward, args=(rtp, client), daemon=True).start()


def _description(sdp: Path) -> str:
    while not sdp.exists() or "m=video" not in sdp.read_text():
        time.sleep(0.02)
    text = re.sub(r"m=video \d+", "m=video 0", sdp.read_text())
    return text.replace("\r\n", "\n").replace("\n", "\r\n") + "a=control:track1\r\n"


def _forward(rtp: socket.socket, client: socket.socket) -> None:
    with suppress(OSError):
        while True:
            packet = rtp.recv(65536)
            client.sendall(b"$\x00" + len(packet).to_bytes(2, "big") + packet)
