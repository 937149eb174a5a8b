"""Raw pictures, and sound, with exact timestamps through a pipe, in the NUT container.

ffmpeg's bare ``rawvideo`` pipe loses the time of each picture, and Matroska rounds it to 1 ms.
NUT carries any time base and costs about 40 bytes a frame, so it is used in both directions:
ffmpeg writes it and ``NutReader`` reads it, ``NutWriter`` writes it and ffmpeg reads it.
Only what one RGB24 stream and one of 16-bit PCM beside it need is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from mirage_cli.media.nut_format import (
    FILE_ID,
    FLAG_CHECKSUM,
    FLAG_CODED,
    FLAG_CODED_PTS,
    FLAG_HEADER_IDX,
    FLAG_INVALID,
    FLAG_MATCH_TIME,
    FLAG_RESERVED,
    FLAG_SIDE_DATA,
    FLAG_SIZE_MSB,
    FLAG_STREAM_ID,
    INDEX,
    INFO,
    MAIN,
    MAX_HEADER_BYTES,
    MAX_SIDE,
    MAX_SOUND_BYTES,
    PCM_TAG,
    PIPE_VERSION,
    PTS_SHIFT,
    RGB24_TAG,
    STREAM,
    SYNCPOINT,
    Cursor,
    FrameCode,
    NutError,
    cursor_over,
)


@dataclass
class _Track:
    """One stream: of pictures, or of sound."""

    time_base: Fraction = Fraction(1)
    pts_shift: int = PTS_SHIFT
    last_pts: int = 0
    channels: int = 0  # 0 is a track of pictures
    rate: int = 0

    def full_pts(self, coded: int) -> int:
        """Restores a timestamp of which only the low bits were written."""
        if coded >= 1 << self.pts_shift:
            return coded - (1 << self.pts_shift)
        mask = (1 << self.pts_shift) - 1
        delta = self.last_pts - mask // 2
        return ((coded - delta) & mask) + delta


TakeSound = Callable[[Fraction, np.ndarray], None]
"""(time of the first sample in seconds, int16 [samples, channels])"""


class NutReader:
    """Reads one RGB24 stream, and one of sound where there is one.

    Args:
        file: binary, blocking, buffered (its ``readinto`` must fill the whole buffer or meet
            the end of file).
        on_sound: gets the sound, in the thread that reads, before the picture that follows it.

    Attributes, known once the constructor returns:
        width, height: pixels.
        sound_rate: samples a second; 0 where there is no sound.
        sample_aspect: (num, den); (1, 1) where the stream does not say.
        frame_rate: average frames a second as written by ffmpeg, None where unknown.

    Raises:
        EOFError: the stream ended before its headers did (no picture was decoded).
        NutError: not NUT, or not RGB24.
    """

    def __init__(self, file: BinaryIO, on_sound: TakeSound | None = None) -> None:
        self._file = file
        self.on_sound = on_sound
        self._cursor = Cursor(file.read)
        self._codes: list[FrameCode] = []
        self._elided: list[bytes] = [b""]
        self._time_bases: list[Fraction] = []
        self._tracks: dict[int, _Track] = {}
        self._pending_code: int | None = None
        self.width = self.height = self.sound_rate = 0
        self.sample_aspect = (1, 1)
        self.frame_rate: Fraction | None = None
        self.frames_read = 0
        self._read_headers()

    def read_frame(self) -> tuple[Fraction, np.ndarray] | None:
        """Gives (time in seconds, uint8 [H, W, 3]), or None at the end of the stream.

        A frame cut off by the end of the stream counts as the end.
        """
        try:
            while True:
                code = self._pending_code
                self._pending_code = None
                while code is None:
                    code = self._next_code()
                picture = self._read_packet(code)
                if picture is not None:
                    return picture
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
        startcode = b"N" + self._cursor.take(7)
        size = self._cursor.v()
        if size > MAX_HEADER_BYTES and startcode != INDEX:
            raise NutError("header larger than 1 MiB")
        if size > 4096:
            self._cursor.take(4)  # checksum of the packet header
        body = cursor_over(self._cursor.take(size)[:-4])
        take = {
            MAIN: self._take_main,
            STREAM: self._take_stream,
            SYNCPOINT: self._take_syncpoint,
            INFO: self._take_info,
        }.get(startcode)
        try:
            if take is not None:
                take(body)
        except (ZeroDivisionError, IndexError) as error:
            raise NutError(f"a header makes no sense ({error})") from error
        return None

    def _take_main(self, body: Cursor) -> None:
        version = body.v()
        if version not in (3, PIPE_VERSION):
            raise NutError(f"version {version}, wanted 3 or {PIPE_VERSION}")
        if version == PIPE_VERSION:
            body.v()  # minor version
        body.v()  # stream count
        body.v()  # max distance
        count = body.v()
        self._time_bases = [Fraction(body.v(), body.v()) for _ in range(count)]
        codes: list[FrameCode] = []
        invalid = FrameCode(FLAG_INVALID, 0, 0, 0, 0, 0)
        pts_delta, size_mul, header_idx, stream = 0, 1, 0, 0
        while len(codes) < 256:
            flags, fields = body.v(), body.v()
            if fields > 0:
                pts_delta = body.s()
            if fields > 1:
                size_mul = body.v()
            if fields > 2:
                stream = body.v()
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
                codes.append(FrameCode(flags, size_mul, size + step, pts_delta, reserved, header_idx, stream))
                step += 1
        self._codes = codes
        self._elided = [b""] + [body.vb() for _ in range(body.v())]

    def _take_stream(self, body: Cursor) -> None:
        number, stream_class, tag = body.v(), body.v(), body.vb()
        if (stream_class, tag) not in ((0, RGB24_TAG), (1, PCM_TAG)):
            raise NutError(f"stream of kind {tag!r}, wanted RGB24")
        track = _Track(self._time_bases[body.v()], body.v())
        body.v()  # max pts distance
        body.v()  # decode delay
        body.v()  # stream flags
        body.vb()  # codec specific data
        self._tracks[number] = track
        if stream_class == 1:
            track.rate = body.v() // max(1, body.v())
            track.channels = body.v()
            if not (1 <= track.channels <= 64 and track.rate):
                raise NutError(f"sound of {track.channels} channels")
            self.sound_rate = track.rate
            return
        self.width, self.height = body.v(), body.v()
        if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
            raise NutError(f"pictures of {self.width}x{self.height}")
        aspect = (body.v(), body.v())
        if all(aspect):
            self.sample_aspect = aspect

    def _take_syncpoint(self, body: Cursor) -> None:
        coded = body.v()
        base = self._time_bases[coded % len(self._time_bases)]
        for track in self._tracks.values():
            ticks = (coded // len(self._time_bases)) * base / track.time_base
            track.last_pts = ticks.numerator // ticks.denominator

    def _take_info(self, body: Cursor) -> None:
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

    def _read_packet(self, code_byte: int) -> tuple[Fraction, np.ndarray] | None:
        """A picture; None where it was sound."""
        cursor = self._cursor
        code = self._codes[code_byte]
        flags, size, header_idx, reserved = code.flags, code.size_lsb, code.header_idx, code.reserved
        if flags & FLAG_INVALID:
            raise NutError(f"frame code {code_byte} is not in use")
        if flags & FLAG_CODED:
            flags ^= cursor.v()
        number = cursor.v() if flags & FLAG_STREAM_ID else code.stream
        track = self._tracks.get(number)
        if track is None:
            raise NutError(f"a packet of stream {number}, which has no header")
        if flags & FLAG_CODED_PTS:
            pts = track.full_pts(cursor.v())
        else:
            pts = track.last_pts + code.pts_delta
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
            cursor.take(4)
        if flags & FLAG_SIDE_DATA:
            raise NutError("packets with side data are not read")
        if header_idx >= len(self._elided):
            raise NutError(f"elision header {header_idx} of {len(self._elided)}")
        track.last_pts = pts
        prefix = self._elided[header_idx] if size <= 4096 else b""
        if track.channels:
            self._give_sound(track, pts, prefix, size)
            return None
        if size != self.width * self.height * 3:
            raise NutError(f"a picture of {size} bytes in a {self.width}x{self.height} RGB24 stream")
        rgb = np.empty((self.height, self.width, 3), np.uint8)
        flat = memoryview(rgb).cast("B")
        flat[: len(prefix)] = prefix
        rest = flat[len(prefix) :]
        if self._file.readinto(rest) != len(rest):  # type: ignore[attr-defined]
            raise EOFError
        self.frames_read += 1
        return pts * track.time_base, rgb

    def _give_sound(self, track: _Track, pts: int, prefix: bytes, size: int) -> None:
        if not len(prefix) <= size <= MAX_SOUND_BYTES or size % (2 * track.channels):
            raise NutError(f"sound of {size} bytes in {track.channels} channels")
        data = prefix + self._cursor.take(size - len(prefix))
        if self.on_sound is not None:
            samples = np.frombuffer(data, "<i2").reshape(-1, track.channels)
            self.on_sound(pts * track.time_base, samples)
