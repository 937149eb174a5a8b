"""Frames out of a network stream or the screen: one connection, watched, and made again.

A file is asked what it holds before it is decoded; a stream is opened once, since a sender may
take one reader only, and says what it holds while its first picture is decoded. When pictures stop
coming, or the connection breaks, it is closed and opened again after 0.5, 1, 2, 4, 8, 8 ... seconds.
"""

from __future__ import annotations

import io
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import ffmpeg
import numpy as np

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, Sound, StreamInfo
from mirage_cli.media.addresses import Address, is_playlist, pause_seconds
from mirage_cli.media.decode import SCALER, TICKS_PER_SECOND, line_options
from mirage_cli.media.ffmpeg import FfmpegProcess, FfmpegTool, find_ffmpeg, pick_message
from mirage_cli.media.probe import MediaProbe, parse_probe
from mirage_cli.media.raw_pipe import RawPipeError, RawPipeReader, raw_pipe_url
from mirage_cli.media.sound_line import SoundLine
from mirage_cli.pipeline import Channel, Ended

SLICE_SECONDS = 0.25
SAID_SECONDS = 3.0
# A track of sound that ffmpeg found and cannot decode takes the pictures along. Looked for in the reason
# alone: an address may hold these words as well.
_SOUND_FAILED = re.compile(r"(?i)audio|sound|sample rate|channel|decoder")
# That a live stream has no sound is an error to ffmpeg (``raw_pipe``), but not here.
_ERROR = re.compile(r"^(?!\[(?:tee|framehash|s16le) @).*\[(?:error|fatal)\] ")


class _Connection:
    """One ffmpeg that reads the stream, and the thread that takes its pictures.

    Raises:
        MediaError: no picture came within ``timeout_seconds``, or ffmpeg gave up; says why. Or
            ``closed`` was set meanwhile.
    """

    def __init__(
        self,
        tool: FfmpegTool,
        address: Address,
        size: tuple[int, int] | None,
        fps: float | None,
        timeout_seconds: float,
        with_line: bool,
        closed: threading.Event,
    ) -> None:
        self.address = address
        self.sound = SoundLine()  # in the times of the pipe
        self.stalled = False
        # Until they are asked for, when a model has loaded, old ones make room: they would be shown late. A
        # playlist gives seconds of video at once, which are all to be shown.
        self._frames: Channel[tuple[float, np.ndarray]] = Channel(2, newest_wins=not is_playlist(address.url))
        self._begun = threading.Event()
        self._reader: RawPipeReader | None = None
        filters = [f"fps={fps:g}"] if fps and "framerate" not in address.options else []
        scale = f"w={size[0]}:h={size[1]}" if size else "w=iw:h=ih"
        filters += [f"scale={scale}:flags={SCALER}", "format=rgb24"]
        source = ffmpeg.input(address.url, reinit_filter=0, threads=2, **address.options)
        # A picture waits for the next packet of sound at most, some 20 ms.
        tracks, sound = [source["V:0"]], {}
        if with_line:
            tracks, sound = [*tracks, source["a:0?"]], line_options(most_wait_seconds=0.0)
        command = ffmpeg.output(
            *tracks,
            raw_pipe_url(with_line),
            f="tee",
            vf=",".join(filters),
            fps_mode="passthrough",
            avoid_negative_ts="disabled",
            threads=1,  # in threads the rawvideo encoder holds a frame back
            **{"c:v": "rawvideo", "enc_time_base:v": f"1/{TICKS_PER_SECOND}"},
            **sound,
        ).get_args()
        self.process = FfmpegProcess(
            tool, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, level="info", kept_lines=500
        )
        try:
            threading.Thread(target=self._read, name="stream-read", daemon=True).start()
            self._wait_for_picture(timeout_seconds, closed)
        except BaseException:  # Ctrl-C as well: ffmpeg would go on waiting, and keep the port
            self.close()
            raise

    def _wait_for_picture(self, timeout_seconds: float, closed: threading.Event) -> None:
        name = self.address.name
        begun = _wait(lambda seconds: self._begun.wait(seconds) or closed.is_set(), timeout_seconds)
        if closed.is_set():
            raise MediaError(f"{name}: closed while it was opened")
        if not begun:
            what = "no sender connected" if self.address.listens else "no picture came"
            raise MediaError(
                f"{name}: {what} within {timeout_seconds:g} s",
                "Check the address and the sender, or wait longer: --timeout 30",
            )
        if self._reader is None:
            self.process.wait()
            raise MediaError(f"cannot read {name}: {self._failure()}", "Check the address.")

    @property
    def reader(self) -> RawPipeReader:
        assert self._reader is not None
        return self._reader

    def probe(self) -> MediaProbe:
        """What ffmpeg said of the stream; nothing is known of one of which it said nothing."""
        deadline = time.monotonic() + SAID_SECONDS
        text = ""
        # It is said before the first picture, but read by a thread of its own.
        while "\nOutput #0" not in text and time.monotonic() < deadline:
            lines = [re.sub(r"^\[info\] ", "", line) for line in self.process.messages()]
            text = "\n".join(lines)
            time.sleep(0.005)
        try:
            return parse_probe(text.partition("\nOutput #0")[0])
        except StopIteration:
            return MediaProbe("", None, 0.0, None, ())

    def frames(self, timeout_seconds: float) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds, picture) until the stream ends or stalls, which ``stalled`` tells."""
        self._frames.newest_wins = False
        while True:
            got: list[tuple[float, np.ndarray]] = []

            def take(slice_seconds: float) -> bool:
                try:
                    got.append(self._frames.get(slice_seconds))
                except TimeoutError:
                    return False
                return True

            try:
                if not _wait(take, timeout_seconds):
                    self.stalled = True
                    return
            except Ended:
                return
            yield got[0]

    def reason(self, timeout_seconds: float) -> str:
        """Why ``frames`` came to an end."""
        if self.stalled:
            return f"no picture for {timeout_seconds:g} s"
        return self._failure()

    def _failure(self) -> str:
        # Joining in the middle of a stream gives harmless errors first; the last one tells.
        errors = [line for line in self.process.messages() if _ERROR.search(line)]
        message = pick_message(errors) if errors else "the sender ended"
        message = re.sub(r"^Error opening input(?: files?)?: ?", "", message)
        return "the sender ended" if "during demuxing" in message else message.rstrip(".")

    def close(self) -> None:
        self._frames.abandon()
        self.process.stop()

    def _read(self) -> None:
        try:
            with self.process.stdout as pipe:
                file = io.BufferedReader(pipe, 1 << 16)  # type: ignore[type-var]
                reader = RawPipeReader(file, lambda at, samples: self.sound.put(Sound(samples, float(at))))
                while (packet := reader.read_frame()) is not None:
                    self._reader = reader
                    self._begun.set()
                    if not self._frames.put((float(packet[0]), packet[1]))[0]:
                        return
        except (RawPipeError, OSError, ValueError):
            pass  # whoever waits for pictures learns of it, and ffmpeg says why
        finally:
            self._frames.finish()
            self._begun.set()


def _wait(ready: Callable[[float], bool], timeout_seconds: float) -> bool:
    """Calls ``ready`` with small waits until it is true or the time is over.

    Only the time that is waited counts, at most twice a slice each: a laptop that sleeps or a
    process that is stopped for an hour has waited for no picture.
    """
    waited = 0.0
    while waited < timeout_seconds:
        begin = time.monotonic()
        if ready(min(SLICE_SECONDS, timeout_seconds - waited)):
            return True
        waited += min(time.monotonic() - begin, 2 * SLICE_SECONDS)
    return False


class StreamSource:
    """Frames of a network stream or a screen; see ``frames.FrameSource``.

    Args:
        address: from ``stream_address`` or ``screen_address``.
        size: (width, height) to scale to; None keeps that of the first connection.
        fps: resample to this rate.
        timeout_seconds: without a picture for so long, a connection counts as lost.
        attempts: to open it again, in a row; 0 ends at the first loss.
        tell: gets a sentence when the connection is lost or there again.
        with_line: decode the sound as well, into ``sound``.
        clock: seconds, for the times of frames.

    Attributes:
        state: "connected", or what is being done about it.
        sound: what came beside the frames, in their times; None where there is none.
        reconnects: how often the stream was opened again.

    Raises:
        MediaError: the first connection failed; says why. One that listens is tried ``attempts``
            times.
    """

    live = True
    pausing = True  # it keeps its own watch

    def __init__(
        self,
        address: Address,
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        timeout_seconds: float = 10.0,
        attempts: int = 10,
        tell: Callable[[str], None] = lambda text: None,
        with_line: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        tool: FfmpegTool | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self.state, self.reconnects = "connecting", 0
        self._address, self._fps, self._tell, self._clock = address, fps, tell, clock
        self._timeout, self._attempts = timeout_seconds, attempts
        self._with_line = with_line
        self._tool = tool or find_ffmpeg()
        self._closed = threading.Event()
        self._size = size
        if address.listens:
            tell(f"waiting for a sender at {address.name}")
        for attempt in range(1, max(1, attempts if address.listens else 1) + (2 if with_line else 1)):
            try:
                self._connection = self._open()
                break
            except MediaError as error:
                if self._with_line and _SOUND_FAILED.search(self._reason(error)):
                    self._with_line = False
                    self.warnings.append(f"{address.name}: its sound cannot be decoded and is left out")
                    tell(self.warnings[-1])
                elif not address.listens or attempt >= attempts:
                    raise
        reader = self._connection.reader
        try:
            probe = self._connection.probe()
        except BaseException:
            self._connection.close()
            raise
        self._size = (reader.width, reader.height)
        self._matrix = _untagged_hd(probe, reader.height)
        video = probe.video
        rate = fps or (float(video.fps) if video and video.fps else 0.0)
        self.info = StreamInfo(
            width=reader.width,
            height=reader.height,
            fps=rate if 1.0 <= rate <= 1000.0 else 30.0,
            variable_rate=True,
            has_audio=bool(probe.sound_tracks),
            name=address.name,
            pixel_aspect=reader.sample_aspect if size is None else (1, 1),
        )
        self.sound = SoundLine() if reader.sound_rate else None
        self.state = "connected"

    def _open(self) -> _Connection:
        return _Connection(
            self._tool, self._address, self._size, self._fps, self._timeout, self._with_line, self._closed
        )

    def __iter__(self) -> Iterator[Frame]:
        begin: float | None = None
        index, last = 0, -1.0
        while True:
            offset: float | None = None
            for seconds, rgb in self._connection.frames(self._timeout):
                if self._closed.is_set():
                    return
                now = self._clock()
                begin = now if begin is None else begin
                # Times are the sender's; they are tied to our clock once a connection, and again
                # where the sender's jump.
                if offset is None or abs(seconds + offset - (now - begin)) > 2 * self._timeout:
                    offset = now - begin - seconds
                last = max(seconds + offset, last + 1e-4)
                if self.sound is not None:
                    self.sound.move_from(self._connection.sound, offset)
                yield Frame(self._in_colour(rgb), last, index)
                index += 1
            if self._closed.is_set():
                return
            if self.sound is not None and offset is not None:
                self.sound.move_from(self._connection.sound, offset)
            reason = self._connection.reason(self._timeout)
            stalled = self._connection.stalled
            self._connection.close()
            if not self._attempts and not stalled:
                self.state = "ended"
                if self.sound is not None:
                    self.sound.finished = True
                return
            self._again(reason, index)
            if self._closed.is_set():
                return

    def _again(self, reason: str, frames: int) -> None:
        """Open it again, or raise what the user should know."""
        for attempt in range(1, self._attempts + 1):
            self.state = f"{reason}; attempt {attempt} of {self._attempts}"
            self._tell(f"{self._address.name}: {self.state}")
            if self._closed.wait(pause_seconds(attempt)):
                return
            try:
                self._connection = self._open()
            except MediaError as error:
                reason = self._reason(error)
                continue
            if self._closed.is_set():  # ``close`` may have met the old one
                self._connection.close()
                return
            self.state = "connected"
            self.reconnects += 1
            self._tell(f"{self._address.name}: connected again")
            return
        tried = f" and {self._attempts} attempts to reach it again failed" if self._attempts else ""
        raise MediaError(
            f"{self._address.name} was lost after {frames} frames ({reason}){tried}",
            "Check the sender; --reconnect sets the attempts, --timeout how long to wait.",
        )

    def _reason(self, error: MediaError) -> str:
        """Why a connection failed, without the address."""
        reason = error.message.removeprefix("cannot read ").removeprefix(f"{self._address.name}: ")
        return reason.replace(self._address.url, "the address").replace(self._address.name, "the address")

    def _in_colour(self, rgb: np.ndarray) -> np.ndarray:
        return rgb if self._matrix is None else cv2.transform(rgb, self._matrix)

    def close(self) -> None:
        self._closed.set()
        self._connection.close()


# ffmpeg takes untagged video for BT.601; players take that of HD size for BT.709.
def _untagged_hd(probe: MediaProbe, height: int) -> np.ndarray | None:
    """The 3x3 matrix that turns R'G'B' decoded as BT.601 into BT.709's, where it was meant."""
    video = probe.video
    if video is None or video.matrix or not video.pixel_format.startswith(("yuv", "nv")):
        return None
    if not (max(video.width, video.height) > 1024 or min(video.width, video.height) > 576):
        return None

    def to_yuv(red: float, blue: float) -> np.ndarray:
        luma = np.array([red, 1 - red - blue, blue])
        return np.stack([luma, (np.eye(3)[2] - luma) / (2 * (1 - blue)), (np.eye(3)[0] - luma) / (2 * (1 - red))])

    return np.linalg.inv(to_yuv(0.2126, 0.0722)) @ to_yuv(0.299, 0.114)
