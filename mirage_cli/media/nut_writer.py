"""Write pictures and sound with their times as NUT, into the pipe of an ffmpeg process.

Raw input of ffmpeg carries no times. NUT carries any time base and costs about 40 bytes a frame. Only what one RGB24
stream and one of 16-bit PCM need is here. Format: NUT, version 4 (https://ffmpeg.org/~michael/nut.txt).
"""

from __future__ import annotations

import os
from fractions import Fraction

import numpy as np

FILE_ID = b"nut/multimedia container\0"
MAIN = bytes.fromhex("4e4d7a561f5f04ad")
STREAM = bytes.fromhex("4e5311405bf2f9db")
SYNCPOINT = bytes.fromhex("4e4be4adeeca4569")
INFO = bytes.fromhex("4e49ab68b596ba78")

FLAG_KEY, FLAG_CODED_PTS, FLAG_SIZE_MSB, FLAG_CHECKSUM, FLAG_INVALID = 1, 8, 32, 64, 8192

# Version 4 knows streams that nobody seeks in: no sync points, of which ffmpeg would remember each one,
# 100 bytes a frame for as long as the stream lasts.
PIPE_VERSION = 4
FLAG_PIPE = 2
PTS_SHIFT = 7  # msb_pts_shift
RGB24_TAG = b"RGB\x18"
PCM_TAG = b"PSD\x10"  # 16 bits, little endian


class NutWriter:
    """Writes one RGB24 stream, and one of 16-bit sound if wanted, to a file descriptor; only its
    beginning is a sync point.

    Args:
        fd: a blocking descriptor, e.g. the writing end of a pipe.
        width, height: pixels.
        ticks_per_second: the time base is 1 / ticks_per_second.
        frame_rate: average frames a second, a hint to the encoder's rate control.
        sample_aspect: (num, den).
        sound: (samples a second, channels); None for pictures alone.

    Raises (all methods):
        OSError: the other end is gone (BrokenPipeError) or the device is full.
    """

    def __init__(
        self,
        fd: int,
        width: int,
        height: int,
        ticks_per_second: int,
        frame_rate: Fraction,
        sample_aspect: tuple[int, int] = (1, 1),
        sound: tuple[int, int] | None = None,
    ) -> None:
        self._fd = fd
        self._shape = (height, width, 3)
        invalid = put_v(FLAG_INVALID) + put_v(6) + put_s(0) + put_v(1) + put_v(0) + put_v(0) + put_v(0)
        used = FLAG_KEY | FLAG_CODED_PTS | FLAG_SIZE_MSB | FLAG_CHECKSUM
        rates = [ticks_per_second, *(sound[:1] if sound else ())]
        main = put_v(PIPE_VERSION) + put_v(0) + put_v(len(rates)) + put_v(65536)
        main += put_v(len(rates)) + b"".join(put_v(1) + put_v(rate) for rate in rates)
        main += invalid + put_v(1)  # code 0
        for number in range(len(rates)):  # code 1: a picture; code 2: sound
            main += put_v(used) + put_v(6) + put_s(0) + put_v(1) + put_v(number) + put_v(0) + put_v(0) + put_v(1)
        main += invalid + put_v(254 - len(rates))  # the rest; 'N' does not count
        main += put_v(0)  # no elision headers
        main += put_v(FLAG_PIPE)
        stream = put_v(0) + put_v(0) + put_vb(RGB24_TAG) + put_v(0) + put_v(PTS_SHIFT)
        stream += put_v(ticks_per_second) + put_v(0) + put_v(0) + put_vb(b"")
        stream += put_v(width) + put_v(height) + put_v(sample_aspect[0]) + put_v(sample_aspect[1]) + put_v(0)
        rate = f"{frame_rate.numerator}/{frame_rate.denominator}".encode()
        info = put_v(1) + put_s(0) + put_v(0) + put_v(0) + put_v(1) + put_vb(b"r_frame_rate") + put_s(-1) + put_vb(rate)
        self._head = (
            FILE_ID
            + self._packet(MAIN, main)
            + self._packet(STREAM, stream)
            + (self._packet(STREAM, self._sound_header(*sound)) if sound else b"")
            + self._packet(INFO, info)
            + self._packet(SYNCPOINT, put_v(0) + put_v(0))
        )

    def write(self, ticks: int, rgb: np.ndarray) -> None:
        """Writes one picture.

        Args:
            ticks: presentation time, not negative, in the stream's time base.
            rgb: uint8 [H, W, 3], C-contiguous.
        """
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"frame {rgb.dtype} {rgb.shape}, the stream has uint8 {self._shape}")
        self._packet_of(b"\x01", ticks, memoryview(np.ascontiguousarray(rgb)).cast("B"))

    def write_sound(self, ticks: int, samples: np.ndarray) -> None:
        """Writes sound, whose time is never before that of sound already written.

        Args:
            ticks: time of the first sample, not negative, in samples.
            samples: int16 [samples, channels], at least one.
        """
        self._packet_of(b"\x02", ticks, memoryview(np.ascontiguousarray(samples, "<i2")).cast("B"))

    def _packet_of(self, code: bytes, ticks: int, data: memoryview) -> None:
        header = code + put_v(ticks + (1 << PTS_SHIFT)) + put_v(len(data))
        head, self._head = self._head + header, b""
        self._send(head + crc32_nut(header).to_bytes(4, "big"))
        self._send(data)

    @staticmethod
    def _sound_header(rate: int, channels: int) -> bytes:
        head = put_v(1) + put_v(1) + put_vb(PCM_TAG) + put_v(1) + put_v(PTS_SHIFT)
        head += put_v(rate) + put_v(0) + put_v(0) + put_vb(b"")
        return head + put_v(rate) + put_v(1) + put_v(channels)

    @staticmethod
    def _packet(startcode: bytes, body: bytes) -> bytes:
        return startcode + put_v(len(body) + 4) + body + crc32_nut(body).to_bytes(4, "big")

    def _send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def put_v(value: int) -> bytes:
    """Unsigned variable-length integer: 7 bits a byte, most significant first."""
    out = [value & 0x7F]
    value >>= 7
    while value:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    return bytes(reversed(out))


def put_s(value: int) -> bytes:
    return put_v(2 * value - 1 if value > 0 else -2 * value)


def put_vb(data: bytes) -> bytes:
    return put_v(len(data)) + data


def _make_crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1
        table.append(crc & 0xFFFFFFFF)
    return table


_CRC_TABLE = _make_crc_table()


def crc32_nut(data: bytes) -> int:
    """CRC-32 with polynomial 0x04C11DB7, most significant bit first, start value 0."""
    crc = 0
    for byte in data:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _CRC_TABLE[(crc >> 24) ^ byte]
    return crc
