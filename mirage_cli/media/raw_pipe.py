"""Raw pictures, and sound, with exact timestamps from ffmpeg through one pipe.

ffmpeg's bare ``rawvideo`` pipe loses the time of each picture, and Matroska rounds it to 1 ms. So ffmpeg's ``tee``
muxer writes each packet twice into the same pipe, first a line of text with its time and size, then its bytes:

    0,      41667,      41667,    41667,   995328, 0xbba0168f      a picture (muxer framecrc)
    <995328 bytes>                                                 (muxer rawvideo)
    0,       1024,       1024,     1024,     4096, ea890338        sound (muxer framehash)
    <4096 bytes>                                                   (muxer s16le)

The fields are stream, DTS, PTS, duration (in the time base), bytes and Adler-32. Lines in front that begin with "#"
hold time base, size and shape of pixels. Muxers: https://ffmpeg.org/ffmpeg-formats.html (tee, framecrc, framehash).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from io import BufferedReader

import numpy as np

from mirage_cli.media.sound_line import CHANNELS

MAX_SIDE = 65535
MAX_LINE_BYTES = 1000
MAX_SOUND_BYTES = 1 << 22
_PICTURES = ("f=framecrc:select=v", "f=rawvideo:select=v")
# A live stream may turn out to have no sound; its pictures must go on.
_SOUND = ("f=framehash:hash=adler32:select=a:onfail=ignore", "f=s16le:select=a:onfail=ignore")

TakeSound = Callable[[Fraction, np.ndarray], None]
"""(time of the first sample in seconds, int16 [samples, channels])"""


class RawPipeError(Exception):
    """The bytes are not what ``raw_pipe_url`` asks for."""


def raw_pipe_url(with_sound: bool) -> str:
    """The output of format "tee" with which ffmpeg writes what ``RawPipeReader`` reads, each packet at once."""
    shared = "flush_packets=1:avoid_negative_ts=disabled"
    return "|".join(f"[{muxer}:{shared}]pipe:1" for muxer in _PICTURES + (_SOUND if with_sound else ()))


class RawPipeReader:
    """Reads RGB24 pictures, and 16-bit sound where there is some.

    Args:
        file: blocking.
        on_sound: gets the sound, in the thread that reads, before the picture that follows it.

    Attributes, known once ``read_frame`` has given a picture:
        width, height: pixels.
        sample_aspect: (num, den); (1, 1) where ffmpeg does not say.
        sound_rate: samples a second; 0 where there is no sound.
    """

    def __init__(self, file: BufferedReader, on_sound: TakeSound) -> None:
        self._file, self._on_sound = file, on_sound
        self.width = self.height = self.sound_rate = 0
        self.sample_aspect = (1, 1)
        # Seconds; of the header that is being read, of pictures and of sound.
        self._header_base = self._picture_base = self._sound_base = Fraction(0)

    def read_frame(self) -> tuple[Fraction, np.ndarray] | None:
        """Gives (time in seconds, uint8 [H, W, 3]), or None at the end of the stream.

        A frame cut off by the end of the stream counts as the end.

        Raises:
            RawPipeError: the bytes are not what was asked for.
        """
        while (line := self._file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            try:
                if line.startswith(b"#"):
                    self._take_header(*line.decode().split(maxsplit=2))
                    continue
                _, _, pts, _, size, checksum = line.split(b",")
                is_picture = checksum.strip().startswith(b"0x")
                seconds = int(pts) * (self._picture_base if is_picture else self._sound_base)
                count = self._checked_size(int(size), is_picture)
            except (ValueError, ZeroDivisionError) as problem:
                raise RawPipeError(f"{line[:60]!r}: {problem}") from problem
            data = np.empty(count, np.uint8)
            if self._file.readinto(data.data) != count:
                return None
            if is_picture:
                return seconds, data.reshape(self.height, self.width, 3)
            self._on_sound(seconds, data.view("<i2").reshape(-1, CHANNELS))
        if len(line) == MAX_LINE_BYTES:
            raise RawPipeError(f"{line[:60]!r} and more without an end of line")
        return None

    def _take_header(self, name: str, *rest: str) -> None:
        """Takes "#name stream: value"; the time base comes first."""
        value = rest[-1].strip() if rest else ""
        if name == "#tb":
            self._header_base = Fraction(value)
        elif name == "#dimensions":
            self._picture_base = self._header_base
            self.width, self.height = (int(side) for side in value.split("x"))
            if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
                raise ValueError("size out of range")
        elif name == "#sar":
            num, den = (int(part) for part in value.split("/"))
            self.sample_aspect = (num, den) if num > 0 and den > 0 else (1, 1)
        elif name == "#sample_rate":
            self._sound_base = self._header_base
            self.sound_rate = int(value)

    def _checked_size(self, size: int, is_picture: bool) -> int:
        if is_picture and not size == self.width * self.height * 3 > 0:
            raise ValueError(f"not a picture of {self.width}x{self.height}")
        if not is_picture and not (self.sound_rate and 0 < size <= MAX_SOUND_BYTES and size % (2 * CHANNELS) == 0):
            raise ValueError("not sound")
        return size
