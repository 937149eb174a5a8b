"""End a run early: by a signal, by q, by a closed window, or when its time is up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


class StopSwitch:
    """Ends a run: by Ctrl-C or SIGTERM, by q, by a closed window, or when its time is up.

    While ``graceful`` is set (there is a file to finish) the first signal asks the run to finish it;
    at any other time, and at the second signal, it is a KeyboardInterrupt. A closing terminal may send
    several signals at once, so a second SIGHUP, and any signal within ``TOGETHER_SECONDS``, does not count.
    """

    TOGETHER_SECONDS = 0.2

    def __init__(self) -> None:
        self.event = threading.Event()
        self.reason = ""
        self.graceful = False
        self._first_signal: float | None = None

    def stop(self, reason: str) -> None:
        """Ask the run to end; the first reason stands."""
        if not self.event.is_set():
            self.reason = reason
            self.event.set()

    @property
    def by_signal(self) -> bool:
        """A signal asked, not the user's q or the end of the time."""
        return self.reason.startswith("SIG")

    @contextlib.contextmanager
    def finishing(self) -> Iterator[Callable[[], bool]]:
        """While in the block the first signal only asks; yields the question whether one came."""
        self.graceful = True
        try:
            yield self.event.is_set
        finally:
            self.graceful = False

    @contextlib.contextmanager
    def signals(self) -> Iterator[StopSwitch]:
        """Take SIGINT, SIGTERM and SIGHUP while in the block (main thread only)."""

        def received(number: int, _frame: Any) -> None:
            now = time.monotonic()
            first, self._first_signal = self._first_signal, self._first_signal or now
            name = signal.Signals(number).name
            self.stop(name)
            insists = first is not None and now - first > self.TOGETHER_SECONDS
            if not self.graceful or (insists and name != "SIGHUP"):
                raise KeyboardInterrupt

        old = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # A signal ignored from outside (nohup) stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                old[number] = signal.signal(number, received)
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
