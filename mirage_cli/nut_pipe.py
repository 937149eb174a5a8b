"""Raw pictures with exact timestamps through a pipe, in the NUT container.

ffmpeg's bare ``rawvideo`` pipe loses the time of each picture, and Matroska rounds it to 1 ms.
NUT carries any time base and costs about 40 bytes a frame, so it is used in both directions:
ffmpeg writes it and ``NutReader`` reads it, ``NutWriter`` writes it and ffmpeg reads it.
Only what a single RGB24 stream needs is here.

Format: the NUT specification, versions 3 and 4 (https://ffmpeg.org/~michael/nut.txt).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np

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


def _v(value: int) -> bytes:
    """Unsigned variable-length integer: 7 bits a byte, most significant first."""
    out = [value & 0x7F]
    value >>= 7
    while value:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    return bytes(reversed(out))


def _s(value: int) -> bytes:
    return _v(2 * value - 1 if value > 0 else -2 * value)


def _vb(data: bytes) -> bytes:
    return _v(len(data)) + data


class _Cursor:
    """Reads NUT's number formats from a buffered file or from bytes already read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def bytes(self, count: int) -> bytes:
        data = self._read(count)
        if len(data) != count:
            raise EOFError
        return data

    def byte(self) -> int:
        return self.bytes(1)[0]

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
        return self.bytes(count)


def _cursor_over(data: bytes) -> _Cursor:
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        chunk = data[position : position + count]
        position += count
        return chunk

    return _Cursor(read)


@dataclass(frozen=True, slots=True)
class _FrameCode:
    flags: int
    size_mul: int
    size_lsb: int
    pts_delta: int
    reserved: int
    header_idx: int


class NutReader:
    """Reads one RGB24 stream.

    Args:
        file: binary, blocking, buffered (its ``readinto`` must fill the whole buffer or meet
            the end of file).

    Attributes, known once the constructor returns:
        width, height: pixels.
        sample_aspect: (num, den); (1, 1) where the stream does not say.
        frame_rate: average frames a second as written by ffmpeg, None where unknown.

    Raises:
        EOFError: the stream ended before its headers did (no picture was decoded).
        NutError: not NUT, or not RGB24.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._cursor = _Cursor(file.read)
        self._codes: list[_FrameCode] = []
        self._elided: list[bytes] = [b""]
        self._time_bases: list[Fraction] = []
        self._time_base = Fraction(1)
        self._pts_shift = PTS_SHIFT
        self._last_pts = 0
        self._pending_code: int | None = None
        self.width = self.height = 0
        self.sample_aspect = (1, 1)
        self.frame_rate: Fraction | None = None
        self.frames_read = 0
        self._read_headers()

    def read_frame(self) -> tuple[Fraction, np.ndarray] | None:
        """Gives (time in seconds, uint8 [H, W, 3]), or None at the end of the stream.

        A frame cut off by the end of the stream counts as the end.
        """
        try:
            code = self._pending_code
            self._pending_code = None
            while code is None:
                code = self._next_code()
            return self._read_picture(code)
        except EOFError:
            return None

    # Headers

    def _read_headers(self) -> None:
        file_id = self._file.read(len(FILE_ID))
        if not file_id:
            raise EOFError
        if file_id != FILE_ID:
            raise NutError("no NUT signature")
        while self._pending_code is None:
            self._pending_code = self._next_code()
        if not self.width or not self._codes:
            raise NutError("a frame came before the stream header")

    def _next_code(self) -> int | None:
        """Reads one byte; a packet that starts there is taken in and gives None."""
        code = self._cursor.byte()
        if code != 0x4E:
            return code
        startcode = b"N" + self._cursor.bytes(7)
        size = self._cursor.v()
        if size > MAX_HEADER_BYTES and startcode != INDEX:
            raise NutError("header larger than 1 MiB")
        if size > 4096:
            self._cursor.bytes(4)  # checksum of the packet header
        body = _cursor_over(self._cursor.bytes(size)[:-4])
        take = {
            MAIN: self._take_main, STREAM: self._take_stream, SYNCPOINT: self._take_syncpoint,
            INFO: self._take_info,
        }.get(startcode)
        try:
            if take is not None:
                take(body)
        except (ZeroDivisionError, IndexError) as error:
            raise NutError(f"a header makes no sense ({error})") from error
        return None

    def _take_main(self, body: _Cursor) -> None:
        version = body.v()
        if version not in (3, PIPE_VERSION):
            raise NutError(f"version {version}, wanted 3 or {PIPE_VERSION}")
        if version == PIPE_VERSION:
            body.v()  # minor version
        body.v()  # stream count
        body.v()  # max distance
        count = body.v()
        self._time_bases = [Fraction(body.v(), body.v()) for _ in range(count)]
        codes: list[_FrameCode] = []
        invalid = _FrameCode(FLAG_INVALID, 0, 0, 0, 0, 0)
        pts_delta, size_mul, header_idx = 0, 1, 0
        while len(codes) < 256:
            flags, fields = body.v(), body.v()
            if fields > 0:
                pts_delta = body.s()
            if fields > 1:
                size_mul = body.v()
            if fields > 2:
                body.v()  # stream id: there is one stream
            size = body.v() if fields > 3 else 0
            reserved = body.v() if fields > 4 else 0
            run = body.v() if fields > 5 else size_mul - size
            if fields > 6:
                body.s()  # match time delta
            if fields > 7:
                header_idx = body.v()
            for _ in range(8, fields):
                body.v()
            step = 0
            while step < run and len(codes) < 256:
                if len(codes) == 0x4E:  # 'N' starts a packet and is never a frame code
                    codes.append(invalid)
                    continue
                codes.append(
                    _FrameCode(flags, size_mul, size + step, pts_delta, reserved, header_idx)
                )
                step += 1
        self._codes = codes
        self._elided = [b""] + [body.vb() for _ in range(body.v())]

    def _take_stream(self, body: _Cursor) -> None:
        body.v()  # stream id
        stream_class, tag = body.v(), body.vb()
        if stream_class != 0 or tag != RGB24_TAG:
            raise NutError(f"stream of kind {tag!r}, wanted RGB24")
        self._time_base = self._time_bases[body.v()]
        self._pts_shift = body.v()
        body.v()  # max pts distance
        body.v()  # decode delay
        body.v()  # stream flags
        body.vb()  # codec specific data
        self.width, self.height = body.v(), body.v()
        if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
            raise NutError(f"pictures of {self.width}x{self.height}")
        aspect = (body.v(), body.v())
        if all(aspect):
            self.sample_aspect = aspect

    def _take_syncpoint(self, body: _Cursor) -> None:
        coded = body.v()
        base = self._time_bases[coded % len(self._time_bases)]
        ticks = (coded // len(self._time_bases)) * base / self._time_base
        self._last_pts = ticks.numerator // ticks.denominator

    def _take_info(self, body: _Cursor) -> None:
        body.v(), body.s(), body.v(), body.v()  # stream, chapter, its start and length
        for _ in range(body.v()):
            name, kind = body.vb(), body.s()
            if kind == -1:
                value = body.vb()
                if name == b"r_frame_rate":
                    self._take_rate(value)
            elif kind == -2:
                body.vb(), body.vb()
            elif kind == -3:
                body.s()
            elif kind == -4:
                body.v()
            elif kind < -4:
                body.s()

    def _take_rate(self, value: bytes) -> None:
        try:
            num, _, den = value.decode("ascii").partition("/")
            rate = Fraction(int(num), int(den or "1"))
        except (ValueError, ZeroDivisionError):
            return
        if rate > 0:
            self.frame_rate = rate

    # Frames

    def _read_picture(self, code_byte: int) -> tuple[Fraction, np.ndarray]:
        cursor = self._cursor
        code = self._codes[code_byte]
        flags, size, header_idx, reserved = code.flags, code.size_lsb, code.header_idx, code.reserved
        if flags & FLAG_INVALID:
            raise NutError(f"frame code {code_byte} is not in use")
        if flags & FLAG_CODED:
            flags ^= cursor.v()
        if flags & FLAG_STREAM_ID:
            cursor.v()
        if flags & FLAG_CODED_PTS:
            pts = self._full_pts(cursor.v())
        else:
            pts = self._last_pts + code.pts_delta
        if flags & FLAG_SIZE_MSB:
            size += code.size_mul * cursor.v()
        if flags & FLAG_MATCH_TIME:
            cursor.s()
        if flags & FLAG_HEADER_IDX:
            header_idx = cursor.v()
        if flags & FLAG_RESERVED:
            reserved = cursor.v()
        for _ in range(reserved):
            cursor.v()
        if flags & FLAG_CHECKSUM:
            cursor.bytes(4)
        if flags & FLAG_SIDE_DATA:
            raise NutError("frames with side data are not read")
        if header_idx >= len(self._elided):
            raise NutError(f"elision header {header_idx} of {len(self._elided)}")
        self._last_pts = pts
        prefix = self._elided[header_idx] if size <= 4096 else b""
        if size != self.width * self.height * 3:
            raise NutError(
                f"a picture of {size} bytes in a {self.width}x{self.height} RGB24 stream"
            )
        rgb = np.empty((self.height, self.width, 3), np.uint8)
        flat = memoryview(rgb).cast("B")
        flat[: len(prefix)] = prefix
        rest = flat[len(prefix) :]
        if self._file.readinto(rest) != len(rest):  # type: ignore[attr-defined]
            raise EOFError
        self.frames_read += 1
        return pts * self._time_base, rgb

    def _full_pts(self, coded: int) -> int:
        """Restores a timestamp of which only the low bits were written."""
        if coded >= 1 << self._pts_shift:
            return coded - (1 << self._pts_shift)
        mask = (1 << self._pts_shift) - 1
        delta = self._last_pts - mask // 2
        return ((coded - delta) & mask) + delta


class NutWriter:
    """Writes one RGB24 stream to a file descriptor; only its beginning is a sync point.

    Args:
        fd: a blocking descriptor, e.g. the writing end of a pipe.
        width, height: pixels.
        ticks_per_second: the time base is 1 / ticks_per_second.
        frame_rate: average frames a second, a hint to the encoder's rate control.
        sample_aspect: (num, den).

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
    ) -> None:
        self._fd = fd
        self._shape = (height, width, 3)
        self._size = width * height * 3
        invalid = _v(FLAG_INVALID) + _v(6) + _s(0) + _v(1) + _v(0) + _v(0) + _v(0)
        used = FLAG_KEY | FLAG_CODED_PTS | FLAG_SIZE_MSB | FLAG_CHECKSUM
        main = _v(PIPE_VERSION) + _v(0) + _v(1) + _v(65536) + _v(1) + _v(1) + _v(ticks_per_second)
        main += invalid + _v(1)  # code 0
        main += _v(used) + _v(6) + _s(0) + _v(1) + _v(0) + _v(0) + _v(0) + _v(1)  # code 1
        main += invalid + _v(253)  # the rest; 'N' does not count
        main += _v(0)  # no elision headers
        main += _v(FLAG_PIPE)
        stream = _v(0) + _v(0) + _vb(RGB24_TAG) + _v(0) + _v(PTS_SHIFT)
        stream += _v(ticks_per_second) + _v(0) + _v(0) + _vb(b"")
        stream += _v(width) + _v(height) + _v(sample_aspect[0]) + _v(sample_aspect[1]) + _v(0)
        rate = f"{frame_rate.numerator}/{frame_rate.denominator}".encode()
        info = _v(1) + _s(0) + _v(0) + _v(0) + _v(1) + _vb(b"r_frame_rate") + _s(-1) + _vb(rate)
        self._head = (
            FILE_ID + self._packet(MAIN, main) + self._packet(STREAM, stream)
            + self._packet(INFO, info) + self._packet(SYNCPOINT, _v(0) + _v(0))
        )

    def write(self, ticks: int, rgb: np.ndarray) -> None:
        """Writes one picture.

        Args:
            ticks: presentation time, not negative, in the stream's time base.
            rgb: uint8 [H, W, 3], C-contiguous.
        """
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"frame {rgb.dtype} {rgb.shape}, the stream has uint8 {self._shape}")
        header = b"\x01" + _v(ticks + (1 << PTS_SHIFT)) + _v(self._size)
        head, self._head = self._head + header, b""
        self._send(head + crc32_nut(header).to_bytes(4, "big"))
        self._send(memoryview(np.ascontiguousarray(rgb)).cast("B"))

    @staticmethod
    def _packet(startcode: bytes, body: bytes) -> bytes:
        return startcode + _v(len(body) + 4) + body + crc32_nut(body).to_bytes(4, "big")

    def _send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
