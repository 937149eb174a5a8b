"""Time that passes only while every thread of a pipeline waits: what takes 20 ms takes exactly 20 ms, at once."""

from __future__ import annotations

import heapq
import itertools
import threading
from types import SimpleNamespace

from mirage_cli import pipeline


class VirtualTime:
    """A clock, a ``sleep``, and stand-ins for ``threading.Condition`` and ``Thread`` in ``pipeline``.

    A thread is at work, or waits in ``sleep`` or for a condition. When the last one at work begins to wait, the clock
    jumps to the moment when the first sleeper wakes.

    Args:
        monkeypatch: puts the stand-ins into ``pipeline`` until the test ends.
        threads: of the pipeline; time stands still until all are there.
    """

    def __init__(self, monkeypatch, threads: int = 3) -> None:
        self.now = 0.0
        self._lock = threading.Lock()
        self._at_work = threads
        self._sleepers: list[tuple[float, int, threading.Event]] = []
        self._count = itertools.count()
        stand_ins = SimpleNamespace(
            Condition=lambda: _Condition(self), Thread=self._thread, Lock=threading.Lock, Event=threading.Event
        )
        monkeypatch.setattr(pipeline, "threading", stand_ins)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        woken = threading.Event()
        with self._lock:
            heapq.heappush(self._sleepers, (self.now + seconds, next(self._count), woken))
        self.wait(woken)

    def wait(self, woken: threading.Event) -> None:
        """Wait for an event that ``sleep`` or ``wake`` sets."""
        self._leave_work()
        woken.wait()

    def wake(self, woken: threading.Event) -> None:
        """Let a waiting thread go on; it is at work from this moment."""
        with self._lock:
            self._at_work += 1
        woken.set()

    def _leave_work(self) -> None:
        with self._lock:
            self._at_work -= 1
            if self._at_work or not self._sleepers:
                return
            self.now, _, woken = heapq.heappop(self._sleepers)
            self._at_work += 1
        woken.set()

    def _thread(self, *, target, args, **options) -> threading.Thread:
        def work() -> None:
            try:
                target(*args)
            finally:
                self._leave_work()

        return threading.Thread(target=work, **options)


class _Condition:
    """``threading.Condition`` whose waiting threads are not at work."""

    def __init__(self, time: VirtualTime) -> None:
        self._time, self._lock = time, threading.Lock()
        self._waiting: list[threading.Event] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is None, "a pipeline's channels wait without limit"
        woken = threading.Event()
        self._waiting.append(woken)
        self._lock.release()
        self._time.wait(woken)
        self._lock.acquire()
        return True

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for woken in waiting:
            self._time.wake(woken)
