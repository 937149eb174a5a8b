"""A network output (RTMP, SRT, UDP, TCP, RTSP) that may break: sent from a separate thread, and connected again.

A live run never waits for the network: the newest frame wins, and what cannot be sent in time is dropped.
A job that makes all frames of a file is ``Patient``: it waits. When the connection breaks, or takes nothing
for ``timeout_seconds``, it is opened again after 0.5, 1, 2, 4, 8, 8 ... seconds. Sound is sent along with the
frames, by its own times.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame, FrameSink, Sound, SoundLine
from mirage_cli.media.addresses import pause_seconds
from mirage_cli.pipeline import Channel, Ended

FIRST_SECONDS = 3.0
"""A connection that breaks sooner than this never worked: a wrong address, say."""
LAST_SECONDS = 5.0
"""At the end, what is still queued is sent within this time, or not at all."""
PATIENT_LAST_SECONDS = 20.0
HELD_FRAMES = 8
"""After this many frames ffmpeg knows pictures and sound, and connects."""
SLICE_SECONDS = 0.2
BEHIND_SECONDS = 1.0
"""A job that is later than this is paced from now on: nothing is sent in a burst."""


class Connection(Protocol):
    """A ``FileSink`` to an address; ``kill`` may come from any thread."""

    @property
    def warnings(self) -> list[str]: ...

    @property
    def begun(self) -> bool:
        """The address was reached."""

    @property
    def running(self) -> bool: ...

    def write(self, frame: Frame) -> None: ...

    def write_sound(self, sound: Sound) -> None: ...

    def close(self, commit: bool = True) -> None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Patient:
    """How a job that drops no frame waits for its address.

    Attributes:
        at_its_pace: send no frame before its time: viewers watch while it is made.
        stop: ends the waiting for a connection that is lost.
    """

    at_its_pace: bool = False
    stop: threading.Event = field(default_factory=threading.Event)


class PushSink(FrameSink):
    """Sends frames to an address.

    Args:
        name: of the address, without secrets.
        connect: makes a connection; True stands for one again.
        timeout_seconds: a connection that takes nothing for this long is lost.
        attempts: to connect again, in a row; 0 gives up at the first loss.
        tell: gets a sentence when the connection is lost or there again.
        patient: wait for room and for the connection instead of dropping frames.

    Attributes:
        state: "connected", or what is being done about it.
        pausing: ``write`` may wait, and keeps its own watch.
        waits: it ends only when the other side has taken all.
        reconnects, sent, missed: counted so far; ``missed`` frames came while nothing could be sent.
    """

    waits = True
    state: str = "connected"
    pausing: bool = False

    def __init__(
        self,
        name: str,
        connect: Callable[[bool], Connection],
        *,
        timeout_seconds: float = 10.0,
        attempts: int = 10,
        tell: Callable[[str], None] = lambda text: None,
        patient: Patient | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.pausing = patient is not None
        self.reconnects = self.sent = self.missed = 0
        self._connect, self._timeout, self._attempts = connect, timeout_seconds, attempts
        self._tell, self._patient = tell, patient
        self._frames: Channel[Frame] = Channel(1, newest_wins=patient is None)
        self._sound = SoundLine()
        self._given: deque[Sound] = deque(maxlen=250)  # some five seconds, for a new connection
        self._problem: MediaError | None = None
        self._closing = threading.Event()
        self._busy_since: float | None = None
        self._zero_seconds: float | None = None
        self._reached_at: float | None = None
        self._connection: Connection | None = connect(False)
        self.warnings.extend(self._connection.warnings)
        self._thread = threading.Thread(target=self._run, name="mirage-push", daemon=True)
        self._thread.start()

    def write(self, frame: Frame) -> None:
        """Takes one frame; waits only if ``patient``.

        Raises:
            MediaError: the address is lost for good.
        """
        while True:
            if self._problem is not None:
                raise self._problem
            self._kill_what_is_stuck()
            try:
                taken, thrown = self._frames.put(frame, SLICE_SECONDS)
            except TimeoutError:
                if not self._given_up():
                    continue
                taken, thrown = True, 1
            self.missed += thrown
            if taken or self._problem is None:
                return

    def write_sound(self, sound: Sound) -> None:
        """Takes sound, which is sent with the next frame."""
        self._sound.put(sound)

    def close(self, commit: bool = True) -> None:
        """Sends what is on the way, and ends the connection."""
        if self._closing.is_set():
            return
        if not commit:
            self._closing.set()
            self._frames.abandon()
        self._frames.finish()
        begin = time.monotonic()
        while self._thread.is_alive() and not self._too_late(time.monotonic() - begin):
            self._thread.join(SLICE_SECONDS)
            self._kill_what_is_stuck()
        self._closing.set()
        connection = self._connection
        if self._thread.is_alive() and connection is not None:
            connection.kill()
            self._thread.join(LAST_SECONDS)
        if self.reconnects or self.missed:
            self.warnings.append(f"{self.name}: connected again {self.reconnects} times, {self.missed} frames not sent")
        if commit and self._problem is not None:
            raise self._problem

    def _too_late(self, seconds: float) -> bool:
        """Whether the end is not waited for any more."""
        if self._patient is None or self._closing.is_set():
            return seconds > LAST_SECONDS
        if self.state != "connected":  # the attempts are counted
            return self._given_up()
        return seconds > PATIENT_LAST_SECONDS

    def _given_up(self) -> bool:
        return self._patient is not None and self._patient.stop.is_set() and self.state != "connected"

    def _kill_what_is_stuck(self) -> None:
        busy, connection = self._busy_since, self._connection
        if busy is not None and connection is not None and time.monotonic() - busy > self._timeout:
            self._busy_since = None
            connection.kill()  # its write fails, which wakes the thread that is stuck in it

    def _run(self) -> None:
        try:
            while True:
                frame = self._frames.get()
                self._keep_pace(frame)
                try:
                    self._send(frame)
                except (MediaError, ValueError, OSError) as error:
                    self._again(error, frame)
        except Ended:
            self._end()
        except MediaError as error:
            self._problem = error
            self._frames.abandon()
            self.state = "lost"

    def _send(self, frame: Frame) -> None:
        assert self._connection is not None
        self._busy_since = time.monotonic()
        try:
            for sound in self._sound.take():
                self._given.append(sound)
                self._connection.write_sound(sound)
            self._connection.write(frame)
        finally:
            self._busy_since = None
        self._look_whether_it_is_reached()
        self.sent += 1

    def _look_whether_it_is_reached(self) -> None:
        if self._reached_at is None and self._connection is not None and self._connection.begun:
            self._reached_at = time.monotonic()

    def _keep_pace(self, frame: Frame) -> None:
        """Waits for the frame's time."""
        if self._patient is None or not self._patient.at_its_pace:
            return
        zero = time.monotonic() - frame.pts_seconds
        if self._zero_seconds is None or zero - self._zero_seconds > BEHIND_SECONDS:
            self._zero_seconds = zero
        self._closing.wait(max(0.0, self._zero_seconds - zero))

    def _again(self, error: Exception, frame: Frame) -> None:
        """Connect again, or raise what the user should know.

        Args:
            frame: the one that was not taken; a patient job sends it again.
        """
        assert self._connection is not None
        self._look_whether_it_is_reached()
        self._connection.close(commit=False)
        reason = _reason(error)
        if self._never_there() or not self._attempts:
            raise MediaError(f"cannot send to {self.name}: {reason}", "Check the address and the server.") from None
        held = [frame]
        for attempt in range(1, self._attempts + 1):
            self.state = f"{reason}; attempt {attempt} of {self._attempts}"
            self._tell(f"{self.name}: {self.state}")
            if self._rest(pause_seconds(attempt)):
                raise Ended
            self._zero_seconds = None
            if self._patient is None:
                held.clear()
            try:
                self._connection = self._connect(True)
                for sound in self._given:
                    self._connection.write_sound(sound)
                for frame in held:
                    self._send(frame)
                self._prove(held)
            except (MediaError, ValueError, OSError) as problem:
                self._busy_since = None
                self._connection.close(commit=False)
                reason = _reason(problem)
                continue
            self.reconnects += 1
            self.state = "connected"
            self._tell(f"{self.name}: connected again")
            return
        raise MediaError(
            f"{self.name} was lost ({reason}) and {self._attempts} attempts to reach it again failed",
            "Check the server; --reconnect sets the attempts.",
        )

    def _prove(self, held: list[Frame]) -> None:
        """Sends frames until the address is reached: ffmpeg connects when it knows what it gets.

        Args:
            held: frames sent so far; a patient job keeps them, to send them again to the next one.

        Raises:
            MediaError: it is not reached. Ended: the sink was closed meanwhile, or the end is sent.
        """
        connection = self._connection
        assert connection is not None
        begin, ended = time.monotonic(), False
        while not (held and connection.begun):
            if self._rest(0.02):
                raise Ended
            if time.monotonic() - begin > self._timeout:
                raise MediaError(f"it: no answer within {self._timeout:g} s")
            if ended or not connection.running:
                self._busy_since = time.monotonic()
                connection.close(commit=True)  # or it says why it could not
                if not ended:
                    raise MediaError("it: ended by itself")
                self._busy_since, self._connection = None, None
                self.reconnects += 1
                raise Ended
            if len(held) >= HELD_FRAMES and self._patient is not None:
                continue
            try:
                held.append(self._frames.get(SLICE_SECONDS))
            except TimeoutError:
                continue
            except Ended:
                ended = True
                continue
            self._send(held[-1])
            del held[:-HELD_FRAMES]

    def _never_there(self) -> bool:
        """Whether the first connection never worked, as with a wrong address."""
        if self.reconnects:
            return False
        return self._reached_at is None or time.monotonic() - self._reached_at < FIRST_SECONDS

    def _rest(self, seconds: float) -> bool:
        """Waits; True when the sink was closed or given up meanwhile."""
        end = time.monotonic() + seconds
        while not self._closing.wait(max(0.0, min(SLICE_SECONDS, end - time.monotonic()))):
            if self._given_up():
                return True
            if time.monotonic() >= end:
                return False
        return True

    def _end(self) -> None:
        if self._connection is None:
            return
        self._busy_since = time.monotonic()
        try:
            if not self._closing.is_set():
                for sound in self._sound.take():  # what is longer than the pictures
                    self._connection.write_sound(sound)
            self._connection.close(commit=not self._closing.is_set() and self.sent > 0)
        except (MediaError, ValueError, OSError) as error:
            if self._closing.is_set():
                return
            if self._never_there():
                self._problem = MediaError(
                    f"cannot send to {self.name}: {_reason(error)}", "Check the address and the server."
                )
            elif self._patient is not None:
                self._problem = MediaError(
                    f"{self.name} was lost ({_reason(error)}) before the end was sent", "Check the server."
                )
            else:
                self.warnings.append(f"{self.name}: the end was not sent ({_reason(error)})")


def _reason(error: Exception) -> str:
    text = str(error)
    text = re.sub(r"Error opening output \S+: ", "", text.partition(": ")[2] or text)
    return re.sub(r"\b(?:rtmps?|rtsps?|srt|https?)://\S+", "the address", text)  # it may hold a stream key
