"""The words of the NUT container: packet codes, flags, variable-length numbers, the checksum.

Format: the NUT specification, versions 3 and 4 (https://ffmpeg.org/~michael/nut.txt).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FILE_ID = b"nut/multimedia container\0"
MAIN = bytes.fromhex("4e4d7a561f5f04ad")
STREAM = bytes.fromhex("4e5311405bf2f9db")
SYNCPOINT = bytes.fromhex("4e4be4adeeca4569")
INDEX = bytes.fromhex("4e58dd672f23e64e")
INFO = bytes.fromhex("4e49ab68b596ba78")

FLAG_KEY, FLAG_CODED_PTS, FLAG_STREAM_ID, FLAG_SIZE_MSB = 1, 8, 16, 32
FLAG_CHECKSUM, FLAG_RESERVED, FLAG_SIDE_DATA = 64, 128, 256
FLAG_HEADER_IDX, FLAG_MATCH_TIME, FLAG_CODED, FLAG_INVALID = 1024, 2048, 4096, 8192

# Version 4 knows streams that nobody seeks in: no sync points, of which ffmpeg would remember each one,
# 100 bytes a frame for as long as the stream lasts.
PIPE_VERSION = 4
FLAG_PIPE = 2
PTS_SHIFT = 7  # msb_pts_shift of the streams written here
MAX_HEADER_BYTES = 1 << 20
MAX_SIDE = 65535
RGB24_TAG = b"RGB\x18"
PCM_TAG = b"PSD\x10"  # 16 bits, little endian
MAX_SOUND_BYTES = 1 << 22


class NutError(Exception):
    """The bytes are not NUT, or NUT of a kind that this module does not read."""


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


class Cursor:
    """Reads NUT's number formats from a buffered file or from bytes already read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def take(self, count: int) -> bytes:
        data = self._read(count)
        if len(data) != count:
            raise EOFError
        return data

    def byte(self) -> int:
        return self.take(1)[0]

    def v(self) -> int:
        value = 0
        for _ in range(10):
            byte = self.byte()
            value = (value << 7) | (byte & 0x7F)
            if not byte & 0x80:
                return value
        raise NutError("number longer than 64 bits")

    def s(self) -> int:
        value = self.v() + 1
        return -(value >> 1) if value & 1 else value >> 1

    def vb(self) -> bytes:
        count = self.v()
        if count > MAX_HEADER_BYTES:
            raise NutError("string longer than 1 MiB")
        return self.take(count)


def cursor_over(data: bytes) -> Cursor:
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        chunk = data[position : position + count]
        position += count
        return chunk

    return Cursor(read)


@dataclass(frozen=True, slots=True)
class FrameCode:
    flags: int
    size_mul: int
    size_lsb: int
    pts_delta: int
    reserved: int
    header_idx: int
    stream: int = 0
