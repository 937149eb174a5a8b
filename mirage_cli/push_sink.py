"""A network output that may break: sent from a thread of its own, and connected again.

The run never waits for the network: the newest frame wins, and what cannot be sent in time is not
sent. When the connection breaks, or takes nothing for ``timeout_seconds``, it is made anew after
0.5, 1, 2, 4, 8, 8 ... seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from mirage_cli.errors import MediaError
from mirage_cli.frames import Frame
from mirage_cli.pipeline import Channel, Ended
from mirage_cli.stream_in import pause_seconds

FIRST_SECONDS = 3.0
"""A connection that breaks sooner than this was never there: a wrong address, say."""
LAST_SECONDS = 5.0
"""What is on the way at the end is sent in this time, or not at all."""


class Connection(Protocol):
    """A ``FileSink`` to an address; ``kill`` may come from any thread."""

    def write(self, frame: Frame) -> None: ...

    def close(self, commit: bool = True) -> None: ...

    def kill(self) -> None: ...


class PushSink:
    """Sends frames to an address; see ``frames.FrameSink``.

    Args:
        name: of the address, without secrets.
        connect: makes a connection.
        timeout_seconds: a connection that takes nothing for so long is lost.
        attempts: to connect again, in a row; 0 gives up at the first loss.
        tell: gets a sentence when the connection is lost or there again.

    Attributes:
        state: "connected", or what is being done about it.
        reconnects, sent, missed: counted so far; ``missed`` frames came while nothing could be sent.
    """

    def __init__(
        self, name: str, connect: Callable[[], Connection], *, timeout_seconds: float = 10.0,
        attempts: int = 10, tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name, self.warnings = name, []
        self.state = "connected"
        self.reconnects = self.sent = self.missed = 0
        self._connect, self._timeout, self._attempts = connect, timeout_seconds, attempts
        self._tell = tell
        self._frames: Channel[Frame] = Channel(1, newest_wins=True)
        self._problem: MediaError | None = None
        self._closing = threading.Event()
        self._busy_since: float | None = None
        self._connection: Connection | None = connect()
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mirage-push", daemon=True)
        self._thread.start()

    def write(self, frame: Frame) -> None:
        """Takes one frame; never waits.

        Raises:
            MediaError: the address is lost for good.
        """
        if self._problem is not None:
            raise self._problem
        busy, connection = self._busy_since, self._connection
        if busy is not None and connection is not None and time.monotonic() - busy > self._timeout:
            self._busy_since = None
            connection.kill()  # the thread that is stuck in it learns so
        self.missed += self._frames.put(frame)[1]

    def close(self, commit: bool = True) -> None:
        """Sends what is on the way, and ends the connection."""
        if self._closing.is_set():
            return
        if not commit:
            self._closing.set()
            self._frames.abandon()
        self._frames.finish()
        self._thread.join(LAST_SECONDS)
        self._closing.set()
        connection = self._connection
        if self._thread.is_alive() and connection is not None:
            connection.kill()
            self._thread.join(LAST_SECONDS)
        if self.reconnects or self.missed:
            self.warnings.append(
                f"{self.name}: connected again {self.reconnects} times, {self.missed} frames not sent"
            )
        if commit and self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        try:
            while True:
                frame = self._frames.get()
                assert self._connection is not None
                try:
                    self._busy_since = time.monotonic()
                    self._connection.write(frame)
                    self._busy_since = None
                    self.sent += 1
                except (MediaError, ValueError, OSError) as error:
                    self._busy_since = None
                    self._again(error)
        except Ended:
            self._end()
        except MediaError as error:
            self._problem = error
            self._frames.abandon()
            self.state = "lost"

    def _again(self, error: Exception) -> None:
        """Connect again, or raise what the user should know."""
        assert self._connection is not None
        self._connection.close(commit=False)
        reason = _reason(error)
        early = not self.reconnects and time.monotonic() - self._since < FIRST_SECONDS
        if early or not self._attempts:
            raise MediaError(
                f"cannot send to {self.name}: {reason}", "Check the address and the server."
            ) from None
        for attempt in range(1, self._attempts + 1):
            self.state = f"{reason}; attempt {attempt} of {self._attempts}"
            self._tell(f"{self.name}: {self.state}")
            if self._closing.wait(pause_seconds(attempt)):
                raise Ended
            try:
                self._connection = connection = self._connect()
                # It is there when it has taken a frame and lives on.
                connection.write(self._frames.get())
                if self._closing.wait(0.3):
                    raise Ended
                connection.write(self._frames.get())
            except (MediaError, ValueError, OSError) as problem:
                self._connection.close(commit=False)
                reason = _reason(problem)
                continue
            self.sent += 2
            self.reconnects += 1
            self.state = "connected"
            self._tell(f"{self.name}: connected again")
            return
        raise MediaError(
            f"{self.name} was lost ({reason}) and {self._attempts} attempts to reach it again failed",
            "Check the server; --reconnect sets the attempts.",
        )

    def _end(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.close(commit=not self._closing.is_set() and self.sent > 0)
        except (MediaError, ValueError, OSError) as error:
            if not self._closing.is_set():
                early = not self.reconnects and time.monotonic() - self._since < FIRST_SECONDS
                if early:
                    self._problem = MediaError(
                        f"cannot send to {self.name}: {_reason(error)}",
                        "Check the address and the server.",
                    )
                else:
                    self.warnings.append(f"{self.name}: the end was not sent ({_reason(error)})")


def _reason(error: Exception) -> str:
    text = str(error)
    return text.partition(": ")[2] or text
