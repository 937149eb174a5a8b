"""Video that arrives through a pipe: standard input or a named pipe.

ffmpeg is asked what the input holds before it decodes, and a pipe can be read only once. So the
first bytes are kept, shown to the probe, and sent again before the rest. An MP4 whose index lies
at its end cannot be read from a pipe at all; it is put in a temporary file first.
"""

from __future__ import annotations

import os
import select
import tempfile
import threading
from typing import IO

from mirage_cli.errors import MediaError

HEAD_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
HEAD_PAUSE_S = 1.0


class StdinFeed:
    """Reads a descriptor once and gives what it carries to ffmpeg.

    Args:
        descriptor: a pipe or file open for reading.
        owned: close it at the end.

    Attributes:
        head: the first bytes, at most 1 MiB.
        spool_path: a temporary file with all of the input where ffmpeg must be able to seek in
            it, else None.

    Raises:
        MediaError: it is a terminal, it carries nothing, or the temporary file does not fit.
    """

    def __init__(self, descriptor: int, *, owned: bool = False) -> None:
        self._owned = owned
        if os.isatty(descriptor):
            raise MediaError(
                "input '-' reads a pipe, and standard input is a terminal",
                "pipe a video in, e.g. cat clip.mp4 | mirage transform - ...",
            )
        self._descriptor = descriptor
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self.head = self._read_head()
        if not self.head:
            raise MediaError("the input pipe carried no data", "pipe a video in")
        self.spool_path: str | None = self._spool() if _index_at_end(self.head) else None

    def start(self, pipe: IO[bytes]) -> None:
        """Sends everything to ``pipe`` from a thread of its own, and closes it at the end."""
        self._thread = threading.Thread(target=self._send, args=(pipe,), name="stdin-feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops sending and removes the temporary file. Idempotent."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(2.0)
        if self._owned:
            self._owned = False
            os.close(self._descriptor)
        if self.spool_path is not None:
            _remove(self.spool_path)
            self.spool_path = None

    def _read_head(self) -> bytes:
        head = b""
        while len(head) < HEAD_BYTES:
            if head and not self._readable(HEAD_PAUSE_S):
                break  # a slow sender: what has come must do for the probe
            chunk = os.read(self._descriptor, HEAD_BYTES - len(head))
            if not chunk:
                break
            head += chunk
        return head

    def _readable(self, timeout_s: float) -> bool:
        if os.name == "nt":
            return True  # select() there is for sockets only
        return bool(select.select([self._descriptor], [], [], timeout_s)[0])

    def _spool(self) -> str:
        handle, path = tempfile.mkstemp(prefix="mirage-stdin-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.head)
                while chunk := os.read(self._descriptor, CHUNK_BYTES):
                    file.write(chunk)
        except OSError as problem:
            _remove(path)
            raise MediaError(
                f"cannot keep the MP4 from standard input in {tempfile.gettempdir()}: {problem.strerror}",
                "set TMPDIR to a folder with room, or give the file by its name",
            ) from None
        except BaseException:
            _remove(path)
            raise
        return path

    def _send(self, pipe: IO[bytes]) -> None:
        try:
            with pipe:
                _write_all(pipe, self.head)
                while not self._stopped.is_set():
                    if not self._readable(0.2):
                        continue
                    chunk = os.read(self._descriptor, CHUNK_BYTES)
                    if not chunk:
                        return
                    _write_all(pipe, chunk)
        except (OSError, ValueError):
            return  # ffmpeg has ended; the reader of its pictures says why


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _index_at_end(head: bytes) -> bool:
    """True for an MP4 or MOV whose 'mdat' comes before its 'moov'."""
    position, first = 0, True
    while position + 8 <= len(head):
        size = int.from_bytes(head[position : position + 4], "big")
        kind = head[position + 4 : position + 8]
        if first and kind not in (b"ftyp", b"wide", b"mdat", b"skip", b"free"):
            return False
        first = False
        if kind in (b"moov", b"moof"):
            return False
        if kind == b"mdat":
            return True
        if size == 1 and position + 16 <= len(head):
            size = int.from_bytes(head[position + 8 : position + 16], "big")
        if size < 8:
            return False
        position += size
    return not first and position > len(head)
