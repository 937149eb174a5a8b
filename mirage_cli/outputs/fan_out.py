"""Several outputs at once, of which one may fail without taking the others along."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mirage_cli.errors import MirageError
from mirage_cli.frames import Frame, FrameSink, Sound

SETTLE_SECONDS = 0.5
"""A sink that is inside a ``write`` for longer than this when all are closed is stuck."""


class FanOut(FrameSink):
    """Gives each frame to several sinks, by name; one that fails is left out from then on.

    The run goes on while one of them lives. ``close(commit=True)`` finishes the others, files first,
    and then raises the first error. One that is stuck in a ``write`` meanwhile is discarded.

    Args:
        sinks: by name.
        tell: gets a sentence when one is left out.
        goes_on: whether the run goes on when none is left: for a preview, say.

    Attributes:
        whole: names of those that ``close`` has finished.
    """

    def __init__(
        self,
        sinks: list[tuple[str, FrameSink]],
        tell: Callable[[str], None] = lambda text: None,
        goes_on: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.sinks, self._tell, self._goes_on = sinks, tell, goes_on
        self.whole: list[str] = []
        self._alive = list(sinks)
        self._errors: list[MirageError] = []
        self._turn = threading.Condition()
        self._inside: tuple[str, FrameSink] | None = None
        self._ended = False

    @property
    def warnings(self) -> list[str]:
        return [warning for _, sink in self.sinks for warning in sink.warnings]

    @property
    def pausing(self) -> bool:
        return any(sink.pausing for _, sink in self._alive)

    @property
    def inside(self) -> str:
        """The name of the sink that has a frame in hand; "" where none has."""
        inside = self._inside
        return inside[0] if inside else ""

    @property
    def state(self) -> str:
        """What is being done about connections that are lost; "" where none is."""
        states = [(name, sink.state) for name, sink in list(self._alive)]
        return "; ".join(f"{name}: {state}" for name, state in states if state not in ("", "connected"))

    def write(self, frame: Frame) -> None:
        self._each(lambda sink: sink.write(frame))

    def write_sound(self, sound: Sound) -> None:
        self._each(lambda sink: sink.write_sound(sound))

    def _each(self, work: Callable[[FrameSink], None]) -> None:
        for item in list(self._alive):
            name, sink = item
            with self._turn:
                if self._ended:
                    return
                self._inside = item
            try:
                work(sink)
            except MirageError as error:
                if self._ended:  # it was stuck, and is being discarded by ``close``
                    return
                self._alive.remove(item)
                self._errors.append(error)
                sink.close(commit=False)
                if self._alive or self._goes_on():
                    self._tell(f"{error.message}; {name} is left out, the other outputs go on")
            finally:
                with self._turn:
                    self._inside = None
                    self._turn.notify_all()
        if not self._alive and self._errors and not self._goes_on():
            raise self._errors[-1]

    def close(self, commit: bool = True) -> None:
        with self._turn:
            self._ended = True
            if commit:
                self._turn.wait_for(lambda: self._inside is None, SETTLE_SECONDS)
            stuck = self._inside
        first: Exception | None = self._errors[0] if self._errors else None
        alive, self._alive, self._errors, self.whole = self._alive, [], [], []
        for item in sorted(alive, key=lambda item: (item is stuck, item[1].waits)):
            name, sink = item
            try:
                sink.close(commit and item is not stuck)
                if commit and item is not stuck:
                    self.whole.append(name)
            except Exception as error:
                first = first or error
        if first is not None and commit:
            if isinstance(first, MirageError) and self.whole:
                first.remedy = f"{', '.join(self.whole)}: whole. {first.remedy}"
            raise first
