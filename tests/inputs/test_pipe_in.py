"""Video that comes through standard input or a named pipe."""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import pytest
from helpers import media

from mirage_cli.errors import MediaError
from mirage_cli.inputs.file import open_file
from mirage_cli.inputs.pipe import _index_at_end


def take(path, **options):
    with open_file(path, **options) as source:
        return list(source), source


def send_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def test_closing_from_another_thread_ends_a_blocked_reader(tmp_path):
    """The sender falls silent without closing its end."""
    path = media.clip(tmp_path / "clip.ts", seconds=6.0, size=(640, 480))
    clip = path.read_bytes()
    assert len(clip) > 1_500_000
    read, write = os.pipe()
    sender = threading.Thread(target=send_all, args=(write, clip), daemon=True)
    sender.start()
    source = open_file_from(read)
    taken: list[object] = []
    reader = threading.Thread(target=lambda: taken.extend(source), daemon=True)
    reader.start()
    time.sleep(0.5)
    assert reader.is_alive() and taken
    source.close()
    reader.join(5)
    assert not reader.is_alive() and not source.finished
    source.release()
    os.close(write)
    os.close(read)


def open_file_from(descriptor: int):
    class Stdin:
        def fileno(self) -> int:
            return descriptor

    real, sys.stdin = sys.stdin, Stdin()
    try:
        return open_file("-")
    finally:
        sys.stdin = real


@pytest.mark.parametrize("suffix, front", [(".mkv", False), (".mp4", True), (".mp4", False)])
def test_standard_input(tmp_path, suffix, front, monkeypatch):
    """Also an MP4 with its index at the end, which no pipe can carry to ffmpeg."""
    path = media.clip(tmp_path / f"piped{suffix}", seconds=2.0, output=("-movflags", "+faststart") if front else ())
    with open(path, "rb") as file:
        read, write = os.pipe()

        def pump():
            with os.fdopen(write, "wb") as pipe:
                pipe.write(file.read())

        thread = threading.Thread(target=pump, daemon=True)
        thread.start()
        source = open_file_from(read)
        frames = list(source)
        thread.join(5)
        os.close(read)
    assert len(frames) == 60 and source.info.has_audio
    np.testing.assert_allclose([f.pts_seconds for f in frames], np.arange(60) / 30, atol=1e-3)
    spool = source._feed.spool_path
    assert (spool is not None) == (suffix == ".mp4" and not front)
    source.release()
    assert spool is None or not os.path.exists(spool)


def test_standard_input_without_data():
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(MediaError, match="no data"):
        open_file_from(read)
    os.close(read)


def test_named_pipe(tmp_path):
    data = media.clip(tmp_path / "clip.mkv").read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=fifo.write_bytes, args=(data,), daemon=True).start()
    frames, source = take(fifo)
    assert len(frames) == 30 and source.info.name == "fifo"
    source.release()


def test_index_order_is_seen():
    def box(kind: bytes, size: int) -> bytes:
        return size.to_bytes(4, "big") + kind + bytes(size - 8)

    assert _index_at_end(box(b"ftyp", 24) + box(b"free", 8) + box(b"mdat", 999))
    assert not _index_at_end(box(b"ftyp", 24) + box(b"moov", 500) + box(b"mdat", 999))
    assert not _index_at_end(b"\x1aE\xdf\xa3" + bytes(100))
