"""Lines typed while a stream runs: a terminal read key by key, or the lines of a pipe."""

from __future__ import annotations

import codecs
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any

_POLL_SECONDS = 0.1


class LineReader:
    """Reads standard input in a thread and hands over whole lines.

    On a terminal the keys are taken one by one without echo (``typed`` is the line so far, for the
    dashboard to show) and Ctrl-C still is a signal; Backspace, Ctrl-U (whole line), Ctrl-W (word)
    and Escape (whole line) edit. A pipe or file is read line by line; its end ends only the reader.

    Args:
        on_line: gets each line, without its end, in the reader's thread.
        descriptor: of the input; 0 is standard input.
    """

    def __init__(self, on_line: Callable[[str], None], descriptor: int = 0) -> None:
        self._on_line, self._descriptor = on_line, descriptor
        self._buffer = ""
        self._stop = threading.Event()
        self._saved: Any = None
        self._escape = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.terminal = False
        self._thread: threading.Thread | None = None

    @property
    def typed(self) -> str | None:
        """The unfinished line; None without a terminal to type at."""
        return self._buffer if self.terminal else None

    def start(self) -> LineReader:
        """Begin to read; does nothing where standard input is closed or belongs to another job."""
        try:
            self.terminal = os.isatty(self._descriptor) and self._in_foreground()
            if os.isatty(self._descriptor) and not self.terminal:
                return self
            if self.terminal:
                self._saved = _keys_one_by_one(self._descriptor)
                self.terminal = self._saved is not None
            os.fstat(self._descriptor)
        except OSError:
            return self
        self._thread = threading.Thread(target=self._read, name="mirage-keys", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread and give the terminal back as it was."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)
        if self._saved is not None:
            import termios

            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
            self._saved = None

    def _in_foreground(self) -> bool:
        if sys.platform == "win32":
            return True
        return os.tcgetpgrp(self._descriptor) == os.getpgrp()

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                ready, _, _ = select.select([self._descriptor], [], [], _POLL_SECONDS)
                if not ready:
                    continue
                data = os.read(self._descriptor, 1024)
            except (OSError, ValueError):
                return
            text = self._decoder.decode(data, final=not data)
            for key in text:
                self._key(key)
            if not data:
                if not self.terminal and self._buffer:
                    self._line()
                return

    def _line(self) -> None:
        line, self._buffer = self._buffer, ""
        self._on_line(line.strip())

    def _key(self, key: str) -> None:
        if key in "\r\n":
            self._line()
        elif not self.terminal:
            self._buffer += key
        elif self._escape:  # inside the code of an arrow or function key: ESC [ ... letter
            if self._escape == 1 and key not in "[O":
                self._escape = 0
                self._key(key)
            else:
                self._escape = 0 if self._escape == 2 and (key.isalpha() or key == "~") else 2
        elif key == "\x1b":
            self._buffer, self._escape = "", 1
        elif key in "\x7f\b":
            self._buffer = self._buffer[:-1]
        elif key == "\x15":
            self._buffer = ""
        elif key == "\x17":
            kept = self._buffer.rstrip()
            self._buffer = kept[: kept.rfind(" ") + 1]
        elif key == "\x04" and not self._buffer:
            self._on_line("q")
        elif key.isprintable():
            self._buffer = (self._buffer + key)[:500]


def _keys_one_by_one(descriptor: int) -> Any:
    """Set the terminal to give each key at once and not to echo; returns what it was before."""
    try:
        import termios
        import tty
    except ImportError:  # Windows: lines come when Enter is pressed
        return None
    saved = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSADRAIN)
    return saved
