"""``python -m mirage_cli`` is ``mirage``."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirage_cli.commands.terminal import Call


def run(call: Call | None = None) -> int:
    """Import the command line and run it; Ctrl-C and SIGTERM never end in a traceback, however early or late.

    Args:
        call: as in ``cli.main``.
    """
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to clean up yet
    from mirage_cli.cli import main

    if listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt too, hence 130
    try:
        return main(call=call)
    finally:
        # The work is done and reported; a signal must not disturb Python's own end.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(run())
