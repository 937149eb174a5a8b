"""Pictures through an H.264 encoder and decoder, for measuring the latency that a viewer would see."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

import numpy as np

from mirage_cli.errors import MediaError
from mirage_cli.media.ffmpeg import find_ffmpeg

END_SECONDS = 10.0


class H264Loop:
    """Encodes each picture and decodes it in another process.

    ffmpeg holds frames back to probe, to keep a rate and to encode rawvideo in threads: all of that is switched off.

    Args:
        size: width and height in pixels; fps: the nominal rate.
        take: called with each decoded picture, uint8 [H, W, 3], in a separate thread.

    Raises:
        MediaError: there is no ffmpeg.
    """

    def __init__(self, size: tuple[int, int], fps: float, take: Callable[[np.ndarray], None]) -> None:
        self._size, self._take = size, take
        quiet = f"{find_ffmpeg().path} -hide_banner -loglevel error -nostdin".split(" ")
        raw = "-f rawvideo -pix_fmt rgb24".split()
        shape = f"-video_size {size[0]}x{size[1]} -framerate {fps:g} -probesize 32".split()
        encode = "-c:v libx264 -preset ultrafast -tune zerolatency -pix_fmt yuv420p".split()
        at_once = "-fps_mode passthrough -flush_packets 1".split()
        read = "-threads 1 -flags low_delay -probesize 4096 -analyzeduration 0 -f nut".split()
        self._encoder = subprocess.Popen(
            [*quiet, *raw, *shape, "-i", "-", *encode, *at_once, "-f", "nut", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._decoder = subprocess.Popen(
            [*quiet, *read, "-i", "-", *raw, "-threads", "1", *at_once, "-"],
            stdin=self._encoder.stdout,
            stdout=subprocess.PIPE,
        )
        assert self._encoder.stdout is not None
        self._encoder.stdout.close()
        self._thread = threading.Thread(target=self._read, name="h264-loop", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._decoder.stdout is not None
        width, height = self._size
        while len(data := self._decoder.stdout.read(width * height * 3)) == width * height * 3:
            self._take(np.frombuffer(data, np.uint8).reshape(height, width, 3))

    def write(self, rgb: np.ndarray) -> None:
        """Raises:
        MediaError: the encoder has ended.
        """
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.write(rgb.data)
            self._encoder.stdin.flush()
        except BrokenPipeError as error:
            raise MediaError("ffmpeg's H.264 encoder ended", "mirage doctor checks ffmpeg.") from error

    def close(self) -> None:
        """Waits until the last picture is out."""
        assert self._encoder.stdin is not None and self._decoder.stdout is not None
        try:
            self._encoder.stdin.close()
        except BrokenPipeError:
            pass
        for process in (self._encoder, self._decoder):
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._thread.join(END_SECONDS)
        self._decoder.stdout.close()
